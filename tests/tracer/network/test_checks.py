"""What a table cannot see is caught: other backward passes, changed attributes, mixed or random rows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests import zoo
from tracer.network import Network, read, trace
from tracer.network.checks import closure, currency
from tracer.network.copies import named_tensors
from tracer.network.independence import independence

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Base(nn.Module):
    """Two linear layers; tests override what happens between them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def between(self, h: Tensor) -> Tensor:
        return F.relu(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Reversal(Base):
    def between(self, h: Tensor) -> Tensor:
        return Reverse.apply(h)


class StraightThrough(Base):
    def between(self, h: Tensor) -> Tensor:
        return Straight.apply(3 * h)


class Hooked(Base):
    def between(self, h: Tensor) -> Tensor:
        h = 1 * h
        h.register_hook(lambda g: 0.5 * g)
        return h


class NoGradBranch(Base):
    def between(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            gate = 2 * torch.sigmoid(h)
        return h * gate + (h.round() - h).detach()


class FrozenFeatures(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.first(x)
        return self.last(F.relu(h))


class Annealed(Base):
    alpha = 1.0

    def between(self, h: Tensor) -> Tensor:
        return F.relu(h) * self.alpha


class BatchStatistics(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def between(self, h: Tensor) -> Tensor:
        return F.relu(self.norm(h))


class MinusMean(Base):
    def between(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class Forced(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True)


class ForcedDropout(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = Forced()

    def between(self, h: Tensor) -> Tensor:
        return self.drop(h)


class Noise(Base):
    def between(self, h: Tensor) -> Tensor:
        return h + torch.randn_like(h)


def traced(model: nn.Module) -> Network:
    return trace(model, X, Y, F.cross_entropy)


@pytest.mark.parametrize("model", [Reversal(), StraightThrough(), Hooked()], ids=lambda m: type(m).__name__)
def test_another_backward_pass_is_named_by_parameter(model: nn.Module) -> None:
    result = closure(traced(model), model, X, Y, F.cross_entropy)
    assert not result.holds
    assert result.parameters == ("first.weight", "first.bias")
    assert "first.weight, first.bias" in result.message


class Words(nn.Module):
    """Has gradients that hold the rows of the words that came only."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.words((x * 8).long().clamp(0, 8)).mean(1))


class RunTwice(Base):
    """Runs a part again in the backward pass, where its parameters are no inputs of what autograd knows."""

    def forward(self, x: Tensor) -> Tensor:
        def part(x: Tensor) -> Tensor:
            return F.relu(self.first(x))

        return self.last(checkpoint(part, x.clone().requires_grad_(), use_reentrant=True))


def test_a_part_that_is_run_again_is_no_part_without_gradients() -> None:
    model = RunTwice()
    result = closure(traced(model), model, X, Y, F.cross_entropy)
    assert not result.holds and {"first.weight", "first.bias"} <= set(result.parameters)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_no_part_of_the_model_gets_no_gradient() -> None:
    heat = nn.Parameter(torch.ones(()))

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
        outputs = model(inputs) * heat
        return outputs, F.cross_entropy(outputs, targets, reduction="none")

    model = Base()
    closure(trace(model, X, Y, objective=objective), model, X, Y, objective=objective)
    assert heat.grad is None


def test_sparse_gradients_are_compared() -> None:
    model = Words()
    assert closure(traced(model), model, X, Y, F.cross_entropy).holds


@pytest.mark.parametrize("model", [NoGradBranch(), FrozenFeatures()], ids=lambda m: type(m).__name__)
def test_no_grad_regions_keep_their_gradients(model: nn.Module) -> None:
    network = traced(model)
    assert closure(network, model, X, Y, F.cross_entropy).holds
    # Without the `detach` rows that stand for the region, the check sees the difference.
    through = network.to_json().replace(b"aten.detach.default", b"aten.clone.default")
    attached = read(through, network.constants)
    assert closure(attached, model, X, Y, F.cross_entropy).parameters == ("first.weight", "first.bias")


def test_an_annealed_attribute_is_noticed() -> None:
    model = Annealed()
    network = traced(model)
    assert currency(network, model, X, Y, F.cross_entropy).holds
    with torch.no_grad():
        model.last.weight.mul_(2)
    assert currency(network, model, X, Y, F.cross_entropy).holds
    model.alpha = 0.99
    result = currency(network, model, X, Y, F.cross_entropy)
    assert not result.holds
    assert result.difference > 0
    assert "must be traced again" in result.message
    assert currency(traced(model), model, X, Y, F.cross_entropy).holds


@pytest.mark.parametrize(
    ("model", "module"), [(BatchStatistics(), "norm"), (MinusMean(), "")], ids=["norm", "mean"]
)
def test_mixed_examples_are_named_by_module(model: nn.Module, module: str) -> None:
    result = independence(traced(model), named_tensors(model), X, Y)
    assert not result.holds
    assert result.module == module
    assert (f"module {module!r} mixes" if module else "the model's own forward mixes") in result.message


@pytest.mark.parametrize(
    ("model", "module"), [(ForcedDropout(), "drop"), (Noise(), "")], ids=["dropout", "noise"]
)
def test_random_rows_are_named_and_refuse_per_example_quantities(model: nn.Module, module: str) -> None:
    before = torch.get_rng_state()
    network = traced(model)
    result = independence(network, named_tensors(model), X, Y)
    assert (result.holds, result.module) == (False, module)
    assert "draws random numbers" in result.message
    assert not closure(network, model, X, Y, F.cross_entropy).holds
    assert currency(network, model, X, Y, F.cross_entropy).holds
    assert network.foreign == [network.random_rows[0].op]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name",
    [
        *("CNN", "GPT", "Smooth"),
        # Attention is in GPT too, and a recurrent layer in tests of neutrality, which ask for the same checks.
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet18", "ViT", "LSTM")),
    ],
)
def test_ordinary_models_pass_all_three(name: str) -> None:
    model, x, y = zoo.build(name, dropout=0.2)
    network = zoo.traced(name).derived()
    before = network.digest
    assert independence(network, named_tensors(model), x, y).holds
    assert network.digest == before
    assert closure(network, model, x, y, zoo.loss).holds
    assert currency(network, model, x, y, zoo.loss).holds


def test_a_wrong_axis_is_taken_back_not_blamed_on_the_model() -> None:
    class Reordered(Base):
        def between(self, h: Tensor) -> Tensor:
            return F.relu(h.flip(0)).flip(0)

    model = Reordered()
    network = traced(model)
    assert [site.has_mask for site in network.sites] == [True]
    result = independence(network, named_tensors(model), X, Y)
    assert result.holds
    assert set(result.wrong_axes) >= {"flip", "relu"}
    assert [site.has_mask for site in network.sites] == [False]
    assert read(network.to_json(), network.constants).rows == network.rows


def test_a_check_that_cannot_run_says_so() -> None:
    model = Base()
    network = traced(model)
    assert "could not be run" in independence(network, {}, X, Y).message
    assert "could not run" in closure(network, model, X[:, :2], Y, F.cross_entropy).message
    assert "could not run" in currency(network, model, X[:, :2], Y, F.cross_entropy).message
