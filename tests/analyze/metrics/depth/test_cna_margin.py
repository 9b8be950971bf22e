import numpy as np

from analyze.metrics.depth.cna_area import cna_area
from analyze.metrics.depth.cna_margin import cna_margin
from tests.oracles import cna_margin as slow


def test_products_by_hand_keep_the_sign_and_the_undefined():
    area, gamma = np.array([0.5, 0.25, np.nan, 0.1]), np.array([2.0, -4.0, 1.0, np.nan])
    result = cna_margin(area, area / 2, area / 4, gamma)
    np.testing.assert_array_equal(result["polygon"], [1.0, -1.0, np.nan, np.nan])
    np.testing.assert_array_equal(result["absolute"], [0.5, -0.5, np.nan, np.nan])
    np.testing.assert_array_equal(result["lobe"], [0.25, -0.25, np.nan, np.nan])
    np.testing.assert_array_equal(result["gamma"], gamma)
    assert result["n_margins"].tolist() == [0, 0, 0, 0]
    counts = {"margin_n_examples": np.array(50), "margin_n_undefined": np.array([0, 3, 0, 50])}
    assert cna_margin(area, area, area, gamma, **counts)["n_margins"].tolist() == [50, 47, 50, 0]


def test_scaling_the_scores_scales_it_with_them():
    rng = np.random.default_rng(0)
    slope, alpha, split = rng.normal(size=(3, 60)), rng.random(60), np.repeat(["train", "test"], 30)
    area = cna_area(slope, alpha, split, window=4)
    gamma = rng.normal(size=3)
    once, twice = (cna_margin(area["polygon"], area["absolute"], area["lobe"], g) for g in (gamma, 2 * gamma))
    np.testing.assert_allclose(twice["polygon"], 2 * once["polygon"], rtol=1e-15)
    np.testing.assert_allclose(once["absolute"], slow.products(area["absolute"], gamma), rtol=1e-15)
