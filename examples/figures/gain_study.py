"""The small networks that the figures about many networks share, recorded and analyzed once.

Nine architectures on four data sets with true labels, one of them noise; and MLPs on three of these with 10 to 50 % of
the training labels shuffled, each with one of five shares that takes turns over the seeds: 54 networks a seed. All are
trained until the mean loss of an epoch is 0.05, so that they can be compared by how they generalize. A correlation over
the networks of one seed is one value; its spread over seeds leaves these architectures and data sets as they are.
"""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from shared import Data, Result, Run, cnn, fit, load, mlp
from torch import nn

import analyze
import tracer

TRUE = ("mnist", "digits", "cifar10", "noise")
LEARNABLE = TRUE[:3]
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
METRICS = ("generalization", "cna", "cna_area", "cna_margin", "margin", "capacity")
READINGS = ("absolute", "lobe", "polygon")
NORMS = ("l2", "spectral", "l1_path", "l2_path")
NETWORKS: dict[str, tuple[int, ...]] = {
    "mlp-64-2": (64,) * 2,
    "mlp-128-2": (128,) * 2,
    "mlp-256-2": (256,) * 2,
    "mlp-128-3": (128,) * 3,
    "mlp-64-4": (64,) * 4,
    "mlp-256-4": (256,) * 4,
    "cnn-8-3": (8, 16, 32),
    "cnn-12-3": (12, 24, 48),
    "cnn-16-3": (16, 32, 64),
}


def chosen(run: Run, seed: int) -> list[tuple[str, str, float]]:
    """Data set, network and share of labels shuffled, of every network of one seed."""
    names = run.pick(quick=("mlp-64-2", "cnn-8-3"), gallery=tuple(NETWORKS), full=tuple(NETWORKS))
    # Convolutions take longest to learn random labels.
    again = [name for name in names if name.startswith("mlp") or run.scale != "gallery"]
    shuffled = enumerate(product(LEARNABLE, again))
    return [
        *((data, name, 0.0) for data, name in product(TRUE, names)),
        *((data, name, SHARES[(k + seed) % len(SHARES)]) for k, (data, name) in shuffled),
    ]


def about(run: Run) -> dict[str, str]:
    """What the page says of the networks."""
    train, epochs = size(run)
    wanted = chosen(run, run.seed)
    return {
        "data": f"MNIST, digits, CIFAR-10 and noise, {train} training and 1000 test examples (digits: 397)",
        "networks": ", ".join(sorted({name for _, name, _ in wanted})) + " (width-depth of hidden layers)",
        "networks a seed, and those with shuffled labels": f"{len(wanted)}, {sum(share > 0 for *_, share in wanted)}",
        "training": (
            "SGD, rate 0.05 (MLPs on CIFAR-10: 0.01), momentum 0.9, batch 32, until the mean loss of an epoch is "
            f"0.05, at most {epochs} epochs"
        ),
    }


def size(run: Run) -> tuple[int, int]:
    """Training examples and most epochs."""
    return run.pick(quick=(200, 20), gallery=(500, 60), full=(5000, 300))


def study(run: Run, data: str, seed: int) -> Result:
    """All networks of one data set and seed: name, share shuffled, error, gap and every measure, as (network,)."""
    rows = [
        {"network": n, "shuffled": s} | measures(record(run, d, n, s, seed))
        for d, n, s in chosen(run, seed)
        if d == data
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def whole(run: Run) -> list[dict[str, np.ndarray]]:
    """The networks of all data sets, one table a seed."""
    parts = {data: run.each(study, data) for data in TRUE}
    tables = []
    for k in range(len(run.seeds)):
        rows = {data: results[k] for data, results in parts.items()}
        table = {name: np.concatenate([row[name] for row in rows.values()]) for name in rows[TRUE[0]]}
        table["dataset"] = np.concatenate([np.full(len(row["gap"]), data) for data, row in rows.items()])
        tables.append(table)
    return tables


def kendall(table: dict[str, np.ndarray], measure: str, target: str, use: np.ndarray) -> float:
    """Kendall's correlation over the networks in `use` for which both are defined; NaN for fewer than five."""
    x, y = table[measure][use], table[target][use]
    both = np.isfinite(x) & np.isfinite(y)
    return float(kendalltau(x[both], y[both]).statistic) if both.sum() >= 5 else np.nan


def within(table: dict[str, np.ndarray], measure: str, target: str) -> float:
    """The same among architectures alone: mean over the data sets that can be learned, true labels only."""
    plain = table["shuffled"] == 0
    return float(
        np.mean([kendall(table, measure, target, plain & (table["dataset"] == d)) for d in LEARNABLE])
    )


def measures(path: Path) -> dict[str, float]:
    """What is compared of one network, at the end of training; `post`: with sums after the ReLU."""
    found: dict[str, float] = {}
    for where in ("pre", "post"):
        options = {"depth_slope": {"where": where}}
        names = METRICS if where == "pre" else METRICS[:4]
        results = analyze.run(path, names, options=options, output=path.with_suffix(f".{where}"))
        last = {name: results[name].isel(step=-1) for name in names}
        for probe in ("train", "test"):
            for kind in ("pearson", "spearman"):
                found[f"cna {kind} {probe} {where}"] = float(last["cna"][kind].sel(probe=probe))
        for reading in READINGS:
            found[f"area {reading} {where}"] = float(last["cna_area"][reading])
            found[f"margin {reading} {where}"] = float(last["cna_margin"][reading])
        if where == "pre":
            error = last["generalization"]["error"]
            test, train = (float(error.sel(probe=probe)) for probe in ("test", "train"))
            norms = last["capacity"].sel(factors="dropped")
            found |= {"accuracy": 1 - test, "gap": test - train, "gamma": float(last["cna_margin"]["gamma"])}
            found |= {name: float(norms[f"log10_{name}"]) for name in NORMS}
            found["spectral sum"] = float(norms["spectral_sum_slide"])
    return found


def record(run: Run, name: str, network: str, share: float, seed: int) -> Path:
    """One network before and after training, without paths and gradients."""
    train, epochs = size(run)
    if name == "digits":  # of which there are 1,797
        train = min(train, 1400)
    data = _images(name, run.data, train, 397 if name == "digits" else 1000, seed, share)
    kind = network.partition("-")[0]
    return fit(
        run.out.parent / f"gain_study_{run.scale}" / f"{name}-{network}-{round(100 * share)}-{seed}.zarr",
        lambda: _make(network, data), data, epochs=epochs, until=0.05, batch=32, seed=seed, device=run.device,
        # MLPs on CIFAR-10 stay at chance with a rate of 0.05.
        optimizer=partial(torch.optim.SGD, lr=0.01 if kind == "mlp" and name == "cifar10" else 0.05, momentum=0.9),
        probes=data.probes(None, raw=True, masks=0, gradients=0, outputs=None, sums=None),
        snapshots=tracer.at([]), gradients="none",
    )  # fmt: skip


_images = lru_cache(maxsize=1)(load)  # networks of one data set follow each other


def _make(network: str, data: Data) -> nn.Module:
    if network.startswith("mlp"):
        return mlp([data.n_inputs, *NETWORKS[network], 10])
    return cnn(NETWORKS[network], inputs=data.x_train.shape[1])
