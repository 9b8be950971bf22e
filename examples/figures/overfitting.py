"""The networks of Fort's figures: trained until they overfit, at three learning rates, recorded once for both."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from shared import Run, fit, load, mlp

import tracer

DATA = ("mnist", "cifar10")
RATES = (0.003, 0.01, 0.03)
SETTINGS = {
    "data": "8,000 training and 2,000 test images",
    "network": "MLPs 784-100-100-10 and 3072-100-100-10, ReLU",
    "training": "SGD, momentum 0.9, batch 32, 40 epochs",
    "stiffness": "cosines of the whole gradients of the first 200 training and 100 test images",
}


def record(run: Run, name: str, rate: float, seed: int) -> Path:
    """The archive of one network, in `fort_overfitting_<scale>` beside the folder of the figure."""
    n, epochs, width = run.pick(quick=(200, 6, 50), gallery=(8000, 40, 100), full=(8000, 100, 500))
    data = load(name, run.data, n, min(n, 2000), seed)
    probes = {
        "train": data.probe("train", gradients=200),
        "test": data.probe("test", None, gradients=100, outputs=None),
    }
    return fit(
        run.out.parent / f"fort_overfitting_{run.scale}" / f"{name}_{rate:g}_{seed}.zarr",
        lambda: mlp([data.n_inputs, width, width, 10]), data, epochs=epochs, batch=32, seed=seed,
        optimizer=partial(torch.optim.SGD, lr=rate, momentum=0.9),
        probes=probes, gradients="gram", device=run.device,
        snapshots={"default": tracer.epochs(every=2) | tracer.log_spaced(), "weights": tracer.at([0])},
    )  # fmt: skip
