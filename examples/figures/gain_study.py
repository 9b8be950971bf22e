"""The small networks that the figures about many networks share, recorded and analyzed once.

Nine architectures on four data sets with true labels, one of them noise; and on three of these with 10 to 50 % of the
training labels shuffled: 198 networks as the gallery has them, 243 with `--full`. All are trained until the mean loss
of an epoch is 0.05, so that they can be compared by how they generalize.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import click
import torch
from shared import Data, Run, cnn, fit, load, mlp
from torch import nn

import analyze
import tracer

TRUE = ("mnist", "digits", "cifar10", "noise")
LEARNABLE = TRUE[:3]
METRICS = ("generalization", "cna", "cna_area", "cna_margin", "margin", "capacity")
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


def settings(run: Run) -> list[tuple[str, str, float, int]]:
    """Data set, network, share of labels shuffled and seed of every run."""
    every = tuple(NETWORKS)
    seeds = run.pick(quick=(0,), gallery=(0, 1, 2), full=(0, 1, 2))
    names = run.pick(quick=("mlp-64-2", "cnn-8-3"), gallery=every, full=every)
    again = run.pick(quick=(0.5,), gallery=(0.1, 0.2, 0.3, 0.4, 0.5), full=(0.1, 0.2, 0.3, 0.4, 0.5))
    # Convolutions take longest to learn random labels.
    shuffled = run.pick(quick=names, gallery=[name for name in every if name.startswith("mlp")], full=every)
    return [
        *((data, name, 0.0, run.seed + seed) for seed, data, name in product(seeds, TRUE, names)),
        *((data, name, share, run.seed) for share, data, name in product(again, LEARNABLE, shuffled)),
    ]


def about(run: Run) -> dict[str, str]:
    """What the page says of the networks."""
    train, epochs = size(run)
    wanted = settings(run)
    shares = sorted({100 * share for _, _, share, _ in wanted if share})
    return {
        "data": f"MNIST, digits, CIFAR-10 and noise, {train} training and 1000 test examples (digits: 397)",
        "networks": ", ".join(sorted({name for _, name, _, _ in wanted})) + " (width-depth of hidden layers)",
        "labels shuffled": ", ".join(f"{share:.0f} %" for share in shares),
        "training": (
            "SGD, rate 0.05 (MLPs on CIFAR-10: 0.01), momentum 0.9, batch 32, until the mean loss of an epoch is "
            f"0.05, at most {epochs} epochs"
        ),
        "seeds": ", ".join(str(seed) for seed in sorted({seed for _, _, _, seed in wanted})),
    }


def size(run: Run) -> tuple[int, int]:
    """Training examples and most epochs."""
    return run.pick(quick=(200, 20), gallery=(500, 60), full=(5000, 300))


def networks(run: Run) -> list[Path]:
    """Paths of all archives, in `gain_study_<scale>` beside the folder of the figure; recorded if not there yet."""
    wanted = settings(run)
    paths = []
    for number, one in enumerate(wanted, start=1):
        click.echo(
            f"network {number} of {len(wanted)}: {one[1]} on {one[0]}, {one[2]:.0%} shuffled", err=True
        )
        paths.append(record(run, *one))
    return paths


def record(run: Run, name: str, network: str, share: float, seed: int) -> Path:
    """One network before and after training, without paths and gradients, and what is compared of it."""
    train, epochs = size(run)
    if name == "digits":  # of which there are 1,797
        train = min(train, 1400)
    data = _images(name, run.data, train, 397 if name == "digits" else 1000, seed, share)
    kind, _, depth = network.split("-")
    facts = {"dataset": name, "network": network, "kind": kind, "depth": int(depth), "shuffled": share}
    path = fit(
        run.out.parent / f"gain_study_{run.scale}" / f"{name}-{network}-{round(100 * share)}-{seed}.zarr",
        lambda: _make(network, data), data, epochs=epochs, until=0.05, batch=32, seed=seed, device=run.device,
        # MLPs on CIFAR-10 stay at chance with a rate of 0.05.
        optimizer=partial(torch.optim.SGD, lr=0.01 if kind == "mlp" and name == "cifar10" else 0.05, momentum=0.9),
        probes=data.probes(None, raw=True, masks=0, gradients=0), snapshots=tracer.at([]), gradients="none",
        attributes=facts | {"seed": seed},
    )  # fmt: skip
    analyze.run(path, METRICS, output=path.with_suffix(".analysis"))
    return path


_images = lru_cache(maxsize=1)(load)  # networks of one data set follow each other


def _make(network: str, data: Data) -> nn.Module:
    if network.startswith("mlp"):
        return mlp([data.n_inputs, *NETWORKS[network], 10])
    return cnn(NETWORKS[network], inputs=data.x_train.shape[1])


def parts(paths: list[Path]) -> Iterator[tuple[str, list[Path]]]:
    """The groups of the paper's panels: with noise, without it, and with labels shuffled."""
    shuffled = [path for path in paths if path.stem.split("-")[-2] != "0"]
    true = [path for path in paths if path not in shuffled]
    yield "standard data sets and noise", true
    yield "standard data sets", [path for path in true if not path.name.startswith("noise")]
    yield "10 to 50 % of labels shuffled", shuffled
