"""Runs in which something is missing or all alike: every metric gives numbers, NaN or a sentence, never an error."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analyze
import tracer
from tests import contract
from tests.loops import blobs, mlp
from tracer.errors import MissingTraceError

OPTIONS = contract.QUICK | {"image_functions": {"history": "none"}}


def plain(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, outputs))


class Empty(nn.Module):
    """A parameter without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.none = plain(), nn.Parameter(torch.empty(0, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + (x @ self.none.T).sum(1, keepdim=True)


def constant() -> nn.Module:
    """Outputs that do not depend on the input, and gradients that are all alike."""
    model = plain()
    with torch.no_grad():
        model[0].weight.zero_()
    return model


def certain() -> nn.Module:
    """Losses and gradients of exactly 0 in float32."""
    model = mlp()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[-1].bias.copy_(torch.tensor([200.0, 0.0, 0.0]))
    return model


def one_class(n: int) -> Any:
    return blobs(n)[0], torch.zeros(n, dtype=torch.long)


def numbers(n: int) -> Any:
    x, y = blobs(n)
    return x, torch.stack([x.sum(1), y.float()], 1)


def other_classes(n: int, seed: int = 0) -> Any:
    x, y = blobs(n, seed=seed)
    return x, y % 2 if seed else y


RUNS: dict[str, tuple[Any, ...]] = {  # model, train, test, loss, updates
    "one example": (plain, blobs(1), blobs(1, seed=7), F.cross_entropy, 2),
    "one class": (plain, one_class(6), one_class(5), F.cross_entropy, 2),
    "one snapshot": (plain, blobs(6), blobs(5, seed=7), F.cross_entropy, 0),
    "no nonlinearity": (lambda: nn.Linear(6, 3), blobs(6), blobs(5, seed=7), F.cross_entropy, 2),
    "constant outputs": (constant, blobs(6), blobs(5, seed=7), F.cross_entropy, 2),
    "zero gradients": (certain, one_class(6), one_class(5), F.cross_entropy, 2),
    "regression": (lambda: plain(2), numbers(6), numbers(5), F.mse_loss, 2),
    "other classes in the test set": (plain, other_classes(6), other_classes(5, seed=7), F.cross_entropy, 2),
    "no test set": (plain, blobs(6), None, F.cross_entropy, 2),
    "an empty parameter": (Empty, blobs(6), blobs(5, seed=7), F.cross_entropy, 2),
}


def recorded(path: Any, run: str) -> Any:
    make, train, test, loss, updates = RUNS[run]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"train": train} | ({} if test is None else {"test": test})
    capture = {"activations": None}
    probes = {name: tracer.Probe(x, y, capture=capture) for name, (x, y) in given.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be recorded is said
        with tracer.record(
            path, model, optimizer, loss=loss, probes=probes, snapshots=tracer.every(1), gradients="exact"
        ) as following:
            for _ in range(updates):
                optimizer.zero_grad()
                loss(model(train[0]), train[1]).backward()
                optimizer.step()
                following.step(ids=range(len(train[0])))
    return tracer.open(path)


# "Zero gradients" have one class and outputs that do not depend on the input, too; what has no nonlinearity or no
# elements is refused or left out before anything is computed of it.
RARE = ("one class", "constant outputs", "no nonlinearity", "an empty parameter")
EACH = [pytest.param(run, marks=[pytest.mark.slow] * (run in RARE)) for run in RUNS]
OF_SPLITS = (
    "other classes in the test set",
    "no test set",
)  # which what runs a network again hardly looks at


@pytest.mark.parametrize("run", EACH)
def test_every_metric_says_something(run, tmp_path, monkeypatch):
    if run in OF_SPLITS:
        cards = analyze.available_metrics()
        stored = {name: card for name, card in cards.items() if "states" not in card.reads}
        monkeypatch.setattr("analyze.engine.available_metrics", lambda: stored)
        check(run, tmp_path, stored)
    else:
        check(run, tmp_path, analyze.available_metrics())


@pytest.mark.slow
@pytest.mark.parametrize("run", OF_SPLITS)
def test_what_runs_a_network_again_does_so_too(run, tmp_path):
    check(run, tmp_path, analyze.available_metrics())


def check(run, tmp_path, cards):
    archive = recorded(tmp_path / "run.zarr", run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = OPTIONS if RUNS[run][-1] else contract.QUICK  # without updates nothing is made again
        options = {name: quick for name, quick in options.items() if name in cards}
        results = analyze.run(archive, options=options, patience=math.inf)
    assert {*results, *results.skipped} == {*cards} and len(results) > 5
    reasons = {why: name for name, why in results.skipped.items()}
    for name in reasons.values():  # for want of something that such a run cannot have, not by a fault
        with pytest.raises(MissingTraceError, match=r".{20}"):
            analyze.run(archive, [name], options={name: OPTIONS.get(name, {})})
    wrong = []
    for name, result in results.items():
        assert all(v.dtype.kind in "if" for v in result.data_vars.values())
        for variable, values in result.data_vars.items():
            finite = values.values[np.isfinite(values.values)]
            if np.abs(finite).max(initial=0) > 1e12:  # what was divided by rounding
                wrong.append(f"{name}.{variable}: {np.abs(finite).max()}")
    assert not wrong, "\n".join(wrong)
