import numpy as np
import pytest

from analyze.metrics.paths.path_neighbours import path_neighbours
from tests.oracles import path_neighbours as slow
from tracer.errors import MissingTraceError

SITES = np.array(["a", "b"])


def made(n=18, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((3, 2, n, 12)) < 0.4, rng.permutation(200)[:n]


def previous(array):
    return np.concatenate([np.zeros_like(array[:1]), array[:-1]])


def computed(masks, ids, **options):
    counts = masks.astype(np.int64)
    overlap = counts @ counts.swapaxes(-1, -2)
    return path_neighbours(overlap, previous(overlap), ids, SITES, **options)


def test_ranks_by_hand_with_a_tie():
    overlap = np.array([[[[5, 2, 3, 2], [2, 5, 1, 1], [3, 1, 5, 4], [2, 1, 4, 5]]]])
    result = path_neighbours(overlap, overlap, np.array([7, 9, 2, 4]), ["a"], baselines=(0, 2), top=2)
    # Around example 0 both 1 and 3 overlap by 2; 3 has the lower id.
    np.testing.assert_array_equal(result["rank"][0, 0], [[-1, 2, 0, 1], [1, 2, -1, 0]])
    assert result["turnover"].item() == 0.0


def test_agrees_with_sorted_lists():
    masks, ids = made()
    masks[1, 1, 10] = False
    result = computed(masks, ids)
    assert result["baseline"].tolist() == [5, 10, 15]
    for step, site in np.ndindex(3, 2):
        for k, baseline in enumerate((5, 10, 15)):
            expected = slow.rank(slow.overlap(masks[step, site], baseline), ids, baseline)
            np.testing.assert_array_equal(result["rank"][step, site, k], expected)
        before = masks[step - 1, site] if step else masks[0, site] & False
        turnover = slow.turnover(masks[step, site], before, ids, (5, 10, 15), 6)
        assert result["turnover"][step, site] == pytest.approx(
            np.nan if turnover is None else turnover, nan_ok=True
        )
    assert np.isnan(result["turnover"][0]).all()


def test_same_snapshot_twice_exchanges_nobody():
    masks, ids = made()
    result = computed(np.stack([masks[0], masks[0]]), ids)
    np.testing.assert_array_equal(result["turnover"][1], 0.0)
    np.testing.assert_array_equal(result["rank"][0], result["rank"][1])


def test_order_of_examples_does_not_matter():
    masks, ids = made()
    order = np.random.default_rng(2).permutation(len(ids))
    place = np.argsort(order)
    plain = computed(masks, ids)
    moved = computed(masks[:, :, order], ids[order], baselines=place[[5, 10, 15]])
    np.testing.assert_array_equal(plain["rank"][..., order], moved["rank"])
    np.testing.assert_allclose(plain["turnover"], moved["turnover"])


def test_activations_by_cosine_where_a_dead_example_has_no_rank():
    rng = np.random.default_rng(4)
    values = [rng.random((2, 17, 5)).astype(np.float32), rng.random((2, 17, 9)).astype(np.float32)]
    values[0][1, 3] = 0.0
    ids = rng.permutation(17)
    empty = np.zeros((2, 2, 17, 17))
    arrays = {"activations": values, "activations_previous": [previous(v) for v in values], "any_site": SITES}
    result = path_neighbours(empty, empty, ids, SITES[:1], kind="activation", **arrays)
    assert result["site"].tolist() == ["a", "b"]
    for step, site in np.ndindex(2, 2):
        rows = values[site][step].astype(float).tolist()
        expected = np.array([slow.rank(slow.cosine(rows, b), ids, b) for b in (5, 10, 15)])
        if (step, site) == (1, 0):
            expected[:, 3] = -1
        np.testing.assert_array_equal(result["rank"][step, site], expected)


def test_those_without_a_similarity_are_no_neighbours():
    table = np.full((2, 1, 8, 8), np.nan)
    table[:, :, 0, :3] = table[0, 0, :3, 0] = [9, 4, 5]
    found = path_neighbours(table, table, np.arange(8), SITES[:1], baselines=[0])
    assert found["rank"][0, 0, 0].tolist() == [-1, 1, 0, -1, -1, -1, -1, -1]
    assert found["turnover"].tolist() == [[0.0], [0.0]]


def test_what_is_missing_is_said():
    masks, ids = made(n=4)
    with pytest.raises(MissingTraceError, match="outside a probe of 4 examples"):
        computed(masks, ids)
    with pytest.raises(MissingTraceError, match="needs stored activations"):
        computed(masks, ids, kind="activation")
