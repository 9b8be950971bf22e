import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analyze.comparison.factorial_design import Design
from analyze.comparison.rank_correlation import (
    STATISTICS,
    agreement,
    conditional_mutual_information,
    draws,
    granulated_kendall,
    kendall,
    sign_errors,
)
from tests.oracles import agreement as oracle

EVERYONE = np.ones((1, 24), np.float32)


def factorial(seed, holes=0, repeats=1):
    """A measure and a target with ties over widths x depths x rates, `repeats` runs of each."""
    rng = np.random.default_rng(seed)
    axes = list(zip(*itertools.product([32, 64, 128], ["a", "b"], [0.1, 0.01], range(repeats)), strict=True))
    n = len(axes[0])
    x, y = rng.integers(0, 8, n).astype(float), rng.integers(0, 6, n).astype(float)
    x[rng.permutation(n)[:holes]] = np.nan
    return x, y, axes[:3]


def one(x, y, axes, counts=EVERYONE, environments=None):
    return agreement(x, y, Design.of(axes, len(x), environments), counts)


@pytest.mark.parametrize(("seed", "holes", "repeats"), [(0, 0, 2), (1, 5, 2), (2, 0, 1), (3, 3, 1)])
def test_every_statistic_equals_the_slow_one(seed, holes, repeats):
    x, y, axes = factorial(seed, holes, repeats)
    assert kendall(x, y) == pytest.approx(oracle.kendall(x, y))
    whole, by_axis, _ = granulated_kendall(x, y, axes)
    expected, expected_axis = oracle.granulated(x, y, axes)
    assert whole == pytest.approx(expected, nan_ok=True)
    np.testing.assert_allclose(by_axis, expected_axis)
    least, _ = conditional_mutual_information(x, y, axes)
    assert least == pytest.approx(oracle.cmi(x, y, axes), abs=1e-12)
    errors = one(x, y, axes, np.ones((1, len(x)), np.float32))["environment"]
    slow = oracle.environments(x, y, axes)
    np.testing.assert_allclose(np.sort(errors[~np.isnan(errors)]), np.sort(list(slow.values())))


def test_a_resample_counts_as_the_runs_it_drew():
    x, y, axes = factorial(4, holes=2)
    counts = draws(len(x), 6, seed=1)
    design = Design.of(axes, len(x))
    for row in counts:
        drawn = np.repeat(np.arange(len(x)), row.astype(int))
        labels = [np.array(axis)[drawn] for axis in axes]
        found = agreement(x, y, design, row[None])["low"]  # of one resample, its own value
        kept = drawn[~np.isnan(x[drawn])]
        errors = list(oracle.environments(x[drawn], y[drawn], labels).values())
        expected = [
            stats.pearsonr(x[kept], y[kept]).statistic,
            stats.spearmanr(x[kept], y[kept]).statistic,
            stats.kendalltau(x[kept], y[kept]).statistic,
            oracle.granulated(x[drawn], y[drawn], labels)[0],
            oracle.cmi(x[drawn], y[drawn], labels),
            np.mean(errors),
            sorted(errors)[math.ceil(0.9 * len(errors)) - 1],
            max(errors),
        ]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hand_worked_values():
    width, depth = [1, 1, 2, 2], [1, 2, 1, 2]
    # Along width both groups agree: tau 1. Along depth 1->2 agrees at width 1 and not at width 2: tau 0.
    whole, by_axis, pairs = granulated_kendall([1, 2, 3, 4], [1, 2, 4, 3], [width, depth])
    assert whole == 0.5 and by_axis.tolist() == [1, 0] and pairs.tolist() == [2, 2]
    # Five of six pairs agree: 1 - h(5/6). Knowing width, one of two does: nothing is left to learn.
    assert conditional_mutual_information([1, 2, 3, 4], [1, 2, 4, 3], [], 0)[0] == pytest.approx(
        1 + 5 / 6 * math.log2(5 / 6) + 1 / 6 * math.log2(1 / 6)
    )
    # Each group is one pair, of which the measure says everything, if with either sign.
    assert conditional_mutual_information([1, 2, 3, 4], [1, 2, 4, 3], [width, depth]) == (
        pytest.approx(0.349977, abs=1e-6),
        (),
    )
    # Three environments of four are right; the wrong one is depth at width 2.
    result = one([1, 2, 3, 4], [1, 2, 4, 3], [width, depth], np.ones((1, 4), np.float32))
    assert result["environment"].tolist() == [0, 0, 0, 1]
    assert result["value"][5:].tolist() == [0.25, 1, 1]


def test_a_measure_that_only_knows_a_hyper_parameter_says_nothing_given_it():
    lr = np.repeat([0.1, 0.01, 0.001], 8)
    rng = np.random.default_rng(0)
    gap = -np.log(lr) + rng.normal(0, 0.01, 24)
    measure = -np.log(lr)
    assert conditional_mutual_information(measure, gap, [], 0)[0] > 0.6
    least, given = conditional_mutual_information(measure, gap, [lr])
    assert least == 0 and given == (0,), "within one rate every pair of the measure is tied"


def test_ties_and_empty_environments():
    pairs, where = [[0, 1], [1, 2], [0, 3]], [0, 1, 3]
    errors = sign_errors([1, 1, 2, np.nan], [1, 2, 2, 3], pairs, where)
    assert errors[0] == 0.5, "a measure that is equal is half wrong"
    assert np.isnan(errors[1:]).all(), "no order in the target, no pair, or no value"


def test_runs_in_another_order_and_measures_on_another_scale():
    x, y, axes = factorial(5, repeats=2)
    counts = np.ones((1, len(x)), np.float32)
    straight = one(x, y, axes, counts)
    order = np.random.default_rng(1).permutation(len(x))
    shuffled = one(x[order], y[order], [np.array(axis)[order] for axis in axes], counts)
    np.testing.assert_allclose(shuffled["value"], straight["value"], atol=1e-12)
    bent = one(np.exp(x), y**3, axes, counts)
    np.testing.assert_allclose(bent["value"][1:], straight["value"][1:], atol=1e-12)
    assert abs(bent["value"][0] - straight["value"][0]) > 1e-3, "Pearson alone is not one of ranks"


def test_turning_a_measure_round():
    x, y, axes = factorial(6)
    up, down = (one(v, y, axes, np.ones((1, 12), np.float32)) for v in (x, -x))
    np.testing.assert_allclose(down["value"][:4], -up["value"][:4], atol=1e-12)
    assert down["value"][4] == pytest.approx(up["value"][4]), "information has no direction"
    np.testing.assert_allclose(down["environment"], 1 - up["environment"])


def test_undefined_cases_are_nan_and_no_warning():
    nothing = one([np.nan] * 3, [1, 2, 3], [[1, 2, 3]], draws(3, 20))
    assert np.isnan(nothing["value"]).all() and nothing["n_runs"] == 0 and not nothing["n_resamples"].any()
    constant = dict(zip(STATISTICS, one([0.1] * 3, [1, 2, 3], [], draws(3, 20))["value"], strict=True))
    assert np.isnan([constant["pearson"], constant["kendall"], constant["granulated"]]).all()
    assert constant["cmi"] == 0, "a constant tells nothing, which is defined"
    infinite = one([1, 2, np.inf], [1, 2, 3], [], np.ones((1, 3), np.float32))["value"]
    assert np.isnan(infinite[0]) and infinite[1] == infinite[2] == 1


def test_environments_by_label_compare_pairs_within_one():
    x, y = [1, 2, 3, 4], [1, 2, 4, 3]
    result = one(x, y, [], np.ones((1, 4), np.float32), environments=["mnist", "mnist", "svhn", "svhn"])
    assert result["environment"].tolist() == [0, 1]
    crossed = one(x, y, [[1, 2, 1, 2]], np.ones((1, 4), np.float32), environments=["m", "m", "s", "s"])
    assert crossed["environment"].tolist() == [0, 1]


def test_intervals_hold_the_value_and_narrow_with_runs():
    rng = np.random.default_rng(2)
    widths = []
    for n in (20, 160):
        x = rng.normal(size=n)
        result = agreement(x, x + rng.normal(size=n), Design.of([], n), draws(n, 300))
        assert (result["low"][:3] <= result["value"][:3]).all() and (
            result["value"][:3] <= result["high"][:3]
        ).all()
        widths.append(result["high"][:3] - result["low"][:3])
    assert (widths[1] < widths[0] / 1.5).all()


def test_draws_repeat_with_their_seed():
    assert np.array_equal(draws(9, 50, seed=3), draws(9, 50, seed=3))
    assert not np.array_equal(draws(9, 50, seed=3), draws(9, 50, seed=4))
    assert (draws(9, 50).sum(1) == 9).all()
