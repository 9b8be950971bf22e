"""Mixing of examples is caught whatever the examples are, and nothing else is taken for mixing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tracer.network import trace
from tracer.network.copies import named_tensors
from tracer.network.independence import independence


@pytest.fixture(scope="module", params=[3, pytest.param(50, marks=pytest.mark.slow)], ids=["some", "many"])
def seeds(request: pytest.FixtureRequest) -> range:
    return range(int(request.param))


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor], last: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.between(self.a(x))))


def quantized(h: Tensor) -> Tensor:
    step = h.abs().amax() / 127
    return torch.round(h / step) * step


def clipped(h: Tensor) -> Tensor:
    """Touches only examples beside one far larger than any that was given."""
    return torch.where(h.amax() > 50, h / 2, h)


def scaled_down(h: Tensor) -> Tensor:
    """Touches only examples beside one so large that the sum of the batch passes a limit."""
    return h / torch.clamp(h.abs().sum() / 1e4, min=1)


def overflowing(h: Tensor) -> Tensor:
    """Touches only examples beside one whose products are infinite."""
    return h + (~torch.isfinite(h * 1e30)).any().float()


def balanced(h: Tensor) -> Tensor:
    """Touches only examples in a batch most of whose numbers have another sign."""
    return h * (h > 0).float().mean().round()


def of_one_expert_each(h: Tensor) -> Tensor:
    """Drops an example whose expert another one before it has taken."""
    expert = F.one_hot(h[:, :3].argmax(1), 3)
    return torch.where(((expert.cumsum(0) * expert).sum(1) <= 1)[:, None], h, 0.0)


def with_its_neighbour(h: Tensor) -> Tensor:
    distance = torch.cdist(h, h) + 1e9 * torch.eye(len(h))
    return h + 0.1 * h[distance.argmin(1)]


MIXING = {
    "balance of signs": (balanced, "aten."),
    "experts of one example": (of_one_expert_each, "aten."),
    "nearest neighbour": (with_its_neighbour, "aten."),
    "ranks": (lambda h: h + 0.01 * h.norm(dim=1).argsort().argsort()[:, None], "aten."),
    "running maximum": (lambda h: h.cummax(0).values, "aten."),
    "the largest two": (lambda h: h * (h.norm(dim=1) >= h.norm(dim=1).topk(2).values[-1])[:, None], "aten."),
    "statistics of the batch": (lambda h: F.batch_norm(h, None, None, training=True), "aten."),
    "maximum": (lambda h: F.relu(h) / F.relu(h).amax(), "aten.amax.default"),
    "minimum": (lambda h: h - h.amin(), "aten.amin.default"),
    "sort": (lambda h: h.sort(0).values, "aten.sort."),
    "quantizer": (quantized, "aten."),
    "clip": (clipped, "aten."),
    "limit of a sum": (scaled_down, "aten."),
    "overflow": (overflowing, "aten."),
    "cumulative sum": (lambda h: h.cumsum(0), "aten.cumsum.default"),
    "softmax over the batch": (lambda h: h.softmax(0), "aten.softmax.int"),
    "number of examples": (lambda h: h * h.shape[0], "alone something else"),
}


def seeded(model: nn.Module, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return torch.randn(12, 6, generator=generator), torch.arange(12) % 3


# Others of their kind are there: a maximum, ranks, a cumulative sum, a number over a limit.
RARE = ("minimum", "the largest two", "running maximum", "clip")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in RARE)) for kind in MIXING]
)
def test_mixing_is_caught_for_any_examples(kind: str, seeds: range) -> None:
    between, said = MIXING[kind]
    model = Net(between)
    network = trace(model, *seeded(model, 0), F.cross_entropy)
    for seed in seeds:
        result = independence(network, named_tensors(model), *seeded(model, seed))
        assert not result.holds, seed
        assert said in result.message


def bce(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy(outputs, targets, reduction=reduction)


ALONE: dict[str, Any] = {
    "probabilities of one class": (nn.Sigmoid(), bce, torch.ones(12, 3)),
    "reciprocal": (nn.Identity(), lambda o, t: (1 / (o - t)).abs().sum(1), torch.zeros(12, 3)),
    "one class": (nn.Identity(), F.cross_entropy, torch.full((12,), 2)),
    "rounded": (nn.Identity(), lambda o, t: torch.round(8 * o).sum(1) - t, torch.zeros(12)),
    "normalised": (nn.LayerNorm(3), F.cross_entropy, torch.arange(12) % 3),
}


@pytest.mark.parametrize("kind", list(ALONE))
def test_examples_that_stay_apart_are_told_so_within_the_domain_of_their_targets(
    kind: str, seeds: range
) -> None:
    last, loss, targets = ALONE[kind]
    model = Net(torch.tanh, last)
    network = trace(model, seeded(model, 0)[0], targets, loss)
    for seed in seeds:
        result = independence(network, named_tensors(model), seeded(model, seed)[0], targets)
        assert result.holds, result.message


def test_what_a_model_refuses_says_nothing_of_it() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Embedding(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.rows((x * 8).long())  # of no use for values outside of [0, 1]

    model, x = Picky(), torch.rand(12, generator=torch.Generator().manual_seed(0))
    network = trace(model, x, torch.arange(12) % 3, F.cross_entropy)
    result = independence(network, named_tensors(model), x, torch.arange(12) % 3)
    assert result.holds, result.message
