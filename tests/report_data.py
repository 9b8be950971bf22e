"""Hand-made results and a hand-made archive: what the report and the findings are tested against."""

from types import SimpleNamespace

import numpy as np
import xarray as xr

STEPS = np.array([0, 10, 40, 100])
LAYERS = ["0", "2", "all"]


class MadeResults(dict):
    """Results as `analyze.run` returns them, as far as the report looks."""

    def __init__(self, datasets, skipped=None):
        super().__init__(datasets)
        self.skipped = skipped or {}


def series(values, **labels):
    """A variable over `step`, repeated along the labelled dimensions."""
    data = np.asarray(values, float)
    dims, coords = ["step"], {"step": STEPS}
    for dim, names in labels.items():
        data = np.repeat(data[..., None], len(names), axis=-1)
        dims.append(dim)
        coords[dim] = names
    return xr.DataArray(data, dims=dims, coords=coords)


def generalization(train, test):
    error = xr.concat([series(train), series(test)], dim=xr.IndexVariable("probe", ["train", "test"]))
    error = error.transpose("step", "probe")
    gap = error.sel(probe="test") - error.sel(probe="train")
    values = {
        "error": error,
        "loss": error * 2,
        "loss_error": error * 0 + 0.01,
        "gap_error": gap,
        "gap_loss": gap * 2,
    }
    n = xr.DataArray([512, 1000], dims="probe", coords={"probe": error["probe"]})
    counts = {"n_examples": n, "n_classified": n.expand_dims(step=error["step"])}
    return xr.Dataset(values | counts)


def stiffness(train, cross):
    pairs = xr.IndexVariable("pair", ["train-train", "test-test", "train-test"])
    parts = [series(values, layer=LAYERS) for values in (train, train, cross)]
    cosine = xr.concat(parts, dim=pairs).transpose("step", "pair", "layer")
    n_undefined = xr.zeros_like(cosine).astype(np.int64)
    n_pairs = xr.DataArray([8128, 8128, 16384], dims="pair", coords={"pair": pairs})
    values = {"cosine": cosine, "sign": cosine, "cosine_error": xr.zeros_like(cosine) + 0.005}
    return xr.Dataset(values | {"n_undefined": n_undefined, "n_pairs": n_pairs})


def class_stiffness(within, between):
    return xr.Dataset(
        {"cosine_within": series(within, layer=LAYERS), "cosine_between": series(between, layer=LAYERS)},
        coords={"label": np.arange(10)},
    )


def paths(values):
    return xr.Dataset({"mean": series(values, probe=["train", "test"], site=["1", "3"])})


def cna(values):
    return xr.Dataset({"pearson": series(values, probe=["train", "test"])})


def margin(values):
    return xr.Dataset({"gamma": series(values, probe=["train", "test"])})


def honest():
    """Results of a run that generalizes."""
    nan = np.nan
    return MadeResults(
        {
            "generalization": generalization([0.9, 0.3, 0.05, 0.0], [0.9, 0.32, 0.08, 0.03]),
            "stiffness": stiffness([0.9, 0.4, 0.2, 0.1], [0.9, 0.4, 0.2, 0.08]),
            "class_stiffness": class_stiffness([0.9, 0.8, 0.6, 0.5], [0.3, 0.1, 0.0, -0.1]),
            "path_self_similarity": paths([nan, 0.8, 0.95, 0.99]),
            "cna": cna([0.1, 0.2, 0.3, 0.4]),
            "margin": margin([-2.0, -0.5, 0.5, 3.5]),
        },
        skipped={"depth_slope": "the archive holds no sums; record streams sums"},
    )


def by_heart():
    """Results of a run that has learned shuffled labels."""
    return MadeResults(
        honest()
        | {
            "generalization": generalization([0.9, 0.8, 0.4, 0.01], [0.9, 0.9, 0.91, 0.9]),
            "stiffness": stiffness([0.9, 0.2, 0.05, 0.01], [0.9, 0.2, 0.0, -0.2]),
            "margin": margin([-2.0, -1.5, -1.0, -0.5]),
        }
    )


def archive(tmp_path, layer="0"):
    """What the report reads of an archive, with a directory of one small file."""
    root = tmp_path / "mlp.zarr"
    root.mkdir(exist_ok=True)
    (root / "zarr.json").write_text("{}")
    n = 101
    loss = np.concatenate([[np.nan], np.linspace(2.3, 0.1, n - 1)])
    rows = {
        "step": np.arange(n),
        "loss": loss,
        "time": np.arange(n) * 0.5,
        "lr": np.full((n, 1), 0.1),
        "epoch": (np.arange(n) + 49) // 50,
    }
    targets = np.arange(6) % 3
    probe = SimpleNamespace(name="train", split="train", n=6, targets=targets, capture={"outputs": 6})
    return SimpleNamespace(
        path=str(root),
        state="complete",
        world_size=1,
        run_id="0" * 32,
        digest="ab" * 16,
        card={
            "model": {"class": "torch.nn.modules.container.Sequential", "n_parameters": 30},
            "optimizer": {"class": "torch.optim.sgd.SGD"},
            "loss": "cross_entropy",
        },
        attributes={"created_at": "2026-01-01T00:00:00+00:00", "creation_library_version": "0.1.0"},
        rows=rows,
        epoch_ends=np.array([50, 100]),
        snapshots=STEPS,
        sites=["1", "3"],
        calls=["0", "2"],
        tensors=[
            {"name": "0.weight", "kind": "parameter", "shape": [4, 6]},
            {"name": "0.bias", "kind": "parameter", "shape": [6]},
        ],
        layer_table=[{"name": layer, "parameters": ["0.weight", "0.bias"]}],
        probes={"train": probe},
        _source=SimpleNamespace(
            store=SimpleNamespace(folder=str(root), files=lambda: None),
            has=lambda path: True,
            shape=lambda path: (6, 1, 8, 8),
            group_attributes=lambda path: {},
            children=lambda path: [],
        ),
        gram_probes=[("train", 6)],
        steps=lambda stream, probe=None: STEPS if stream in ("outputs", "weights") else STEPS[:0],
    )
