import math

import numpy as np
import pytest

from analyze.numerics import (
    depth_slope,
    divide,
    mean_defined,
    mean_ranks,
    merge_ties,
    pairwise_distance,
    pearson,
    polygon_area,
    running_mean,
    settled,
    spearman,
    std_defined,
)

RNG = np.random.default_rng(0)


def slow_pearson(x, y):
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]
    mean_x = math.fsum(a for a, _ in pairs) / len(pairs)
    mean_y = math.fsum(b for _, b in pairs) / len(pairs)
    top = math.fsum((a - mean_x) * (b - mean_y) for a, b in pairs)
    x2 = math.fsum((a - mean_x) ** 2 for a, _ in pairs)
    y2 = math.fsum((b - mean_y) ** 2 for _, b in pairs)
    return top / math.sqrt(x2 * y2)


def slow_ranks(values):
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]


def test_pearson_matches_textbook_sum_and_skips_nan():
    x, y = RNG.normal(size=(3, 20)), RNG.normal(size=(3, 20))
    x[1, 4] = y[1, 7] = np.nan
    expected = [slow_pearson(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(pearson(x, y), expected, rtol=1e-12)


def test_spearman_shares_ranks_of_ties():
    x, y = RNG.integers(0, 5, 30).astype(float), RNG.integers(0, 5, 30).astype(float)
    assert spearman(x, y) == pytest.approx(slow_pearson(slow_ranks(x), slow_ranks(y)), rel=1e-12)


@pytest.mark.parametrize("correlate", [pearson, spearman])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([0.1] * 10, list(range(10))),
        ([1.0, np.nan], [1.0, 2.0]),
        ([np.nan] * 3, [1, 2, 3]),
    ],
)
def test_correlation_is_undefined(correlate, x, y):
    assert math.isnan(correlate(x, y))


def test_infinite_values_have_a_rank_but_no_deviation():
    assert math.isnan(pearson([1.0, 2.0, np.inf], [1.0, 2.0, 3.0]))
    assert spearman([1.0, 2.0, np.inf], [1.0, 2.0, 3.0]) == 1.0


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_correlation_survives_extreme_scales(scale):
    assert pearson(np.arange(5) * scale, np.arange(5) * scale) == 1.0
    assert pearson(np.arange(5) * scale, -np.arange(5.0)) == -1.0


def test_divide_never_warns():
    np.testing.assert_array_equal(divide([[1, 2], [3, 0]], [0, 4]), [[np.nan, 0.5], [np.nan, 0]])
    assert math.isnan(divide(1.0, np.nan))


def test_defined_moments_match_nan_functions_of_numpy():
    values = RNG.normal(size=(4, 6))
    values[0, :3] = np.nan
    np.testing.assert_allclose(mean_defined(values, 1)[0], np.nanmean(values, 1))
    np.testing.assert_allclose(std_defined(values, 1), np.nanstd(values, 1))
    assert mean_defined(values)[1] == 21


def test_running_mean_of_too_few_is_empty():
    assert running_mean([1.0, 2.0], 3).shape == (0,)
    np.testing.assert_allclose(running_mean(np.arange(10.0), 4), np.arange(7) + 1.5)


def test_polygon_area_of_circle_and_direction():
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    assert polygon_area(np.cos(angle), np.sin(angle)) == pytest.approx(np.pi, rel=1e-5)
    assert polygon_area(np.cos(-angle), np.sin(-angle)) == pytest.approx(np.pi, rel=1e-5)


def test_merge_ties_keeps_the_mean():
    x, y = merge_ties([3, 1, 3, 3], [0, 4, 3, 6])
    assert x.tolist() == [1, 3] and y.tolist() == [4, 3]


def test_near_duplicates_keep_their_distance():
    base = np.full(1000, 1e4)
    assert pairwise_distance([base, base])[0, 1] == 0.0
    assert pairwise_distance([base, base + 1e-6])[0, 1] == pytest.approx(1e-6 * math.sqrt(1000), rel=1e-4)


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_at_no_distance(kind, broken):
    points = np.random.default_rng(0).normal(size=(5, 3))
    points[2, 1] = broken
    distance = pairwise_distance(points, kind)
    rest = [0, 1, 3, 4]
    assert np.isnan(distance[2]).all() and np.isnan(distance[:, 2]).all()
    np.testing.assert_array_equal(distance[np.ix_(rest, rest)], pairwise_distance(points[rest], kind))


def test_cosine_distance_of_images_zero_and_opposite():
    images = np.zeros((3, 2, 2))
    images[1], images[2] = 1.0, -2.0
    distance = pairwise_distance(images, "cosine")
    assert np.isnan(distance[0]).all()
    np.testing.assert_allclose(distance[1:, 1:], [[0, 2], [2, 0]], atol=1e-15)


def test_mean_ranks_of_ties():
    values = RNG.integers(0, 4, 25)
    np.testing.assert_array_equal(mean_ranks(values), slow_ranks(values.tolist()))
    assert mean_ranks(np.empty(0)).shape == (0,)


def test_depth_slope_matches_a_fitted_line():
    sums = RNG.normal(size=(2, 3, 6))
    expected = np.polyfit(np.arange(1, 7), sums.reshape(-1, 6).T, 1)[0].reshape(2, 3)
    np.testing.assert_allclose(depth_slope(sums), expected, rtol=1e-12)
    assert np.isnan(depth_slope(np.ones((4, 1)))).all() and depth_slope(np.empty((4, 0))).shape == (4,)


def test_what_differs_by_rounding_alone_is_equal():
    third, almost = 0.3, 0.1 + 0.2
    assert third != almost
    assert mean_ranks([third, almost, 0.5]).tolist() == [1.5, 1.5, 3.0]
    assert mean_ranks([np.inf, 1.0, np.inf]).tolist() == [2.5, 1.0, 2.5]
    assert np.isnan(pearson([third, almost, third], [1.0, 2.0, 3.0]))
    assert pearson([1.0, 1.0 + 1e-9], [1.0, 2.0]) == 1.0
    x, y = merge_ties([third, 1.0, almost], [2.0, 5.0, 4.0])
    assert x.tolist() == [third, 1.0] and y.tolist() == [3.0, 5.0]
    values = settled([third, almost, -np.inf, np.nan, 0.0])
    assert values[0] == values[1] and values[2] == -np.inf and np.isnan(values[3]) and values[4] == 0
