import numpy as np
import pytest

import analyze
from analyze.metrics.gradients.gradient_diversity import gradient_diversity
from analyze.plot import draw
from tests.oracles.gradient_diversity import gradient_diversity as slow
from tests.synthetic import write_archive


def gram(gradients):
    gradients = np.asarray(gradients, float)
    return gradients @ gradients.swapaxes(-1, -2)


def test_by_hand():
    # |g|² = 1, 4, 5; sum = (2, 4).
    result = gradient_diversity(gram([[[[1, 0], [0, 2], [1, 2]]]]))
    assert result["diversity"].item() == pytest.approx(10 / 20)
    assert result["batch_size_bound"].item() == pytest.approx(1.5)
    assert result["n_zero"].item() == 0


def test_agrees_with_the_gradients_themselves():
    gradients = np.random.default_rng(0).normal(size=(3, 2, 7, 5))
    gradients[1, 1, 3] = 0
    result = gradient_diversity(gram(gradients))
    for where in np.ndindex(3, 2):
        assert result["diversity"][where] == pytest.approx(slow(gradients[where]), rel=1e-12)
    assert result["n_zero"].tolist() == [[0, 0], [0, 1], [0, 0]]


def test_equal_orthogonal_cancelling_and_zero_gradients():
    orthogonal = np.eye(4)
    equal = np.full((4, 4), 0.1)
    cancelling = 0.1 * np.array([[1, 2, 3, 4], [-1, -2, -3, -4], [3, 1, 4, 1], [-3, -1, -4, -1]])
    diversity = gradient_diversity(gram([[equal, orthogonal, cancelling, np.zeros((4, 4))]]))["diversity"][0]
    np.testing.assert_allclose(diversity, [1 / 4, 1, np.inf, np.nan])


def test_rounding_of_a_gram_summed_over_layers_still_counts_as_cancelling():
    rng = np.random.default_rng(1)
    half = rng.normal(size=(6, 50)) * 10.0 ** rng.uniform(-3, 3, size=(1, 50))
    gradients = np.concatenate([half, -half])
    layers = sum(gram(gradients[:, part]) for part in (slice(0, 20), slice(20, 35), slice(35, 50)))
    assert gradient_diversity(layers[None, None])["diversity"].item() == np.inf


def test_order_and_scale_do_not_matter_and_the_input_is_unchanged():
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(1, 1, 8, 3))
    original = gram(gradients)
    kept = original.copy()
    plain = gradient_diversity(original)["diversity"]
    order = rng.permutation(8)
    np.testing.assert_allclose(
        gradient_diversity(gram(gradients[:, :, order]))["diversity"], plain, rtol=1e-12
    )
    np.testing.assert_allclose(gradient_diversity(1e-12 * original)["diversity"], plain, rtol=1e-12)
    np.testing.assert_array_equal(original, kept)


def test_a_gradient_that_is_not_finite_makes_its_step_undefined():
    products = np.stack([np.eye(2), np.full((2, 2), np.nan)])[:, None]
    assert np.isnan(gradient_diversity(products)["diversity"]).tolist() == [[False], [True]]


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["gradient_diversity"])["gradient_diversity"]
    figure = draw(gradient_diversity.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"n × gradient diversity (examples)", "step"} <= labels
