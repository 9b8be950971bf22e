import numpy as np
import pytest

from analyze.metrics.representations import activation_cross_similarity as module
from analyze.metrics.representations.activation_cross_similarity import (
    activation_cross_similarity,
    cross_similarity,
)
from tests.oracles import activation_cross_similarity as slow


def made(steps=3, n=7, seed=0):
    rng = np.random.default_rng(seed)
    return [np.maximum(rng.normal(size=(steps, n, units)), 0).astype(np.float32) for units in (11, 6)]


def previous(array):
    return np.concatenate([np.zeros_like(array[:1]), array[:-1]])


def computed(values, **options):
    return activation_cross_similarity(values, [previous(v) for v in values], **options)


def test_one_pair_by_hand():
    now, before = np.array([[3.0, 0.0, 1.0], [1.0, 5.0, 4.0]]), np.array([[1.0, 1.0, 0.0], [2.0, 3.0, 9.0]])
    # Products (3, 0, 4) and (2, 3, 0): 6 over 5 times the root of 13.
    np.testing.assert_allclose(cross_similarity(now, before), [6 / (5 * np.sqrt(13))])


def test_agrees_with_products_unit_by_unit():
    values = made()
    values[1][1, 2] = 0.0
    result = computed(values)
    for step, site in np.ndindex(3, 2):
        before = values[site][step - 1] if step else values[site][0] * 0
        found = slow.similarities(values[site][step], before)
        defined = [value for value in found if value is not None]
        assert result["n_undefined"][step, site] == len(found) - len(defined)
        mean, std = (np.mean(defined), np.std(defined)) if defined else (np.nan, np.nan)
        assert result["mean"][step, site] == pytest.approx(mean, rel=1e-12, nan_ok=True)
        assert result["std"][step, site] == pytest.approx(std, rel=1e-10, nan_ok=True)
        counts = np.histogram(defined, 50, (0, 1))[0] if defined else np.full(50, np.nan)
        np.testing.assert_array_equal(result["histogram"][step, site], counts)
    assert result["n_undefined"][0].tolist() == [21, 21]


def test_identical_snapshots_give_exactly_one():
    values = made(steps=1)[0][0]
    found = cross_similarity(values, values)
    assert np.all(found == 1.0)


def test_units_in_several_parts_give_the_same(monkeypatch):
    values = made()
    whole = computed(values)
    monkeypatch.setattr(module, "UNITS_AT_ONCE", 4)
    np.testing.assert_allclose(computed(values)["mean"], whole["mean"], rtol=1e-14)


def test_order_of_examples_and_scale_do_not_matter():
    values = made()
    order = np.random.default_rng(1).permutation(7)
    plain = computed(values)
    other = computed([v[:, order] * 8 for v in values])
    np.testing.assert_allclose(plain["mean"], other["mean"], rtol=1e-12)
    np.testing.assert_array_equal(plain["histogram"], other["histogram"])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_activations(size):
    values = made(steps=2)[0]
    found = cross_similarity((values[1] * np.float32(size)), values[0])
    np.testing.assert_allclose(found, cross_similarity(values[1], values[0]), rtol=1e-5)


def test_an_activation_that_is_not_a_number_is_undefined():
    values = made(steps=2)
    values[0][1, 0, 0] = np.nan
    values[0][1, 1, 0] = np.inf
    result = computed(values)
    assert result["n_undefined"][1, 0] >= 11 and np.isfinite(result["mean"][1, 0])


def test_negative_similarity_counts_in_the_first_bin():
    now = np.array([[[1.0, 1.0], [1.0, 1.0]]])
    result = activation_cross_similarity([now], [np.array([[[-1.0, -1.0], [1.0, 1.0]]])], bins=4)
    assert result["mean"].item() == -1.0 and result["histogram"].tolist() == [[[1, 0, 0, 0]]]
