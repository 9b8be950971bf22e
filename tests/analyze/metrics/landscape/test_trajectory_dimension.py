import math

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from analyze.metrics.landscape.trajectory_dimension import (
    VALUES,
    dimension,
    distances,
    of_distances,
    trajectory_dimension,
)
from analyze.numerics import pairwise_distance
from analyze.numerics.metric_spaces import spanning_edges, weighting
from tracer.errors import MissingTraceError

LAYERS = {"fc": ["fc.weight", "fc.bias"]}


def run_of(points):
    """Snapshots whose parameters are the rows of `points`."""
    return [{"fc.weight": row[:2].reshape(1, 2), "fc.bias": row[2:], "seen": np.zeros(3)} for row in points]


def test_spanning_tree_agrees_with_scipy():
    table = pairwise_distance(np.random.default_rng(0).normal(size=(40, 3)))
    expected = sorted(minimum_spanning_tree(table).data)
    np.testing.assert_allclose(sorted(spanning_edges(table)), expected)


def test_magnitude_of_points_on_a_line_and_of_three_alike():
    places = np.array([0.0, 1.0, 2.5, 7.0])
    weights, _ = weighting(np.abs(places[:, None] - places), 0.7)
    assert weights.sum() == pytest.approx(1 + sum(math.tanh(0.7 * gap / 2) for gap in np.diff(places)))
    assert weighting(np.ones((3, 3)) - np.eye(3), 1.0)[0].sum() == pytest.approx(3 / (1 + 2 * math.exp(-1)))
    assert np.isnan(weighting(np.zeros((2, 2)), 1.0)[0]).all()


@pytest.mark.parametrize(("d", "low", "high"), [(1, 0.9, 1.1), (2, 1.75, 2.1)])
def test_dimension_of_a_cube(d, low, high):
    points = np.random.default_rng(0).random((600, d))
    found = dimension(pairwise_distance(points), 1.0, 3, 0)
    assert low < found["ph_dimension"] < high
    assert found["ph_dimension"] == pytest.approx(1 / (1 - found["ph_slope"]))


def test_slope_agrees_with_trees_of_the_same_subsets():
    table = pairwise_distance(np.random.default_rng(1).random((400, 2)))
    found = dimension(table, 1.0, 2, 5)
    draw, rows = np.random.default_rng(5), []
    for _ in range(2):
        row = []
        for size in (200, 250, 300, 350):
            some = draw.choice(400, size, replace=False)
            row.append(math.log(minimum_spanning_tree(table[np.ix_(some, some)]).sum()))
        rows.append(row)
    x, y = np.log([200, 250, 300, 350]), np.mean(rows, axis=0)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert found["ph_slope"] == pytest.approx(slope)
    assert np.isfinite(found["ph_dimension_sd"]) and dimension(table[:399, :399], 1.0, 2, 5) == {}


def test_magnitude_dimension_of_a_segment():
    found = of_distances(np.abs(np.subtract.outer(*[np.linspace(0, 1, 120)] * 2)), 100)
    assert found["magnitude_dimension"] == pytest.approx(1, abs=0.25) and found["n_scales"] >= 4
    assert found["e_alpha"] == pytest.approx(1)


def test_iterates_are_the_last_ones_equally_far_apart():
    points = np.random.default_rng(2).normal(size=(6, 3))
    steps = np.array([0, 1, 2, 4, 6, 8])
    found = trajectory_dimension(run_of(points), LAYERS, steps, 100)
    expected = of_distances(pairwise_distance(points[2:].astype(np.float32)), 100)
    assert found["n_iterates"] == 4 and found["attrs"]["steps_between"] == 2
    for name in ("e_alpha", "positive_magnitude", "positive_magnitude_small"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    np.testing.assert_allclose(distances(points), pairwise_distance(points), rtol=1e-12)
    turned = trajectory_dimension(
        run_of(points @ np.linalg.qr(np.ones((3, 3)) + np.eye(3))[0]), LAYERS, steps, 100
    )
    assert turned["e_alpha"] == pytest.approx(found["e_alpha"], rel=1e-5)


def test_distances_of_losses():
    losses = np.array([[0.0, 1.0, 9.0], [2.0, 1.0, 7.0], [2.0, 4.0, 0.0]])
    split = np.array(["train", "train", "test"])
    options = {"losses": losses, "split": split, "distance": "losses"}
    found = trajectory_dimension(run_of(np.zeros((3, 3))), LAYERS, np.arange(3), 4, **options)
    assert found["e_alpha"] == 1 + 1.5
    with pytest.raises(MissingTraceError, match="needs losses of a train probe"):
        trajectory_dimension(run_of(np.zeros((3, 3))), LAYERS, np.arange(3), 4, distance="losses")


def test_what_does_not_move_or_is_not_finite_is_undefined():
    same = trajectory_dimension(run_of(np.ones((5, 3))), LAYERS, np.arange(5), 100)
    assert same["n_duplicates"] == 4 and all(math.isnan(same[name]) for name in VALUES)
    broken = np.ones((5, 3))
    broken[2, 0] = np.nan
    assert math.isnan(trajectory_dimension(run_of(broken), LAYERS, np.arange(5), 100)["e_alpha"])


def test_weights_of_float64_keep_their_digits():
    steps = 1e-9 * np.arange(1, 6.0)[:, None] ** 2 * np.array([1.0, 2.0, 2.0])
    found = trajectory_dimension(run_of(1 + steps), LAYERS, np.arange(5), 4)
    assert found["n_duplicates"] == 0
    assert found["e_alpha"] == pytest.approx(3e-9 * 24, rel=1e-6)
    single = trajectory_dimension(run_of(np.float32(1 + steps)), LAYERS, np.arange(5), 4)
    assert single["n_duplicates"] == 4
