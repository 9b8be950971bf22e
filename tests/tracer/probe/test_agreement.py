"""A rule that is wrong is found at the first look, whatever the loss says; one that is right is never mistrusted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import zoo
from tests.oracles.gradients import check_gram, per_example
from tracer.gradients import Plan, rules
from tracer.gradients.forms import Full, Outer
from tracer.network.copies import named_tensors
from tracer.network.memo import trace_once
from tracer.probe import Probe, ProbePass


class Branches(nn.Module):
    """A branch that begins at zero: no signal of the loss goes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.last = nn.Linear(5, 6), nn.Linear(6, 5, bias=False), nn.Linear(5, 3)
        nn.init.zeros_(self.outer.weight)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.outer(torch.tanh(self.inner(x)) * self.scale))


def surveyed(model: nn.Module, x: Tensor, y: Tensor, fixed: int | None = None) -> ProbePass:
    network = trace_once(model, x, y, F.cross_entropy)
    network.batch = fixed
    tensors = named_tensors(model)
    return ProbePass(
        network, {"train": Probe(x, y)}, tensors=tensors, streams=["gradients"], gradients="gram"
    )


def doubled(row: rules.Executed) -> rules.Forms:
    weight, bias = rules._scale(row)
    return (Full(weight.rows() * 2) if weight else None, Full(bias.rows() * 2) if bias else None)


def without_bias(row: rules.Executed) -> rules.Forms:
    weight, bias = rules._linear(row)
    if isinstance(weight, Outer) and weight.bias:  # the bias of one example counts for all
        return Outer(weight.a, weight.z), Full(weight.bias_rows()[:1].expand(len(weight.z), -1))
    return weight, bias


@pytest.mark.parametrize(
    ("rule", "wrong", "names"),
    [
        ("scale", doubled, {"scale"}),
        ("linear", without_bias, {"inner.bias", "last.bias"}),
    ],
)
@pytest.mark.parametrize("fixed", [None, 8])
def test_a_wrong_rule_is_not_used(
    rule: str,
    wrong: Callable[[rules.Executed], rules.Forms],
    names: set[str],
    fixed: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, x, y = Branches(), torch.randn(8, 5), torch.arange(8) % 3
    monkeypatch.setitem(rules.RULES, rule, wrong)
    seen = surveyed(model, x, y, fixed)
    assert seen._survey.plan.leftover.keys() == names
    nn.init.normal_(model.outer.weight)
    found = torch.from_numpy(seen.run(named_tensors(model), {"gradients"})["gram"]["gram"]).sum(0)
    exact, theirs = (per_example(model, F.cross_entropy, x, y, double=double) for double in (True, False))
    check_gram(found, list(exact.values()), list(theirs.values()))


@pytest.mark.parametrize("name", zoo.EACH)
def test_right_rules_are_used(name: str) -> None:
    model, x, y = zoo.build(name, n=5)
    network = zoo.traced(name)
    seen = ProbePass(network, {"train": Probe(x, y)}, tensors=named_tensors(model), streams=["gradients"])
    assert seen._survey.plan.leftover == Plan.of(network).leftover


def test_gradients_that_are_rounding_alone_are_no_disagreement() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(  # what is added to a channel changes nothing after its normalisation
        nn.Conv2d(2, 4, 3),
        nn.InstanceNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.InstanceNorm2d(3, affine=True),
    )
    x, y = 30 * torch.randn(4, 2, 9, 9), torch.arange(4) % 3
    seen = surveyed(nn.Sequential(model, nn.Flatten(), nn.Linear(75, 3)), x, y)
    assert not seen._survey.plan.leftover


def test_a_first_look_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    model, x, y = Branches(), torch.randn(8, 5), torch.arange(8) % 3
    before = torch.get_rng_state()
    surveyed(model, x, y)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())
