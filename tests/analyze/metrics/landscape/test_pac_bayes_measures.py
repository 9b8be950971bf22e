import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.landscape.pac_bayes_measures import NAMES, Search, measures, pac_bayes_measures, radius
from analyze.replay import Examples
from analyze.replay.neighbourhood import draws
from tests import replayed
from tests.oracles import pac_bayes_measures as slow

RADII = {"sigma": 0.3, "sigma_mag": 0.7, "alpha": 0.2, "alpha_mag": 0.4}
QUICK = {"draws": 4, "restarts": 2, "iterations": 4, "halvings": 10}


@cache
def classifier(n=60):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    inputs = torch.randn(n, 2, generator=generator, dtype=torch.float64) * 0.3 + labels[:, None] * 2.0 - 1.0
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        model.bias.zero_()
    given = Examples(inputs, labels)
    return replayed.state_of(model, given), given


@pytest.fixture(scope="module")
def found():
    state, given = classifier()
    initial = {name: value.numpy() - 0.1 for name, value in state.tensors.items()}
    return pac_bayes_measures(replayed.States([state], given), initial, 200, **QUICK)


@pytest.mark.parametrize("moved", [False, True])
def test_formulas_agree_with_one_weight_at_a_time(moved):
    rng = np.random.default_rng(0)
    w, start = rng.normal(size=(2, 7))
    found = measures(w, start, RADII, 300, 2.5, 1e-3, moved=moved)
    expected = slow.measures(w.tolist(), start.tolist(), RADII, 300, 2.5, 1e-3)
    if moved:
        assert found.pop("pacbayes_mag_orig") != pytest.approx(expected.pop("pacbayes_mag_orig"))
        assert found.pop("sharpness_mag_orig") != pytest.approx(expected.pop("sharpness_mag_orig"))
    assert found == pytest.approx(expected) and len(expected) == len(NAMES) - 2 * moved


def test_radii_are_where_accuracy_has_fallen_by_the_target(found):
    state, given = classifier()
    weight, bias = (state.tensors[name].numpy() for name in ("weight", "bias"))
    x, y = given.inputs.numpy().tolist(), given.targets.tolist()
    vectors = [vector.numpy() for vector in draws(state.flat(), 4, 0)]

    def fall(spread):
        reached = []
        for vector in vectors:
            move = vector * spread
            reached.append(
                slow.accuracy((weight + move[:4].reshape(2, 2)).tolist(), (bias + move[4:]).tolist(), x, y)
            )
        return abs(sum(reached) / 4 - slow.accuracy(weight.tolist(), bias.tolist(), x, y))

    def bisected(spread_of):
        low, high, drop = 0.0, 2.0, 0.0
        for _ in range(10):
            middle = (low + high) / 2
            drop = fall(spread_of(middle))
            if abs(drop - 0.1) < 0.01:
                break
            low, high = (low, middle) if drop > 0.1 else (middle, high)
        return (np.nan, np.nan) if high == 2.0 and abs(drop - 0.1) >= 0.01 else (middle, drop)

    flat = np.concatenate([weight.ravel(), bias])
    plain = bisected(lambda sigma: np.full(6, sigma))
    mag = bisected(lambda sigma: np.sqrt(sigma**2 * flat**2 + 1e-6))
    assert [found["sigma"][0], found["drop_sigma"][0]] == pytest.approx(plain)
    assert [found["sigma_mag"][0], found["drop_sigma_mag"][0]] == pytest.approx(mag, nan_ok=True)
    assert np.isfinite(plain).all() and found["accuracy"][0] == 1 and found["n_examples"] == 60


def test_measures_are_those_of_the_weights_without_biases(found):
    w = np.array([-1.0, -1.0, 1.0, 1.0])
    radii = {name: found[name][0] for name in RADII}
    for name, value in slow.measures(w, w - 0.1, radii, 200, math.log(8), 1e-3).items():
        assert found[name][0, 0] == pytest.approx(value, nan_ok=True), name
        assert found[name][0, 1] == pytest.approx(math.sqrt(value / 200), nan_ok=True)


def test_no_point_of_a_box_is_worse_than_its_worst_corner():
    # Both classes' scores are linear in the move, so the worst accuracy in a box is at one of its corners.
    state, given = classifier()
    near = Search(state, given, 0.1, 0.01, 10, 0)
    alpha, drop, spread = near.box(2, 6, False)
    corners = (torch.tensor(np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T) * alpha).double()
    worst = 1 - min(near.near.accuracy(corner) for corner in corners)
    assert 0 < drop <= worst + 1e-12 and 0 <= spread <= drop
    assert near.box(2, 6, False) == (alpha, drop, spread)


def test_bisection_ends_where_it_must():
    assert radius(lambda sigma: 0.05, 0.1, 0.01, 15) == (pytest.approx(math.nan, nan_ok=True),) * 2
    jump = radius(lambda sigma: float(sigma > 0.3), 0.1, 0.01, 15)
    assert jump[0] == pytest.approx(0.3, abs=1e-4) and jump[1] in (0.0, 1.0)


def test_scaling_all_weights_scales_the_noise_they_take(found):
    state, given = classifier()
    smaller = state.with_tensors({"weight": state.tensors["weight"] / 2})
    half = Search(smaller, given, 0.1, 0.01, 10, 0).noise(4, None)[0]
    near = Search(*classifier(), 0.1, 0.01, 10, 0)
    assert near.noise(4, None)[1] == pytest.approx(found["drop_sigma"][0])
    assert half == pytest.approx(found["sigma"][0] / 2, rel=0.15)
    published = near.noise(4, None, published=True)[0]
    assert published**2 == pytest.approx(found["sigma"][0], rel=0.15)


def test_a_network_that_is_never_right_has_no_radius():
    state, given = classifier()
    wrong = Examples(given.inputs, 1 - given.targets)
    initial = {name: value.numpy() for name, value in state.tensors.items()}
    result = pac_bayes_measures(replayed.States([state], wrong), initial, 60, **QUICK | {"halvings": 2})
    assert np.isnan(result["sharpness_flatness"]).all() and result["accuracy"][0] == 0
    with pytest.raises(ValueError, match="as_published_code"):
        pac_bayes_measures(replayed.States([state], given), initial, 60, noise="no")
