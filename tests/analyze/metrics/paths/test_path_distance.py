import numpy as np
import pytest

from analyze.metrics.paths.path_distance import path_distance
from tests.oracles import path_distance as slow


def made(n=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((2, 3, n, 30)) < 0.4, rng.normal(size=(n, 2, 3))


def computed(masks, inputs, **options):
    counts = masks.astype(np.int64)
    return path_distance(counts @ counts.swapaxes(-1, -2), counts.sum(-1), inputs, **options)


def test_three_examples_by_hand():
    masks = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=bool)[None, None]
    inputs = np.array([[0.0], [3.0], [4.0]])
    result = computed(masks, inputs)
    # Distances 3, 4, 1 with overlaps 2, 1, 0.
    assert result["pearson"].item() == pytest.approx(2 / np.sqrt(28 / 3))
    assert result["spearman"].item() == pytest.approx(0.5)
    np.testing.assert_allclose(result["distance"][:3], [1, 3, 4])
    np.testing.assert_allclose(result["overlap"][0, 0, :3], [0, 2, 1])


@pytest.mark.parametrize("normalized", [False, True])
def test_agrees_with_pairs_one_at_a_time(normalized):
    masks, inputs = made()
    masks[1, 2, 5] = False
    result = computed(masks, inputs, normalized=normalized)
    for step, site in np.ndindex(2, 3):
        points = slow.cloud(masks[step, site].tolist(), inputs.reshape(12, -1).tolist(), normalized)
        assert result["pearson"][step, site] == pytest.approx(slow.pearson(points), abs=1e-12)
        assert result["spearman"][step, site] == pytest.approx(slow.spearman(points), abs=1e-12)


def test_order_of_examples_and_units_does_not_matter():
    masks, inputs = made()
    rng = np.random.default_rng(3)
    order, units = rng.permutation(12), rng.permutation(30)
    plain, other = computed(masks, inputs), computed(masks[:, :, order][..., units], inputs[order])
    for name in ("pearson", "spearman"):
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-10)
    np.testing.assert_allclose(plain["distance"], other["distance"])


def test_original_space_is_raw_where_there_is_one():
    masks, inputs = made()
    raw = np.random.default_rng(8).random((12, 5))
    counts = masks.astype(np.int64)
    arrays = counts @ counts.swapaxes(-1, -2), counts.sum(-1), inputs
    original = path_distance(*arrays, raw=raw)
    assert original["attrs"]["space"] == "original"
    np.testing.assert_array_equal(original["pearson"], path_distance(*arrays[:2], raw)["pearson"])
    in_network = path_distance(*arrays, raw=raw, space="input")
    np.testing.assert_array_equal(in_network["pearson"], path_distance(*arrays)["pearson"])


def test_constant_overlap_and_too_few_examples_are_undefined():
    masks, inputs = made()
    dead = computed(masks & False, inputs)
    assert np.isnan(dead["pearson"]).all() and np.isnan(dead["spearman"]).all()
    pair = computed(masks[:, :, :2], inputs[:2])
    assert np.isnan(pair["pearson"]).all()
    alone = computed(masks[:, :, :1], inputs[:1])
    assert np.isnan(alone["spearman"]).all() and np.isnan(alone["distance"]).all()


def test_cloud_spans_all_distances():
    masks, inputs = made(n=60)
    result = computed(masks, inputs, points=100)
    full = computed(masks, inputs, points=60 * 59 // 2)
    assert result["distance"].shape == (100,) and np.all(np.diff(result["distance"]) >= 0)
    assert result["distance"][[0, -1]].tolist() == full["distance"][[0, -1]].tolist()
    assert not np.isnan(full["overlap"]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pairs_with_an_input_that_is_not_finite_are_left_out(value):
    masks, inputs = made()
    inputs[3] = value
    rest = np.delete(np.arange(len(inputs)), 3)
    whole, other = computed(masks, inputs), computed(masks[..., rest, :], inputs[rest])
    for name in ("pearson", "spearman"):
        np.testing.assert_allclose(whole[name], other[name])
    assert not np.isinf(whole["distance"]).any()
