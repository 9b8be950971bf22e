import numpy as np

from analyze.arrays import View
from analyze.metrics.paths.path_cross_similarity import path_cross_similarity
from tests.fake_archive import fake_archive
from tests.oracles.path_cross_similarity import pairs


def run(now, before, **options):
    """Masks (step, site, example, unit)."""
    now, before = now.astype(np.int64), before.astype(np.int64)
    grams = [masks @ masks.swapaxes(-1, -2) for masks in (now, before, now * before)]
    return path_cross_similarity(*grams, **options)


def test_one_pair_by_hand():
    now = np.array([[[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]])  # they share four units
    before = np.array([[[[1, 0, 0, 0, 1], [1, 1, 1, 0, 0]]]])  # they shared one of those
    result = run(now, before)
    np.testing.assert_allclose(result["mean"], [[0.5]])
    assert result["std"].item() == 0 and result["n_undefined"].item() == 0
    assert np.flatnonzero(result["histogram"][0, 0]).tolist() == [25] and result["bin"][25] == 0.51


def test_agrees_with_products_unit_by_unit():
    archive = fake_archive(sizes={"train": 10})
    view = View(archive, ("train",), (10,), steps=(1, 2, 3), lead=0)
    result = path_cross_similarity(*map(view.get, ("overlap", "overlap_previous", "overlap_joint")))
    masks = archive.probes["train"].masks
    for k, step in enumerate((1, 2, 3)):
        for s, site in enumerate(("relu", "relu#2")):
            values = np.array(pairs(masks[site, step].tolist(), masks[site, step - 1].tolist()))
            defined = values[~np.isnan(values)]
            np.testing.assert_allclose(result["mean"][k, s], defined.mean(), rtol=1e-13)
            np.testing.assert_allclose(result["std"][k, s], defined.std(), rtol=1e-12)
            assert result["n_undefined"][k, s] == np.isnan(values).sum()
            np.testing.assert_array_equal(result["histogram"][k, s], np.histogram(defined, 50, (0, 1))[0])


def test_repeated_snapshot_is_exactly_one():
    masks = np.random.default_rng(0).random((1, 1, 6, 40)) < 0.5
    result = run(masks, masks)
    assert result["mean"].item() == 1.0 and result["histogram"][0, 0, -1] == 15


def test_pairs_that_share_nothing_are_undefined():
    now, before = np.zeros((2, 1, 1, 3, 4), bool)
    now[..., :2, 0] = before[..., :2, 0] = True
    result = run(now, before, bins=4)
    assert result["n_undefined"].item() == 2 and result["histogram"].tolist() == [[[0, 0, 0, 1]]]
    nothing = run(now & False, before)
    assert np.isnan(nothing["mean"]).all() and nothing["n_undefined"].item() == 3
    assert np.isnan(nothing["histogram"]).all()


def test_going_back_in_time_is_the_same():
    now, before = np.random.default_rng(2).random((2, 2, 2, 5, 9)) < 0.5
    np.testing.assert_allclose(run(now, before)["mean"], run(before, now)["mean"], rtol=1e-14)
