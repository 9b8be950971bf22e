import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.paths.regions import AMONG, chosen_pairs, regions
from analyze.replay import Examples
from analyze.replay.linear_regions import breakpoints, kinks
from tests import replayed
from tests.oracles import mlp
from tests.oracles import regions as slow
from tracer.errors import MissingTraceError


def bends(model, start, stop, limit=10_000):
    given = Examples(torch.stack([start, stop, start, stop]))
    state = replayed.state_of(model, given, None).double()
    return breakpoints(state, start.double(), stop.double(), kinks(state.network), limit)


class Net(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(layers).double()
        self.function = function

    def forward(self, x):
        return self.function(self.layers, x)


def test_breakpoints_of_two_layers_by_hand():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter, values in zip(
            model.parameters(),
            ([[1.0], [1.0]], [-0.25, -0.5], [[1.0, -3.0]], [-0.125], [[1.0]], [0.0]),
            strict=True,
        ):
            parameter.copy_(torch.tensor(values))
    # Units bend at 1/4 and 1/2. Above, (t - 1/4) - 1/8 passes 0 at 3/8, and 1/8 - 2 (t - 1/2) at 9/16.
    found = bends(model, torch.tensor([0.0]).double(), torch.tensor([1.0]).double())
    np.testing.assert_allclose(found, [1 / 4, 3 / 8, 1 / 2, 9 / 16], atol=1e-14)


def test_agrees_with_halving():
    given = replayed.examples(5)
    first = replayed.state_of(replayed.mlp((4, 16, 16, 3)), given)
    states = replayed.States([first, replayed.moved(first, 0.5, 1)], given)
    result = regions(states, given.targets.numpy(), np.arange(5) * 10, pairs=2, samples=32)
    assert set(result["id_from"]) | set(result["id_to"]) <= {0, 10, 20, 30, 40}
    for row, state in enumerate(states):
        layers = mlp.layers_of(state.tensors)
        for k in range(2):
            a, b = (given.inputs[result[name][k] // 10].numpy() for name in ("id_from", "id_to"))
            expected = slow.regions(layers, a, b)
            assert result["regions"][row, k] == expected > 3
            assert 1 <= result["sampled"][row, k] <= expected
            assert result["density"][row, k] == pytest.approx(expected / np.linalg.norm(a - b))
    np.testing.assert_allclose(result["mean"], result["regions"].mean(1))


FUNCTIONS = {
    "residual": (
        lambda m, x: m[1](torch.relu(m[0](x)) + x) + m[2](nn.functional.leaky_relu(m[0](-x), 0.3)),
        [nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 2)],
        (6,),
    ),
    "max pooling": (
        lambda m, x: m[1](nn.functional.max_pool2d(m[0](x), 3, 2, 1).flatten(1)),
        [nn.Conv2d(1, 3, 3), nn.Linear(12, 2)],
        (1, 6, 6),
    ),
    "batch norm, average pool": (
        lambda m, x: m[2](torch.relu(m[1](m[0](x))).mean((2, 3))),
        [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 2)],
        (1, 4, 4),
    ),
    "two thresholds": (
        lambda m, x: (
            m[1](nn.functional.hardtanh(m[0](x), -0.5, 0.25)) + m[1](nn.functional.relu6(9 * m[0](x)))
        ),
        [nn.Linear(4, 6), nn.Linear(6, 2)],
        (4,),
    ),
    "by hand": (
        lambda m, x: m[1]((lambda y: y * (y > 0))(m[0](x))),
        [nn.Linear(4, 6), nn.Linear(6, 2)],
        (4,),
    ),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_network_is_straight_between_breakpoints_and_bends_at_each(kind):
    function, layers, shape = FUNCTIONS[kind]
    torch.manual_seed(0)  # the layers were made when this module was imported, whatever the seed was then
    model = Net(function, *layers).eval().apply(lambda module: getattr(module, "reset_parameters", int)())
    start, stop = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2

    def along(t):
        with torch.no_grad():
            return model((start + t * (stop - start))[None]).numpy()

    found = bends(model, start, stop)
    assert len(found) >= 3
    slopes = []
    for low, high in pairwise([0.0, *found, 1.0]):
        middle = (along(low) + along(high)) / 2
        np.testing.assert_allclose(along((low + high) / 2), middle, atol=1e-9)
        slopes.append((along(high) - along(low)) / (high - low))
    for before, after in pairwise(slopes):
        assert np.abs(after - before).max() > 1e-6


def test_units_that_bend_together_count_once():
    given = replayed.examples(4)
    state = replayed.state_of(replayed.mlp((4, 6, 3)), given)
    one = state.tensors["0.weight"][:1].expand(6, -1), state.tensors["0.bias"][:1].expand(6)
    same = state.with_tensors({"0.weight": one[0] * 1.1, "0.bias": one[1] * 1.1})
    count = regions(replayed.States([same], given), given.targets.numpy(), np.arange(4), pairs=6)["regions"]
    assert set(count.ravel()) == {1.0, 2.0}


def test_a_segment_backwards_has_as_many_regions():
    given = replayed.examples(2)
    state = replayed.state_of(replayed.mlp((4, 16, 16, 3)), replayed.examples(4))
    a, b = given.inputs
    there, back = (breakpoints(state, *ends, kinks(state.network), 999) for ends in ((a, b), (b, a)))
    np.testing.assert_allclose(there, 1 - back[::-1], atol=1e-12)


def test_too_many_regions_are_undefined_and_counted():
    given = replayed.examples(4)
    state = replayed.state_of(replayed.mlp((4, 16, 3)), given)
    result = regions(replayed.States([state], given), given.targets.numpy(), np.arange(4), pairs=3, limit=1)
    assert np.isnan(result["regions"]).all() and result["n_undefined"].tolist() == [3]
    assert (result["sampled"] > 1).all()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (replayed.mlp(activation=nn.Tanh), "is smooth"),
        (replayed.mlp(activation=nn.GELU), "is smooth"),
        (Net(lambda m, x: m[0](x) * m[0](x), nn.Linear(4, 3)), "not piecewise linear"),
    ],
    ids=["tanh", "gelu", "product"],
)
def test_smooth_networks_are_refused(model, reason):
    given = replayed.examples(4)
    states = replayed.States([replayed.state_of(model, given)], given)
    with pytest.raises(MissingTraceError, match=reason):
        regions(states, given.targets.numpy(), np.arange(4))


def test_pairs_are_half_within_classes():
    labels = np.arange(12) % 3
    chosen = chosen_pairs(labels, 10, seed=4)
    assert len(set(chosen)) == 10 and sum(labels[a] == labels[b] for a, b in chosen) == 5
    assert chosen == chosen_pairs(labels, 10, seed=4) != chosen_pairs(labels, 10, seed=5)
    assert len(chosen_pairs(np.zeros(3, int), 10, seed=0)) == 3


def test_pairs_of_very_many_examples_are_drawn_without_listing_all():
    tracemalloc.start()
    chosen = chosen_pairs(np.arange(200_000) % 3, 10, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(chosen)) == 10 and all(first < second < AMONG for first, second in chosen)
    assert peak < 50 * AMONG * AMONG  # a list of all pairs would take 10,000 times as much


def test_a_probe_of_too_few_examples_has_pairs_that_are_none():
    given = replayed.examples(3)
    states = replayed.States([replayed.state_of(replayed.mlp((4, 8, 3)), given)], given)
    result = regions(states, given.targets.numpy(), np.arange(3) + 7, pairs=5, samples=8)
    assert result["regions"].shape == (1, 5) and len(result["pair"]) == 5
    assert (result["id_from"] >= 0).tolist() == [True] * 3 + [False] * 2
    assert np.isfinite(result["regions"][0, :3]).all() and np.isnan(result["regions"][0, 3:]).all()
    assert result["n_undefined"].tolist() == [0]
    alone = replayed.States([replayed.state_of(replayed.mlp((4, 8, 3)), given.first(1))], given.first(1))
    assert np.isnan(regions(alone, given.targets.numpy(), np.arange(3), pairs=5)["mean"]).all()
