"""Gram matrices of per-example gradients against Opacus and BackPACK, where they are installed; and the memory of ours.

`pip install opacus backpack-for-pytorch` brings the peers. Both compute what a user of theirs would write:
the gradient of every example, then the products of each parameter's rows. Parameters a peer leaves out are left out of
its products too, which favours it.
"""

import copy
import ctypes
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gradients import gram, step
from benchmarks.harness import Work, case
from benchmarks.models import MODELS

GOALS = {"MLP": 1 / 80, "ResNet-18": 1 / 2, "VGG-11": 1 / 5}


def products(rows: list[Tensor]) -> None:
    for row in rows:
        flat = row.flatten(1)
        flat @ flat.T


def opacus(model: nn.Module, x: Tensor, y: Tensor) -> Work:
    from opacus.grad_sample import GradSampleModule

    for module in model.modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # refused by Opacus, which has no rule for it; frozen, it passes
            module.requires_grad_(False)
        if isinstance(module, nn.ReLU):
            module.inplace = False
    wrapped = GradSampleModule(model, strict=False, loss_reduction="sum")
    # It stores inputs in training mode only; batch statistics stay those of evaluation.
    wrapped.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()

    def work() -> None:
        F.cross_entropy(wrapped(x), y, reduction="sum").backward()
        products([p.grad_sample for p in wrapped.parameters() if p.requires_grad])
        wrapped.zero_grad()

    return work


def backpack(model: nn.Module, x: Tensor, y: Tensor) -> Work:
    from backpack import backpack as collecting
    from backpack import extend
    from backpack.extensions import BatchGrad

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    extended, loss = (
        extend(model, use_converter=not isinstance(model, nn.Sequential)),
        extend(nn.CrossEntropyLoss(reduction="sum")),
    )

    def work() -> None:
        with collecting(BatchGrad()):
            loss(extended(x), y).backward()
        products([p.grad_batch for p in extended.parameters() if hasattr(p, "grad_batch")])
        for p in extended.parameters():
            p.grad = None

    return work


def _rows(package: str, peer: object) -> Iterator[tuple[str, Work, Work, float]]:
    if find_spec(package) is None:
        return
    for name, goal in GOALS.items():
        torch.manual_seed(0)
        model, x, y = MODELS[name]()
        model.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield name, gram(model, x, y), peer(copy.deepcopy(model), x, y), goal  # type: ignore[operator]


@case("Opacus and products", repeats=3)
def gradient_gram_by_opacus() -> Iterator[tuple[str, Work, Work, float]]:
    yield from _rows("opacus", opacus)


@case("BackPACK and products", repeats=3)
def gradient_gram_by_backpack() -> Iterator[tuple[str, Work, Work, float]]:
    yield from _rows("backpack", backpack)


def peak(work: Work) -> float:
    """Bytes by which resident memory rises at most while `work` runs (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # lowers the high-water mark to what is resident now
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 1.0)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@case("peak of one forward and backward", repeats=3)
def gradient_gram_memory() -> Iterator[tuple[str, Work, Work, float]]:
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model, x, y = build()
        model.eval()
        ours, theirs = gram(model, x, y), step(model, x, y)
        yield name, lambda w=ours: peak(w), lambda w=theirs: peak(w), 2.0  # type: ignore[misc]
