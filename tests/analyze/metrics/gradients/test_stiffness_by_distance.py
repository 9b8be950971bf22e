import math

import numpy as np
import pytest

from analyze.arrays.derived import cosines
from analyze.metrics.gradients.stiffness_by_distance import _bins, crossing, linear_fit, stiffness_by_distance
from tests.oracles import stiffness_by_distance as slow

LAYERS = np.array(["fc", "all"])


def made(steps=3, n=24, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 5)) + 1.0
    gradients = rng.normal(size=(steps, n, 7)) + inputs.sum(1)[:, None] / 4
    return gradients, inputs, rng.integers(0, classes, n)


def joint(gradients):
    """Cosine (step, layer, example, example_2): the layer `fc` is noise, `all` the gradients given."""
    gram = gradients @ gradients.swapaxes(1, 2)
    return cosines(np.stack([np.broadcast_to(np.eye(gram.shape[1]), gram.shape), gram], axis=1))


def test_two_classes_by_hand():
    # Class 0: orthogonal inputs with opposite gradients; class 1: equal inputs and gradients.
    inputs = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    gradients = np.array([[[1.0], [-1.0], [3.0], [5.0]]])
    result = stiffness_by_distance(joint(gradients), inputs, np.array([0, 0, 1, 1]), LAYERS, bins=2)
    np.testing.assert_allclose(result["bin"], [0.25, 0.75])
    np.testing.assert_array_equal(result["n_pairs"], [[1, 1]])
    np.testing.assert_allclose(result["cosine"], [[1.0, -1.0]])
    np.testing.assert_allclose(result["critical_length"], [[0.5, 0.5]])


def test_agrees_with_pairs_one_at_a_time():
    gradients, inputs, labels = made()
    gradients[1, 4] = 0.0
    result = stiffness_by_distance(joint(gradients), inputs, labels, LAYERS, bins=6)
    everything = [d for d, _ in slow.pairs(gradients[0].tolist(), inputs.tolist(), labels.tolist())]
    for step in range(3):
        found = slow.pairs(gradients[step].tolist(), inputs.tolist(), labels.tolist())
        counts, means, middles = slow.curve(found, 6, everything)
        np.testing.assert_array_equal(result["n_pairs"][step], counts)
        np.testing.assert_allclose(result["cosine"][step], np.array(means, dtype=float), atol=1e-13)
        np.testing.assert_allclose(result["bin"], middles)
        assert result["critical_length"][step, 1] == pytest.approx(slow.line_reaches_zero(found))
    assert result["n_pairs"][1].sum() < result["n_pairs"][0].sum()


def test_order_of_examples_and_names_of_classes_do_not_matter():
    gradients, inputs, labels = made()
    order = np.random.default_rng(5).permutation(len(labels))
    plain = stiffness_by_distance(joint(gradients), inputs, labels, LAYERS)
    other = stiffness_by_distance(joint(gradients[:, order]), inputs[order], 7 - labels[order], LAYERS)
    for name in ("cosine", "n_pairs", "critical_length"):
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-10)


def test_size_of_inputs_and_gradients_does_not_matter():
    gradients, inputs, labels = made()
    plain = stiffness_by_distance(joint(gradients), inputs, labels, LAYERS)
    scaled = stiffness_by_distance(joint(gradients * 4), inputs * 8, labels, LAYERS)
    np.testing.assert_allclose(plain["cosine"], scaled["cosine"], rtol=1e-12)


def test_between_classes_and_another_layer():
    gradients, inputs, labels = made()
    every = stiffness_by_distance(joint(gradients), inputs, labels, LAYERS, within_class=False)
    assert every["n_pairs"][0].sum() == 24 * 23 / 2
    noise = stiffness_by_distance(joint(gradients), inputs, labels, LAYERS, layer_name="fc")
    np.testing.assert_array_equal(noise["critical_length"], 0.0)


def test_no_pair_is_undefined():
    gradients, inputs, _ = made(n=4)
    result = stiffness_by_distance(joint(gradients), inputs, np.arange(4), LAYERS, bins=5)
    assert np.isnan(result["cosine"]).all() and np.isnan(result["critical_length"]).all()
    assert result["n_pairs"].sum() == 0
    zero = stiffness_by_distance(joint(gradients), inputs * 0, np.zeros(4), LAYERS)
    assert zero["n_pairs"].sum() == 0


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        ([-0.1, 0.5, 0.2], 0.0),
        ([0.5, 0.25, 0.125], math.inf),
        ([0.5, 0.0, 0.3], 0.2),
        ([0.3, np.nan, -0.1], 0.25),
        ([np.nan, np.nan, 0.1], math.inf),
        ([np.nan] * 3, math.nan),
    ],
)
def test_crossing(mean, expected):
    found = crossing(np.array([0.1, 0.2, 0.3]), np.array(mean))
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1.0, 0.5], 2.0),
        ([0.5, 1.0], math.inf),
        ([-1.0, 1.0], 0.0),
        ([0.0, -1.0], 0.0),
        ([1.0, 1.0], math.inf),
    ],
)
def test_linear_fit(value, expected):
    assert linear_fit(np.array([0.0, 1.0]), np.array(value)) == pytest.approx(expected)


def test_line_needs_two_distances():
    assert math.isnan(linear_fit(np.array([0.3, 0.3]), np.array([1.0, 0.0])))
    assert math.isnan(linear_fit(np.empty(0), np.empty(0)))


def test_a_constant_network_has_no_place_where_its_stiffness_ends():
    distance = np.linspace(0.1, 0.9, 7)
    rounded = 0.3 + 5e-17 * np.array([1, -1, 0, 1, 0, -1, 1])
    assert linear_fit(distance, rounded) == np.inf
    assert linear_fit(distance, -rounded) == 0.0
    assert crossing(distance, np.array([0.5, 1e-17, 0.2, -1.0, -1.0, -1.0, -1.0])) == pytest.approx(
        distance[1]
    )


def test_distances_that_differ_by_rounding_are_one():
    apart = 0.3670520231213873
    for distance in ([apart] * 3, [apart, np.nextafter(apart, 1), apart]):
        assert np.isnan(linear_fit(np.array(distance), np.array([0.5, 0.4, 0.9])))
        assert set(_bins(np.array(distance), 20)[0].tolist()) == {0}
