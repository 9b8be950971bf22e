import numpy as np
import pytest

import analyze
from analyze.arrays import View
from analyze.metrics.paths.path_self_similarity import path_self_similarity
from tests.fake_archive import fake_archive
from tests.oracles.path_self_similarity import similarity as slow
from tests.synthetic import write_archive
from tracer.archive import open as open_archive
from tracer.errors import MissingTraceError


def run(now, before, **options):
    """Masks (step, site, example, unit)."""
    return path_self_similarity(now.sum(-1), before.sum(-1), (now & before).sum(-1), **options)


def test_three_paths_by_hand():
    now = np.array([[[[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]]], bool)
    before = np.array([[[[1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]]], bool)
    result = run(now, before)
    np.testing.assert_allclose(result["similarity"][0, 0], [np.sqrt(0.5), 1.0, np.nan])
    np.testing.assert_allclose(result["mean"], [[(1 + np.sqrt(0.5)) / 2]])
    np.testing.assert_allclose(result["std"], [[(1 - np.sqrt(0.5)) / 2]])
    assert result["n_undefined"].tolist() == [[1]]


def test_agrees_with_the_recorded_paths(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 4, 8))
    archive = open_archive(tmp_path / "run.zarr")
    result = analyze.run(archive, ["path_self_similarity"])["path_self_similarity"]
    assert result["similarity"][0].isnull().all() and result.attrs["lag"] == "epoch"
    for name, probe in archive.probes.items():
        rows = np.flatnonzero(result["example_probe"] == name)
        for k, (before, now) in enumerate([(0, 4), (4, 8)], start=1):
            paths = zip(probe.masks("relu", now).tolist(), probe.masks("relu", before).tolist(), strict=True)
            got = result["similarity"][k, 0, rows]
            np.testing.assert_allclose(got, [slow(a, b) for a, b in paths], rtol=1e-14)


def test_same_path_is_exactly_one():
    masks = np.random.default_rng(0).random((2, 3, 5, 17)) < 0.5
    assert (run(masks, masks)["similarity"] == 1.0).all()


def test_order_of_units_and_of_time_does_not_matter():
    rng = np.random.default_rng(1)
    now, before = rng.random((2, 2, 3, 5, 17)) < 0.5
    order = rng.permutation(17)
    expected = run(now, before)["similarity"]
    np.testing.assert_array_equal(run(now[..., order], before[..., order])["similarity"], expected)
    np.testing.assert_array_equal(run(before, now)["similarity"], expected)


def test_against_the_last_snapshot():
    archive = fake_archive(sizes={"train": 9})
    view = View(archive, ("train",), (9,), steps=(1, 3))
    names = ("path_count", "path_count_previous", "path_common", "path_count_last", "path_common_last")
    now, before, both, last, with_last = map(view.get, names)
    found = path_self_similarity(
        now, before, both, path_count_last=last, path_common_last=with_last, against="last"
    )
    masks = [archive.probes["train"].masks["relu#2", step].tolist() for step in (1, 3)]
    expected = [slow(a, b) for a, b in zip(*masks, strict=True)]
    np.testing.assert_allclose(found["similarity"][0, 1], expected, rtol=1e-14)
    assert (found["similarity"][1] == 1.0).all()
    with pytest.raises(MissingTraceError, match="needs masks at the last snapshot"):
        path_self_similarity(now, before, both, against="last")
