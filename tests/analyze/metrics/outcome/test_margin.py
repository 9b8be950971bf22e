import numpy as np
import pytest

import analyze
from analyze.findings.intervals import ALPHA
from analyze.metrics.outcome.margin import margin, rank, ranks_around
from tests.oracles.margin import gamma, margins
from tests.oracles.margin import ranks_around as slow_ranks
from tests.synthetic import write_archive
from tracer.archive import open as open_archive


def test_four_margins_by_hand():
    result = margin(np.array([[4.0, -1.0, 2.0, 0.0]]), epsilon=0.3, q=(0.25, 0.5, 1.0))
    assert result["gamma"].tolist() == [0.0]  # ⌈0.3 · 4⌉ = 2, the second smallest
    assert result["quantile"].tolist() == [[-1.0, 0.0, 4.0]]
    assert result["n_negative"].tolist() == [2] and result["n_examples"] == 4


@pytest.mark.parametrize("percent", [1, 5, 7, 10, 50, 100])
def test_agrees_with_order_statistics_of_an_archive(tmp_path, percent):
    write_archive(tmp_path / "run.zarr", steps=(0, 3))
    archive, options = open_archive(tmp_path / "run.zarr"), {"margin": {"epsilon": percent / 100}}
    result = analyze.run(archive, ["margin"], options=options)["margin"]
    for name, probe in archive.probes.items():
        values = margins(probe.outputs(3).astype(float).tolist(), probe.targets.tolist())
        assert result["gamma"].sel(step=3, probe=name) == gamma(values, percent)
    assert result.attrs["epsilon"] == percent / 100


def test_rank_is_exact_where_floats_are_not():
    assert (rank(0.07, 100), rank(0.29, 100), rank(0.05, 7), rank(1.0, 3)) == (7, 29, 1, 3)
    assert rank(1e-9, 5) == 1


@pytest.mark.parametrize(("percent", "m"), [(5, 100), (5, 171), (30, 60), (100, 5)])
def test_ranks_around_a_quantile_agree_with_sums_of_fractions(percent, m):
    assert ranks_around(percent / 100, m) == slow_ranks(percent, m, ALPHA)


def test_an_interval_is_order_statistics_and_undefined_where_there_are_too_few():
    values = np.random.default_rng(0).permutation(1000).reshape(1, -1)
    result = margin(values)
    assert [result[name].item() for name in ("gamma_low", "gamma", "gamma_high")] == [26.0, 49.0, 77.0]
    few = margin(values[:, :100])
    assert np.isnan([few["gamma_low"], few["gamma_high"]]).all() and np.isfinite(few["gamma"]).all()
    assert np.isnan(margin(np.full((1, 3), np.nan))["gamma_low"]).all()


def test_undefined_margins_are_left_out_and_counted():
    result = margin(np.array([[np.nan, 1.0, 2.0, np.nan], [np.nan] * 4]), epsilon=0.5)
    np.testing.assert_array_equal(result["gamma"], [1.0, np.nan])
    assert result["n_undefined"].tolist() == [2, 4] and np.isnan(result["quantile"][1]).all()


def test_linear_interpolates_as_numpy_does():
    values = np.random.default_rng(0).normal(size=(3, 40))
    result = margin(values, method="linear")
    np.testing.assert_allclose(result["gamma"], np.quantile(values, 0.05, axis=1))


def test_scaling_the_scores_scales_gamma_and_order_does_not_matter():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 30))
    expected = margin(values)["gamma"]
    np.testing.assert_array_equal(margin(4 * values[:, rng.permutation(30)])["gamma"], 4 * expected)


def test_levels_lie_between_0_and_1():
    for wrong in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=r"lies in \(0, 1\]"):
            margin(np.zeros((1, 3)), epsilon=wrong)
