import numpy as np
import pytest

from analyze.metrics.depth.cna_area import cna_area, enclosed, lobes
from tests.oracles import cna_area as slow
from tracer.complexity import entropy_of


def made(n=40, steps=2, seed=0):
    rng = np.random.default_rng(seed)
    split = np.array(["train"] * (n + 6) + ["test"] * n)
    alpha = rng.random(len(split)) + 0.1 * (split == "test")
    slope = rng.normal(size=(steps, len(split))) + 2 * alpha * (split == "train")
    return slope, alpha, split


def oracle_curves(slope, alpha, split, window):
    rows = list(zip(alpha.tolist(), slope.tolist(), split.tolist(), strict=True))
    raw = [[row[:2] for row in rows if row[2] == name] for name in ("train", "test")]
    return slow.scale([slow.smooth(points, window) for points in raw])


def test_two_lines_by_hand():
    # Train from (0, 0) to (1, 1), test from (0, 0.5) to (1, 0.5): two triangles of base and height 1/2.
    alpha = np.array([0.0, 1.0, 2.0] * 2)
    slope = np.array([[0.0, 2.0, 4.0, 2.0, 2.0, 2.0]])
    split = np.array(["train"] * 3 + ["test"] * 3)
    result = cna_area(slope, alpha, split, window=1)
    np.testing.assert_allclose(result["absolute"], [0.25])
    np.testing.assert_allclose(result["lobe"], [0.125])
    assert result["n_distinct"].tolist() == [3, 3]
    assert result["curve"].tolist() == ["train", "test"]
    np.testing.assert_allclose(result["curve_slope"][0, :, [0, -1]], [[0, 0.5], [1, 0.5]])


def test_agrees_with_lists_and_a_fine_grid():
    slope, alpha, split = made()
    result = cna_area(slope, alpha, split, window=5)
    for step in range(2):
        train, test = oracle_curves(slope[step], alpha, split, 5)
        assert result["polygon"][step] == pytest.approx(slow.polygon(train, test), rel=1e-9)
        assert result["absolute"][step] == pytest.approx(slow.absolute(train, test), rel=1e-4)
        assert result["lobe"][step] == pytest.approx(slow.lobe(train, test), rel=1e-3)


def test_lobes_of_a_bow_tie_cancel_in_the_polygon_only():
    ramp = np.linspace(0, 1, 5)
    falling = (ramp, ramp[::-1])
    assert enclosed((ramp, ramp), falling) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(lobes((ramp, ramp), falling), [0.25, 0.25])


def test_same_curve_has_no_area():
    slope, alpha, split = made()
    train = split == "train"
    twice = np.concatenate([slope[:, train]] * 2, axis=1)
    split = np.repeat(["train", "test"], train.sum())
    result = cna_area(twice, np.tile(alpha[train], 2), split, window=5)
    np.testing.assert_allclose(result["polygon"], 0, atol=1e-14)
    np.testing.assert_allclose(result["absolute"], 0, atol=1e-14)


def test_units_and_order_do_not_matter():
    slope, alpha, split = made()
    alpha = alpha.round(1)
    order = np.random.default_rng(1).permutation(len(alpha))
    plain = cna_area(slope, alpha, split)
    other = cna_area(8 * slope[:, order] + 3, 4 * alpha[order] - 1, split[order])
    for name in ("polygon", "absolute", "lobe"):
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-9)


def test_undefined_cases():
    slope, alpha, split = made(n=10)
    assert np.isnan(cna_area(slope, alpha, split, window=11)["polygon"]).all()
    assert np.isnan(cna_area(slope, alpha, split)["curve_slope"]).all()
    constant = cna_area(slope, np.full(len(alpha), 0.1), split, window=2)
    assert np.isnan(constant["absolute"]).all()
    holes = np.where(np.arange(len(alpha)) % 2, slope, np.nan)
    assert np.isnan(cna_area(holes, alpha, split, window=6)["polygon"]).all()
    apart = cna_area(slope, alpha + 5 * (split == "test"), split, window=2)
    assert np.isnan(apart["absolute"]).all() and np.isfinite(apart["polygon"]).all()


def test_equal_complexities_share_their_slope():
    # Train (0; 0, 4) and (1; 2): the two of complexity 0 have slope 2, so the curve is flat; test rises from 0 to 4.
    alpha = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    split = np.repeat(["train", "test"], 3)
    for first, second in ((0.0, 4.0), (4.0, 0.0)):
        slope = np.array([[first, second, 2.0, 0.0, second, first + 4.0]])
        result = cna_area(slope, alpha, split, window=1)
        np.testing.assert_allclose(result["curve_slope"][0, 0], 0.5)
        np.testing.assert_allclose([result["absolute"], result["lobe"]], [[0.25], [0.125]])
        assert result["n_distinct"].tolist() == [2, 2]


def test_the_order_of_pixels_decides_nothing():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, 784) / 255
    renamed = [rng.permutation(256)[(255 * image).round().astype(int)] / 255 for _ in range(50)]
    assert len({entropy_of(other) for other in renamed}) == 1


def test_a_lobe_goes_on_where_the_curves_only_touch():
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    zero = np.zeros(5)
    np.testing.assert_allclose(lobes((x, np.array([1.0, 0.0, 1.0, -1.0, -1.0])), (x, zero)), [1.25, 1.25])
    np.testing.assert_allclose(lobes((x, np.array([1.0, 1e-17, -1e-17, 1e-17, 1.0])), (x, zero)), [1.0])
    np.testing.assert_array_equal(lobes((x, zero), (x, zero)), [0.0])
