"""Every model of the zoo trained in every style: digests and the loss of every update, with and without recording.

The default run takes each style and each kind of model once, here or where `ELSEWHERE` says; `pytest -m slow` takes
all pairs.
"""

import itertools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests import zoo
from tracer.recorder import RecordWarning

STYLES = ("sgd momentum", "adamw", "autocast", "accumulation", "compile", "minibatch")
PAIRS = list(itertools.product(zoo.MODELS, STYLES))
OFTEN = {
    ("ViT", "autocast"),
    ("LSTM", "accumulation"),
    ("GPT", "adamw"),
    ("Smooth", "compile"),
}
# In the default run too: test_neutrality.py, and test_minibatch.py with everything captured.
ELSEWHERE = {("MLP", "sgd momentum"), ("ResNet6", "sgd momentum"), ("CNN", "minibatch")}


def training(name: str, style: str, graphs: list[int]) -> Callable[[Any], None]:
    """A training function as `tracer.check` takes it: three updates with dropout, the loss of each logged."""

    def train(record: Any) -> None:
        inner, x, y = zoo.build(name, n=12, dropout=0.3)
        inner.train()
        compiled: list[int] = []

        def backend(module: Any, inputs: Any) -> Any:
            compiled.append(1)
            return module.forward

        torch._dynamo.reset()
        torch.manual_seed(1)
        model = torch.compile(inner, backend=backend) if style == "compile" else inner
        if style == "adamw":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(inner.parameters(), lr=1e-3)
        else:
            optimizer = torch.optim.SGD(inner.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        parts = 2 if style == "accumulation" else 1
        loader = DataLoader(TensorDataset(x, y), batch_size=4 // parts, shuffle=True)
        precision = torch.autocast("cpu", torch.bfloat16) if style == "autocast" else nullcontext()
        options: dict[str, Any] = {"minibatch": True} if style == "minibatch" else {}
        probes = {"train": (x[:5], y[:5])}
        with record(
            "run", model, optimizer, loss=zoo.loss, probes=probes, snapshots=tracer.every(1), **options
        ) as run:
            for number, (inputs, targets) in enumerate(run.batches(loader), start=1):
                with precision:
                    loss = zoo.loss(model(inputs), targets) / parts
                loss.backward()
                run.log(loss=loss)
                if number % parts == 0:
                    optimizer.step()
                    optimizer.zero_grad()
        graphs.append(len(compiled))

    return train


def check(name: str, style: str) -> None:
    graphs: list[int] = []
    # Left to itself, torch.compile passes recurrent modules by.
    with warnings.catch_warnings(), torch._dynamo.config.patch(allow_rnn=True):
        warnings.simplefilter("ignore", RecordWarning)
        verdict = tracer.check(training(name, style, graphs))
    assert verdict.steps == 3
    assert set(verdict.table.values()) == {"identical"}, str(verdict)
    assert len(set(graphs)) == 1, "recording made torch.compile compile again"
    assert (graphs[0] > 0) == (style == "compile")


@pytest.mark.parametrize(("name", "style"), sorted(OFTEN))
def test_training_is_unchanged(name: str, style: str) -> None:
    check(name, style)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "style"), [pair for pair in PAIRS if pair not in OFTEN])
def test_training_is_unchanged_in_every_other_pair(name: str, style: str) -> None:
    if (name, style) == ("LSTM", "autocast") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no LSTM in bfloat16, recorded or not")
    check(name, style)


def test_often_is_enough() -> None:
    taken = OFTEN | ELSEWHERE
    assert {name for name, _ in taken} == set(zoo.MODELS) - set(zoo.DEEP)  # which are more of the same
    assert {style for _, style in taken} == set(STYLES)
