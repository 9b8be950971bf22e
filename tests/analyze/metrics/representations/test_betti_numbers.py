import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path

from analyze.metrics.representations.betti_numbers import betti_numbers
from analyze.numerics import pairwise_distance
from analyze.numerics.metric_spaces import betti, hops
from tests.oracles import betti as slow

pytest.importorskip("gudhi", reason="the extra `topology`")


def circle(n, x=0.0):
    angle = np.arange(n) * 2 * np.pi / n
    return np.stack([np.cos(angle) + x, np.sin(angle)], 1)


def test_shapes_that_are_known():
    one = hops(pairwise_distance(circle(12)), 2)
    two = hops(pairwise_distance(np.concatenate([circle(12), circle(12, 9.0)])), 2)
    assert betti(one, 1) == [1, 1] and betti(one, 4) == [1, 0] and betti(two, 1) == [2, 2]
    square = pairwise_distance(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    assert betti(square, 1) == [1, 1] and betti(square, 1.42) == [1, 0]
    octahedron = pairwise_distance(np.concatenate([np.eye(3), -np.eye(3)]))
    assert betti(octahedron, 1.5, 3) == [1, 0, 1]
    assert betti(pairwise_distance(np.arange(3.0)[:, None]), 0.5, 3) == [3, 0, 0]


@pytest.mark.parametrize("k", [2, 4])
def test_agrees_with_ranks_of_boundary_matrices(k):
    rng = np.random.default_rng(k)
    points = rng.normal(size=(15, 2))
    distance = pairwise_distance(points)
    graph = slow.neighbours(points.tolist(), k)
    expected = shortest_path(graph, unweighted=True)
    np.testing.assert_array_equal(hops(distance, k), expected)
    for scale in (1.5, 2.5):
        assert betti(hops(distance, k), scale, 2) == slow.betti(expected, scale, 2)
    assert betti(distance, 1.0, 3) == slow.betti(distance, 1.0, 3)


def made(n=26):
    """Two circles of class 0 that a layer folds onto each other, and others of class 1."""
    rng = np.random.default_rng(0)
    both = np.concatenate([circle(12), circle(12, 9.0)])
    folded = np.concatenate([circle(12), 1.001 * circle(12)])
    inputs = np.concatenate([both, rng.normal(size=(n - 24, 2))])
    site = np.concatenate([folded, rng.normal(size=(n - 24, 2))])
    labels = np.array([0] * 24 + [1] * (n - 24))
    return {
        "activations": [np.stack([site, site])],
        "inputs": inputs,
        "labels": labels,
        "ids": np.arange(n),
        "correct": np.array([np.ones(n), np.arange(n) % 2]),
        "any_site": np.array(["relu"]),
    }


def test_a_layer_that_folds_two_circles_onto_one():
    result = betti_numbers(**made(), k=(3,), epsilon=(1.0,))
    assert result["betti"][0, :, 0, 0].tolist()[0] == [2, 2]
    assert result["total"][0, 0, 0, 0] == 4 and result["n_points"].tolist() == [24, 12]
    expected = slow.betti(hops(pairwise_distance(made()["activations"][0][0, :24]), 3), 1.0, 2)
    assert result["betti"][0, 1, 0, 0].tolist() == expected and sum(expected) < 4
    assert result["centre"][0].item() == 1 and result["place"].tolist() == ["input", "relu"]


def test_duplicates_are_merged_and_few_points_are_undefined():
    data = made()
    data["inputs"] = np.concatenate([data["inputs"][:12], data["inputs"][:12], data["inputs"][24:]])
    result = betti_numbers(**data, k=(2, 20), epsilon=(1.0,))
    assert result["n_duplicates"][0].tolist() == [12, 0]
    assert result["betti"][0, 0, 0, 0].tolist() == [1, 1] and np.isnan(result["betti"][0, 0, 1]).all()
    data["activations"][0][1, 1] = np.nan
    assert np.isnan(betti_numbers(**data, k=(2,))["betti"][1, 1]).all()
    assert np.isnan(betti_numbers(**data, label=7)["betti"]).all()


def test_scaling_and_turning_a_place_changes_nothing():
    data = made()
    first = betti_numbers(**data, k=(3,))
    turn = np.array([[0.0, 7.0], [-7.0, 0.0]])
    data["activations"] = [data["activations"][0] @ turn]
    np.testing.assert_array_equal(betti_numbers(**data, k=(3,))["betti"], first["betti"])
