"""Archives that lack something are analyzed to what they support: a report, findings, exit 0, and true sentences."""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from click.testing import CliRunner
from torch import nn

import analyze
import cli
import tracer
from analyze.findings import generalization
from tests.loops import blobs, mlp

X, Y = blobs(24)
SUMS = X.sum(1, keepdim=True)


class Branching(nn.Module):
    """Cannot be traced."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return self.inner(x) if x.mean() > 0 else self.inner(-x)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = mlp(), nn.Linear(6, 3)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


def regressor():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))


def halves(x=X, y=Y, names=("train", "test"), **options):
    cut = {"train": slice(12), "test": slice(12, None)}
    return {
        name: tracer.Probe(
            {key: value[index] for key, value in x.items()} if isinstance(x, dict) else x[index],
            y[index],
            **options,
        )
        for name, index in zip(names, cut.values(), strict=True)
    }


NONE = {"outputs": 0, "masks": 0, "sums": 0, "gradients": 0}
PAIR = {"left": X, "right": X.flip(0)}
# what is recorded, and what is said of metrics that are left out
CASES = {
    "no probes": ({}, "record one with probes="),
    "outputs alone": (
        {"probes": halves(capture={**NONE, "outputs": None}), "gradients": "none"},
        "needs `masks` of a probe",
    ),
    "all streams off": ({"probes": halves(capture=NONE), "gradients": "none"}, "needs `outputs` of a probe"),
    "an eager network": ({"model": Branching, "probes": halves()}, "tracer analyze --model"),
    "other splits": ({"probes": halves(names=("calibration", "shifted"))}, "needs a probe of split 'train'"),
    "regression": ({"model": regressor, "y": SUMS, "loss": F.mse_loss, "probes": halves(y=SUMS)}, "mse_loss"),
    "several inputs": ({"model": Two, "x": PAIR, "probes": halves(x=PAIR)}, "inputs are not one tensor"),
}


def record(path, model=mlp, x=X, y=Y, loss=F.cross_entropy, probes=None, **options):
    torch.manual_seed(0)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with tracer.record(path, net, optimizer, loss=loss, probes=probes or {}, **options) as run:
        for _ in range(2):
            for start in (0, 8, 16):
                index = slice(start, start + 8)
                batch = {key: value[index] for key, value in x.items()} if isinstance(x, dict) else x[index]
                value = loss(net(**batch) if isinstance(batch, dict) else net(batch), y[index])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                run.step(ids=range(start, start + 8), loss=value)
            run.end_epoch()


@pytest.mark.filterwarnings("ignore::tracer.RecordWarning")
def test_metrics_of_weights_need_neither_probes_nor_a_network(tmp_path):
    names = ("layer_norms", "spectral_power_law", "trajectory_dimension")
    record(tmp_path / "bare.zarr")
    record(tmp_path / "probed.zarr", probes=halves())
    bare, probed = (analyze.run(tmp_path / f"{name}.zarr", names) for name in ("bare", "probed"))
    for name in ("frobenius", "nuclear", "distance_from_init"):
        xr.testing.assert_equal(bare["layer_norms"][name], probed["layer_norms"][name])
    assert np.isnan(bare["layer_norms"]["spectral_exact"]).all()
    xr.testing.assert_equal(bare["trajectory_dimension"], probed["trajectory_dimension"])
    with pytest.raises(tracer.TracerError, match="needs a probe, of which the archive has none; record one"):
        analyze.run(tmp_path / "bare.zarr", ["sharpness"])
    for name in ("prediction_depth", "complexity"):  # of other results and of arrays: told once
        with pytest.raises(
            tracer.TracerError, match=r"needs a probe, of which .* none; record one"
        ) as raised:
            analyze.run(tmp_path / "bare.zarr", [name])
        assert str(raised.value).count("needs a probe") == 1


def test_activations_of_several_inputs_are_computed_again(tmp_path):
    for name, capture in (("lacking", None), ("recorded", {"activations": None})):
        record(tmp_path / f"{name}.zarr", Two, PAIR, probes=halves(PAIR, capture=capture))
    again, recorded = (
        analyze.run(tmp_path / f"{name}.zarr", ["cka"])["cka"] for name in ("lacking", "recorded")
    )
    steps = again["step"][again["to_first"].notnull().any(["probe", "site"])]
    assert len(steps) > 1
    xr.testing.assert_allclose(again["to_first"].sel(step=steps), recorded["to_first"].sel(step=steps))
    with pytest.raises(tracer.TracerError, match="inputs are 2 tensors an example, and this needs one"):
        analyze.run(tmp_path / "lacking.zarr", ["complexity"])


@pytest.mark.filterwarnings("ignore::tracer.RecordWarning")
def test_a_model_is_asked_for_where_it_helps(tmp_path):
    record(tmp_path / "run.zarr", Branching, probes=halves())
    for name in ("cka", "sharpness"):
        with pytest.raises(tracer.TracerError, match="tracer analyze --model"):
            analyze.run(tmp_path / "run.zarr", [name])


def test_splits_of_other_names_are_noted(tmp_path):
    record(tmp_path / "run.zarr", probes=halves(names=("seen", "unseen")))
    (note,) = tracer.open(tmp_path / "run.zarr").attributes["notes"]
    assert "'seen' and 'unseen'" in note and "split='train'" in note
    (finding,) = generalization.outcome(
        analyze.run(tmp_path / "run.zarr", ["generalization"]), {}
    ).sentence.split(". ")[:1]
    assert re.search(
        r"% \([\d.]+% to [\d.]+%\) of 12 examples of 'seen' and .* of 12 examples of 'unseen' wrong", finding
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tracer.RecordWarning")
@pytest.mark.parametrize("name", CASES)
def test_what_an_archive_supports_is_computed(tmp_path, name):
    options, said = CASES[name]
    path, out = tmp_path / "run.zarr", tmp_path / "run.analysis"
    record(path, **options)
    result = CliRunner().invoke(cli.main, ["analyze", str(path), "-o", str(out), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "unexpected" not in result.output and "Traceback" not in result.output
    page = (out / "report.html").read_text(encoding="utf-8")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    told = page + json.dumps(summary) + result.output
    assert re.sub(r"\s+", " ", said) in re.sub(r"\s+", " ", told.replace("&#39;", "'").replace("&#x27;", "'"))
    figures = {figure.stem for figure in (out / "figures").glob("*.svg")}
    assert figures <= set(summary["metrics"])


def test_a_network_without_parameters_has_no_landscape_and_says_so(tmp_path):
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    probes = halves(torch.rand(24, 3), Y)
    run = tracer.record(
        tmp_path / "run.zarr", nn.Sequential(), optimizer, loss=F.cross_entropy, probes=probes
    )
    with pytest.warns(tracer.RecordWarning, match="none of the parameters"), run:
        run.step(ids=range(24))
    for name in ("expected_sharpness", "cna_landscape"):
        with pytest.raises(tracer.MissingTraceError, match="needs parameters that are trained"):
            analyze.run(tmp_path / "run.zarr", [name])
    results = analyze.run(tmp_path / "run.zarr", ["margin", "layer_margin", "image_functions"])
    assert len(results) == 3 and np.isnan(results["image_functions"]["reconstruction_error"]).all()
