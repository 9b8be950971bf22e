"""A table is traced once for all models that are described alike, and never taken for another model."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tracer.network import Network, memo, trace
from tracer.network.copies import named_tensors
from tracer.network.memo import description, trace_once

X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3
FACTOR = 2.0


class Scaled(nn.Module):
    """Reads an attribute, an attribute of its class, a method and a global variable."""

    power = 1

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inside, self.outside = nn.Linear(6, width), nn.Linear(width, 3)
        self.scale, self.activation = 1.0, F.relu

    def hidden(self, x: Tensor) -> Tensor:
        return self.activation(self.inside(x)) ** self.power

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.hidden(x)) * self.scale * FACTOR


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Module]]:
    """The models that were traced, beginning without a table."""
    seen: list[nn.Module] = []

    def noted(model: nn.Module, *given: Any, **options: Any) -> Network:
        seen.append(model)
        return trace(model, *given, **options)

    monkeypatch.setattr(memo, "trace", noted)
    monkeypatch.setattr(memo, "_tables", {})
    yield seen


def test_models_alike_are_traced_once(traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    first = trace_once(Scaled(), X, Y, F.cross_entropy)
    expected = first.to_json()
    first.forget_axes([row.name for row in first.rows])
    other = Scaled(seed=1)
    again = trace_once(other, X[:3], Y[:3], F.cross_entropy)
    assert len(traced) == 1 and again.to_json() == expected
    assert torch.equal(again.run(named_tensors(other), X, Y)[0], other(X))
    # What no description reaches is found by running it.
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    now = trace_once(other, X, Y, F.cross_entropy)
    assert len(traced) == 2 and torch.equal(now.run(named_tensors(other), X, Y)[0], other(X))


class Counts(Scaled):
    """Looks at how many examples there are, so that a table of it is for so many."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(len(x)) / len(x)


def test_the_number_of_examples_together_counts_only_where_it_is_fixed(traced: list[nn.Module]) -> None:
    networks = [
        trace_once(model, X, Y, F.cross_entropy, chunk=chunk)
        for model in (Scaled(), Counts())
        for chunk in (4, 6, 4)
    ]
    assert [network.batch for network in networks] == [None] * 3 + [4, 6, 4]
    assert [type(model) for model in traced] == [Scaled, Counts, Counts]


def told(model: nn.Module, loss: Any = F.cross_entropy, x: Any = X, y: Any = Y) -> Any:
    return description(model, x, y, loss, None)


def changed(change: Callable[[Any], Any]) -> nn.Module:
    model = Scaled()
    change(model)
    return model


def frozen(model: Scaled) -> None:
    model.inside.weight.requires_grad_(False)


def tied(model: Any) -> None:
    model.square, model.again = nn.Linear(4, 4), nn.Linear(4, 4)


def tied_in_truth(model: Any) -> None:
    tied(model)
    model.again.weight = model.square.weight


def margin(level: float) -> Callable[..., Tensor]:
    return lambda outputs, targets: F.cross_entropy(outputs, targets) - level


CHANGES: dict[str, Callable[[], Any]] = {
    "width": lambda: told(Scaled(5)),
    "an attribute": lambda: told(changed(lambda m: setattr(m, "scale", 2.0))),
    "its type": lambda: told(changed(lambda m: setattr(m, "scale", 1))),
    "a function": lambda: told(changed(lambda m: setattr(m, "activation", F.gelu))),
    "a tensor held aside": lambda: told(changed(lambda m: setattr(m, "mean", torch.zeros(3)))),
    "values of one": lambda: told(changed(lambda m: setattr(m, "mean", torch.ones(3)))),
    "a buffer": lambda: told(changed(lambda m: m.register_buffer("mean", torch.zeros(3)))),
    "a buffer left out": lambda: told(
        changed(lambda m: m.register_buffer("mean", torch.zeros(3), persistent=False))
    ),
    "frozen": lambda: told(changed(frozen)),
    "more layers": lambda: told(changed(tied)),
    "tied": lambda: told(changed(tied_in_truth)),
    "double": lambda: told(Scaled().double()),
    "weight norm": lambda: told(changed(lambda m: parametrizations.weight_norm(m.inside))),
    "loss": lambda: told(Scaled(), F.multi_margin_loss),
    "loss with options": lambda: told(Scaled(), partial(F.cross_entropy, label_smoothing=0.1)),
    "other options": lambda: told(Scaled(), partial(F.cross_entropy, label_smoothing=0.2)),
    "a module as loss": lambda: told(Scaled(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1, 1]))),
    "its weights": lambda: told(Scaled(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]))),
    "a closure": lambda: told(Scaled(), margin(1.0)),
    "another": lambda: told(Scaled(), margin(2.0)),
    "no loss": lambda: told(Scaled(), None),
    "dtype of targets": lambda: told(Scaled(), y=Y.int()),
    "shape of targets": lambda: told(Scaled(), y=F.one_hot(Y)),
    "inputs by name": lambda: told(Scaled(), x={"x": X}),
    "another name": lambda: told(Scaled(), x={"z": X}),
}


def test_what_differs_is_described_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptions = {"as it is": told(Scaled())} | {name: make() for name, make in CHANGES.items()}
    monkeypatch.setattr(Scaled, "power", 2)
    descriptions["an attribute of the class"] = told(Scaled())
    monkeypatch.undo()
    monkeypatch.setattr(Scaled, "hidden", lambda self, x: self.inside(x))
    descriptions["a method"] = told(Scaled())
    monkeypatch.undo()
    assert None not in descriptions.values()
    alike = {
        one: other
        for one in descriptions
        for other in descriptions
        if descriptions[one] == descriptions[other]
    }
    assert all(one == other for one, other in alike.items()), alike


def test_what_makes_no_difference_is_described_alike() -> None:
    hooked = Scaled()
    hooked.register_forward_hook(lambda *_: None)
    alike = [Scaled(seed=3), Scaled().eval(), hooked]
    assert {told(model) for model in alike} == {told(Scaled())}
    assert told(Scaled(), x=X[:2], y=Y[:2]) == told(Scaled())
    assert told(Scaled(), margin(1.0)) == told(Scaled(), margin(1.0))
    recurrent = [nn.LSTM(6, 3, batch_first=True) for _ in range(2)]
    assert told(recurrent[0]) == told(recurrent[1]) is not None


def test_what_cannot_be_described_is_traced_each_time() -> None:
    for value in (threading.Lock(), torch.Generator(), iter([1]), torch.zeros(1 << 20)):
        assert told(changed(lambda m, held=value: setattr(m, "extra", held))) is None


def test_few_tables_are_held(traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "trace", lambda *_, **__: traced.append(nn.Identity()) or STUB)
    monkeypatch.setattr(memo, "currency", lambda *_, **__: CURRENT)
    monkeypatch.setattr(memo, "_MOST", 2)
    for width in (1, 2, 3, 3, 2, 1):
        trace_once(Scaled(width), X)
    assert len(traced) == 4 and len(memo._tables) == 2


class Stub:
    """Stands for a network."""

    constants: dict[str, Tensor] = {}  # noqa: RUF012
    batch = None
    holds = True

    def derived(self) -> "Stub":
        return self


STUB = CURRENT = Stub()


def test_tables_not_asked_for_the_longest_go_first(
    traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo, "_MOST", 2)
    models = [nn.Linear(6, width) for width in (3, 4, 5)]
    for number in (0, 1, 0, 2, 0, 1):
        trace_once(models[number], X)
    assert [len(model.weight) for model in traced] == [3, 4, 5, 4]
