import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.landscape.sharpness import largest_gains, sharpness
from analyze.replay.neighbourhood import Neighbourhood, ascend, draws
from tests.oracles import sharpness as slow
from tests.replayed import States, examples, mlp, moved, state_of


def linear_state(given):
    return state_of(mlp((2, 3), seed=1), given)


def test_exact_for_a_convex_loss():
    given = examples(12, (2,), 3)
    state = linear_state(given)
    result = sharpness(States([state], given), alpha=0.3, starts=4)
    x, y = given.inputs.numpy(), given.targets.numpy()
    flat = state.flat().numpy()

    def loss(w):
        return slow.softmax_loss(w[:6].reshape(3, 2), w[6:], x, y)

    expected = slow.best_corner(loss, flat, 0.3)
    assert result["max_gain"][0] == pytest.approx(expected, rel=1e-9)
    assert result["loss"][0] == pytest.approx(loss(flat), rel=1e-9)
    assert result["keskar"][0] == pytest.approx(100 * expected / (1 + loss(flat)), rel=1e-9)
    assert result["gain"][0, 0] == pytest.approx(slow.best_corner(loss, flat, 0.075), rel=1e-9)
    assert result["n_examples"] == 12


# All corners of 10 weights are tried: a small and a large box, of which more is asked below, are slow.
BOXES = [(0.05, 1), *(pytest.param(alpha, 0, marks=pytest.mark.slow) for alpha in (5e-4, 0.5))]


@pytest.mark.parametrize(("alpha", "seed"), BOXES)
def test_not_below_the_best_corner_of_a_tiny_network(alpha, seed):
    given = examples(10, (1,), 2, seed=seed)
    state = state_of(mlp((1, 2, 2), seed=seed), given)
    near = Neighbourhood(state, given)
    flat = near.weights.numpy()
    expected = slow.best_corner(lambda w: near.loss(torch.from_numpy(w - flat)), flat, alpha)
    assert sharpness(States([state], given), alpha=alpha, starts=16)["max_gain"][0] >= expected * (1 - 1e-9)


def test_never_below_zero_and_never_less_in_a_larger_box():
    given = examples()
    first = state_of(mlp(), given)
    states = States([first, moved(first, 0.5, 3), moved(first, 2.0, 7)], given)
    gains = [sharpness(states, alpha=alpha, starts=1, iterations=4) for alpha in (1e-3, 1e-2, 1e-1, 1.0)]
    for result in gains:
        assert (result["gain"] >= 0).all() and (np.diff(result["gain"]) >= 0).all()
    assert (np.diff([result["max_gain"] for result in gains], axis=0) > 0).all()


def test_at_a_minimum_random_starts_find_what_the_gradient_cannot():
    def loss(v):
        return float((v**2).sum())

    weights = torch.zeros(3, dtype=torch.float64)
    assert ascend(loss, lambda v: (loss(v), 2 * v), weights + 0.1, weights, 10)[0] == 0
    gains, base = largest_gains(loss, lambda v: (loss(v), 2 * v), weights, (0.05, 0.1))
    assert gains == pytest.approx([3 * 0.05**2, 3 * 0.1**2]) and base == 0


def test_a_maximum_inside_the_box_is_found():
    peak = torch.tensor([0.03, -0.06], dtype=torch.float64)
    start = torch.tensor([-0.05, 0.05], dtype=torch.float64)
    radius = torch.full((2,), 0.1, dtype=torch.float64)

    def loss(v):
        return -float(((v - peak) ** 2).sum())

    best, where = ascend(loss, lambda v: (loss(v), -2 * (v - peak)), radius, start, 30)
    assert best > -1e-3 and (where.abs() <= radius).all()


def test_every_point_tried_lies_in_the_box_and_buffers_stay():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()
    given = examples()
    state = state_of(model, given)
    near = Neighbourhood(state, given)
    radius = 0.01 * (near.weights.abs() + 1)
    tried = []

    def loss(v):
        tried.append(v)
        other = near.at(v)
        assert all(
            torch.equal(other.tensors[name], state.tensors[name])
            for name in ("1.running_mean", "1.running_var")
        )
        return near.loss(v)

    gains, _ = largest_gains(loss, lambda v: (loss(v), near.both(v)[1]), near.weights, (0.005, 0.01))
    assert gains[-1] > 0 and all((v.abs() <= radius * (1 + 1e-12)).all() for v in tried)
    assert len(near.weights) == sum(parameter.numel() for parameter in model.parameters())


def test_examples_are_limited_and_seeds_repeat():
    given = examples(8)
    states = States([state_of(mlp(), given)], given)
    few = sharpness(states, examples=3)
    assert few["n_examples"] == 3
    again = sharpness(states, examples=3)
    np.testing.assert_array_equal(few["gain"], again["gain"])
    first, second = (list(draws(torch.zeros(4), 2, seed)) for seed in (0, 1))
    assert torch.equal(first[0], next(draws(torch.zeros(4), 1, 0))) and not torch.equal(first[0], second[0])


def test_a_loss_that_is_not_a_number_is_undefined():
    given = examples()
    state = state_of(mlp(), given)
    broken = state.with_tensors({"0.weight": state.tensors["0.weight"] * torch.nan})
    result = sharpness(States([broken, state], given), starts=1, iterations=2)
    assert np.isnan(result["max_gain"][0]) and np.isnan(result["keskar"][0]) and result["max_gain"][1] > 0


@pytest.mark.parametrize(("starts", "iterations"), [(1, 3), (3, 2)])
def test_ascents_and_passes_are_those_the_card_counts(starts, iterations):
    given = examples()
    near, passes = Neighbourhood(state_of(mlp(), given), given), []

    def loss(v):
        passes.append(1)
        return near.loss(v)

    def both(v):
        passes.append(3)  # a backward pass counts as two
        return near.both(v)

    largest_gains(loss, both, near.weights, (1e-3, 2e-3, 4e-3), starts=starts, iterations=iterations)
    counted = sharpness.card.passes({"starts": starts, "iterations": iterations}, 1)
    assert counted / 2 < sum(passes) <= counted + 2


def test_loss_and_gradient_of_one_pass_are_those_of_two():
    given = examples()
    state = state_of(mlp(), given)
    loss, gradient = state.loss_and_gradient(given)
    assert loss == pytest.approx(state.loss(given), rel=1e-12)
    assert all(torch.equal(value, gradient[name]) for name, value in state.gradient(given).items())


def test_a_network_of_16_bits_is_moved_in_more():
    given = examples(12, dtype=torch.bfloat16)
    model = mlp((4, 8, 3), dtype=torch.bfloat16)
    near = Neighbourhood(state_of(model, given), given)
    exact = state_of(model.double(), given.double()).flat()
    assert near.weights.dtype == torch.float64 and torch.equal(near.weights, exact)
    v = torch.ones_like(near.weights) * 1e-5
    wide = Neighbourhood(state_of(model.double(), given.double()), given.double())
    assert near.loss(v) == pytest.approx(wide.loss(v), rel=1e-12) != near.loss(v * 0)
    assert near.accuracy(v) == wide.accuracy(v)
