import numpy as np
import pytest

from analyze.metrics.depth.cna_area import between, cna_area, enclosed
from tests.oracles import cna_area as slow


def made(n=40, steps=2, seed=0):
    rng = np.random.default_rng(seed)
    split = np.array(["train"] * (n + 6) + ["test"] * n)
    alpha = rng.random(len(split)) + 0.1 * (split == "test")
    slope = rng.normal(size=(steps, len(split))) + 2 * alpha * (split == "train")
    return slope, alpha, split, rng.permutation(500)[: len(split)]


def oracle_curves(slope, alpha, split, ids, window):
    rows = list(zip(alpha.tolist(), slope.tolist(), ids.tolist(), split.tolist(), strict=True))
    raw = [[row[:3] for row in rows if row[3] == name] for name in ("train", "test")]
    return slow.scale([slow.smooth(points, window) for points in raw])


def test_two_lines_by_hand():
    # Train from (0, 0) to (1, 1), test from (0, 0.5) to (1, 0.5): two triangles of base and height 1/2.
    alpha = np.array([0.0, 1.0, 2.0] * 2)
    slope = np.array([[0.0, 2.0, 4.0, 2.0, 2.0, 2.0]])
    split = np.array(["train"] * 3 + ["test"] * 3)
    result = cna_area(slope, alpha, split, np.arange(6), window=1)
    np.testing.assert_allclose(result["absolute"], [0.25])
    assert result["curve"].tolist() == ["train", "test"]
    np.testing.assert_allclose(result["curve_slope"][0, :, [0, -1]], [[0, 0.5], [1, 0.5]])


def test_agrees_with_lists_and_a_fine_grid():
    slope, alpha, split, ids = made()
    result = cna_area(slope, alpha, split, ids, window=5)
    for step in range(2):
        train, test = oracle_curves(slope[step], alpha, split, ids, 5)
        assert result["polygon"][step] == pytest.approx(slow.polygon(train, test), rel=1e-9)
        assert result["absolute"][step] == pytest.approx(slow.absolute(train, test), rel=1e-4)


def test_lobes_of_a_bow_tie_cancel_in_the_polygon_only():
    ramp = np.linspace(0, 1, 5)
    falling = (ramp, ramp[::-1])
    assert enclosed((ramp, ramp), falling) == pytest.approx(0.0, abs=1e-12)
    assert between((ramp, ramp), falling) == pytest.approx(0.5)


def test_same_curve_has_no_area():
    slope, alpha, split, ids = made()
    train = split == "train"
    twice = np.concatenate([slope[:, train]] * 2, axis=1)
    split = np.repeat(["train", "test"], train.sum())
    result = cna_area(twice, np.tile(alpha[train], 2), split, np.tile(ids[train], 2), window=5)
    np.testing.assert_allclose(result["polygon"], 0, atol=1e-14)
    np.testing.assert_allclose(result["absolute"], 0, atol=1e-14)


def test_units_and_order_do_not_matter():
    slope, alpha, split, ids = made()
    alpha = alpha.round(1)
    order = np.random.default_rng(1).permutation(len(ids))
    plain = cna_area(slope, alpha, split, ids)
    other = cna_area(8 * slope[:, order] + 3, 4 * alpha[order] - 1, split[order], ids[order])
    for name in ("polygon", "absolute"):
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-9)


def test_undefined_cases():
    slope, alpha, split, ids = made(n=10)
    assert np.isnan(cna_area(slope, alpha, split, ids, window=11)["polygon"]).all()
    assert np.isnan(cna_area(slope, alpha, split, ids)["curve_slope"]).all()
    constant = cna_area(slope, np.full(len(alpha), 0.1), split, ids, window=2)
    assert np.isnan(constant["absolute"]).all()
    holes = np.where(np.arange(len(alpha)) % 2, slope, np.nan)
    assert np.isnan(cna_area(holes, alpha, split, ids, window=6)["polygon"]).all()
    apart = cna_area(slope, alpha + 5 * (split == "test"), split, ids, window=2)
    assert np.isnan(apart["absolute"]).all() and np.isfinite(apart["polygon"]).all()
