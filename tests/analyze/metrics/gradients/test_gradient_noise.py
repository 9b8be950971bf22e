import numpy as np
import pytest

import analyze
from analyze.metrics.gradients.gradient_noise import gradient_noise
from analyze.plot import draw
from tests.oracles.gradient_noise import gradient_noise as slow
from tests.synthetic import write_archive


def gram(gradients):
    gradients = np.asarray(gradients, float)
    return gradients @ gradients.swapaxes(-1, -2)


def test_by_hand():
    # Mean (2, 0); deviations (±1, 0) and (0, ±3): covariance diag(1/2, 9/2).
    result = gradient_noise(gram([[[[1, 0], [3, 0], [2, 3], [2, -3]]]]), k=5)
    assert result["trace"].item() == pytest.approx(5) and result["signal"].item() == pytest.approx(4)
    assert result["noise_scale"].item() == pytest.approx(5 / 4)
    assert result["effective_rank"].item() == pytest.approx(25 / (1 / 4 + 81 / 4))
    np.testing.assert_allclose(result["eigenvalue"][0, 0], [4.5, 0.5, 0, 0, np.nan], atol=1e-12)
    assert result["rank"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("weights", [3, 12])
def test_agrees_with_the_covariance_of_the_weights(weights):
    gradients = np.random.default_rng(0).normal(size=(2, 1, 6, weights)) + 0.5
    result = gradient_noise(gram(gradients), k=5)
    for step in range(2):
        trace, signal, values = slow(gradients[step, 0])
        assert result["trace"][step, 0] == pytest.approx(trace, rel=1e-10)
        assert result["signal"][step, 0] == pytest.approx(signal, rel=1e-10)
        padded = [*values, 0.0, 0.0][:5]
        np.testing.assert_allclose(result["eigenvalue"][step, 0], padded, atol=1e-12)


def test_equal_gradients_have_no_noise():
    result = gradient_noise(gram(np.full((1, 1, 7, 3), 0.1)))
    assert result["trace"].item() == 0 and result["noise_scale"].item() == 0
    assert np.isnan(result["effective_rank"].item())


def test_only_noise_and_nothing_at_all():
    cancelling = gradient_noise(gram([[[[1, 0], [-1, 0]]]]))
    assert cancelling["noise_scale"].item() == np.inf and cancelling["effective_rank"].item() == 1
    nothing = gradient_noise(np.zeros((1, 1, 3, 3)))
    assert nothing["trace"].item() == 0 and np.isnan(nothing["noise_scale"].item())


def test_a_matrix_that_is_not_finite_is_undefined_and_stops_nothing():
    products = np.stack([np.eye(3), np.full((3, 3), np.inf)])[:, None]
    result = gradient_noise(products)
    assert np.isfinite(result["trace"][0]).all() and np.isnan(result["trace"][1]).all()
    assert np.isnan(result["eigenvalue"][1]).all()


def test_order_of_examples_and_a_common_shift_leave_the_spectrum():
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(1, 1, 8, 4))
    plain = gradient_noise(gram(gradients))
    moved = gradient_noise(gram(gradients[:, :, rng.permutation(8)] + rng.normal(size=4)))
    np.testing.assert_allclose(plain["eigenvalue"], moved["eigenvalue"], atol=1e-12)
    np.testing.assert_allclose(plain["trace"], moved["trace"], rtol=1e-10)


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["gradient_noise"])["gradient_noise"]
    figure = draw(gradient_noise.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"noise scale (examples)", "step"} <= labels
