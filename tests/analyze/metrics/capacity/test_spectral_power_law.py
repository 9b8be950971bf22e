import math

import numpy as np
import pytest

from analyze.metrics.capacity.spectral_power_law import NAMES, fit, of_weight, spectral_power_law, spectrum
from tests.oracles.spectral_power_law import slow_fit


def test_agrees_with_one_eigenvalue_after_another():
    weight = np.random.default_rng(0).normal(size=(20, 30))
    values = np.linalg.eigvalsh(weight @ weight.T)
    found, expected = of_weight(weight), slow_fit(values)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    alpha = expected["alpha"]
    assert found["alpha_hat"] == pytest.approx(alpha * math.log10(max(values)))
    assert found["log_alpha_norm"] == pytest.approx(math.log10(sum(value**alpha for value in values)))
    assert found["alpha_error"] == pytest.approx((alpha - 1) / math.sqrt(expected["n_tail"]))


def test_slices_of_a_kernel_are_pooled():
    kernel = np.random.default_rng(1).normal(size=(4, 6, 2, 3))
    values = []
    for i in range(2):
        for j in range(3):
            values += np.linalg.eigvalsh(kernel[:, :, i, j] @ kernel[:, :, i, j].T).tolist()
    np.testing.assert_allclose(spectrum(kernel), sorted(values), rtol=1e-9)
    found = of_weight(kernel)
    assert found["alpha_hat_ww"] == pytest.approx(found["alpha_hat"] - found["alpha"] * math.log10(2))
    assert found["n_eigenvalues"] == 24


def test_a_pareto_sample_has_its_exponent():
    values = (1 - np.random.default_rng(0).random(2000)) ** (-1 / 1.5)
    found = fit(values)
    assert abs(found["alpha"] - 2.5) < 3 * found["alpha_error"] and found["distance"] < 0.05


def test_scale_changes_only_what_it_must():
    weight = np.random.default_rng(2).normal(size=(12, 15))
    first, second = of_weight(weight), of_weight(3 * weight[::-1])
    for name in ("alpha", "distance", "n_tail"):
        assert second[name] == pytest.approx(first[name])
    assert second["x_min"] == pytest.approx(9 * first["x_min"])


def test_layers_that_are_not_fitted_and_their_mean():
    rng = np.random.default_rng(3)
    weights = {
        "a": rng.normal(size=(12, 12)),
        "b": rng.normal(size=(3, 12)),
        "c": rng.normal(size=(14, 12)),
        "d": np.ones(3),
    }
    layers = {"a": ["a"], "b": ["b"], "c": ["c"], "d": ["d"]}
    result = spectral_power_law([weights, weights | {"a": weights["a"] * np.nan}], layers)
    assert result["n_fitted"].tolist() == [2, 1] and result["layer"].tolist() == ["a", "b", "c", "d", "all"]
    assert np.isnan(result["alpha"][0, [1, 3]]).all() and result["n_eigenvalues"][0].tolist() == [
        12,
        3,
        12,
        0,
        27,
    ]
    for name in NAMES:
        assert result[name][0, -1] == pytest.approx((result[name][0, 0] + result[name][0, 2]) / 2)
    assert result["alpha"][1, -1] == result["alpha"][1, 2]


def test_equal_eigenvalues_have_no_law():
    assert math.isnan(fit(np.ones(5))["alpha"]) and math.isnan(fit([3.0])["alpha"])
    assert math.isnan(of_weight(np.eye(12))["alpha"]) and of_weight(np.zeros((12, 12))) == {
        "n_eigenvalues": 0
    }
