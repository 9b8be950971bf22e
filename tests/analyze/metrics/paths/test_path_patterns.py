import numpy as np
import pytest

import analyze
from analyze.metrics.paths.path_patterns import path_patterns
from analyze.plot import draw
from tests.oracles.path_patterns import path_patterns as slow
from tests.synthetic import write_archive

SITES = [slice(0, 4), slice(4, 11)]


def arrays(masks, sites=SITES):
    """What the metric reads, of masks (step, example, unit)."""
    parts = [masks[..., part].astype(np.int64) for part in sites]
    overlap = np.stack([part @ part.swapaxes(-1, -2) for part in parts], axis=1)
    return overlap, np.stack([part.sum(-1) for part in parts], axis=1), masks.sum(1), sites


def test_by_hand():
    masks = np.array([[[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]], bool)
    result = path_patterns(*arrays(masks, [slice(0, 4)]))
    assert result["n_patterns"].item() == 2 and result["n_patterns_network"].item() == 2
    assert result["hamming"].item() == pytest.approx((0 + 2 + 2) / 3 / 4)
    assert result["hamming_std"].item() == pytest.approx(np.std([0, 0.5, 0.5]))
    assert result["n_dead"].item() == 1 and result["n_always_on"].item() == 1
    assert result["n_units"].tolist() == [4]


def test_agrees_with_sets_and_loops():
    rng = np.random.default_rng(0)
    masks = rng.random((2, 9, 11)) < 0.3
    masks[0, 3], masks[0, 7, :4] = masks[0, 1], masks[0, 2, :4]
    result = path_patterns(*arrays(masks))
    names = ("n_patterns", "hamming", "hamming_std", "n_dead", "n_always_on")
    for step in range(2):
        for site, part in enumerate(SITES):
            got = [result[name][step, site] for name in names]
            np.testing.assert_allclose(got, slow(masks[step][:, part]), rtol=1e-12)
        assert result["n_patterns_network"][step] == slow(masks[step])[0]


def test_a_pattern_inside_another_is_distinct_and_silence_is_a_pattern():
    masks = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]], bool)
    assert path_patterns(*arrays(masks, [slice(0, 3)]))["n_patterns"].item() == 3


def test_sites_can_agree_each_and_the_network_differ():
    masks = np.array([[[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]]], bool)
    result = path_patterns(*arrays(masks, [slice(0, 2), slice(2, 4)]))
    assert result["n_patterns"].tolist() == [[2, 2]] and result["n_patterns_network"].tolist() == [3]


def test_one_example_has_one_pattern_and_no_distance():
    result = path_patterns(*arrays(np.ones((1, 1, 11), bool)))
    assert result["n_patterns_network"].item() == 1 and np.isnan(result["hamming"]).all()


def test_order_of_examples_and_units_does_not_matter():
    rng = np.random.default_rng(1)
    masks = rng.random((1, 8, 11)) < 0.5
    units = np.concatenate([rng.permutation(4), 4 + rng.permutation(7)])
    plain, mixed = (path_patterns(*arrays(m)) for m in (masks, masks[:, rng.permutation(8)][..., units]))
    for name, value in plain.items():
        np.testing.assert_allclose(value, mixed[name], rtol=1e-12)


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["path_patterns"])["path_patterns"]
    figure = draw(path_patterns.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"distinct patterns", "step"} <= labels
