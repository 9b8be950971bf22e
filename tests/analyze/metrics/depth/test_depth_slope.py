import numpy as np
import pytest

import analyze
from analyze.metrics.depth.depth_slope import depth_slope
from tests.oracles.depth_slope import slope
from tests.synthetic import write_archive
from tracer.archive import open as open_archive

UNITS = np.array([4, 8, 2, 10])


def run(pre, post=None, **options):
    return depth_slope(pre, pre if post is None else post, UNITS[: pre.shape[-1]], UNITS, **options)["slope"]


def test_straight_lines_by_hand():
    pre = np.array([[[1.0, 3.0, 5.0, -100.0], [7.0, 7.0, 7.0, 9.0]]])
    np.testing.assert_array_equal(run(pre), [[2.0, 0.0]])


@pytest.mark.parametrize("where", ["pre", "post"])
def test_agrees_with_normal_equations_on_an_archive(tmp_path, where):
    write_archive(tmp_path / "run.zarr", steps=(0, 3))
    archive = open_archive(tmp_path / "run.zarr")
    result = analyze.run(archive, ["depth_slope"], options={"depth_slope": {"where": where}})["depth_slope"]
    assert result.attrs["where"] == where
    for name, probe in archive.probes.items():
        for step in (0, 3):
            pre, post = probe.sums(step)
            rows = pre[:, :-1] if where == "pre" else post
            got = result["slope"].sel(step=step)[result["probe"].values == name]
            np.testing.assert_allclose(got, [slope(row.tolist()) for row in rows], rtol=1e-10, atol=1e-12)


def test_mean_divides_by_the_width():
    pre = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(run(pre, normalize="mean"), run(pre / UNITS), rtol=1e-12)
    np.testing.assert_allclose(run(pre, where="post", normalize="mean"), run(pre / UNITS, where="post"))


def test_fewer_than_two_layers_have_no_slope():
    assert np.isnan(run(np.ones((1, 3, 2)))).all()
    assert np.isnan(run(np.ones((1, 3, 1)))).all()


def test_broken_sums_are_undefined_for_their_example_alone():
    pre = np.random.default_rng(1).normal(size=(1, 3, 4))
    pre[0, 1, 0], pre[0, 2, 1] = np.nan, np.inf
    assert np.isnan(run(pre)).tolist() == [[False, True, True]]


def test_adding_a_constant_changes_nothing():
    pre = np.random.default_rng(2).normal(size=(2, 5, 4))
    np.testing.assert_allclose(run(pre + 3.0), run(pre), atol=1e-14)
