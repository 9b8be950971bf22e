import numpy as np
import pytest

import analyze
from analyze.metrics.gradients.gradient_coherence import gradient_coherence
from analyze.metrics.gradients.gradient_diversity import gradient_diversity
from analyze.plot import draw
from tests.oracles.gradient_coherence import m_coherence as slow
from tests.synthetic import write_archive


def gram(gradients):
    gradients = np.asarray(gradients, float)
    return gradients @ gradients.swapaxes(-1, -2)


def test_by_hand():
    result = gradient_coherence(gram([[[[1, 0], [0, 2], [1, 2]]]]))
    assert result["m_coherence"].item() == pytest.approx(2.0)
    assert result["alpha"].item() == pytest.approx(2 / 3)


def test_agrees_with_the_expectation_over_drawn_pairs():
    gradients = np.random.default_rng(0).normal(size=(2, 2, 6, 4)) + 0.3
    result = gradient_coherence(gram(gradients))["m_coherence"]
    for where in np.ndindex(2, 2):
        assert result[where] == pytest.approx(slow(gradients[where]), rel=1e-12)


def test_equal_orthogonal_cancelling_and_zero_gradients():
    cancelling = [[0.1, 0.2, 0, 0], [-0.1, -0.2, 0, 0], [0.3, 0.1, 0, 0], [-0.3, -0.1, 0, 0]]
    result = gradient_coherence(gram([[np.full((4, 4), 0.1), np.eye(4), cancelling, np.zeros((4, 4))]]))
    np.testing.assert_allclose(result["m_coherence"][0], [4, 1, 0, np.nan])
    np.testing.assert_allclose(result["alpha"][0], [1, 1 / 4, 0, np.nan])
    assert result["n_zero"][0].tolist() == [0, 0, 0, 4]


def test_is_the_inverse_of_diversity_and_never_above_n():
    gradients = np.random.default_rng(1).normal(size=(1, 5, 9, 3))
    gradients[0, 0] = gradients[0, 0, :1]
    products = gram(gradients)
    coherence, diversity = gradient_coherence(products), gradient_diversity(products)
    np.testing.assert_allclose(coherence["m_coherence"], 1 / diversity["diversity"], rtol=1e-12)
    assert (coherence["m_coherence"] <= 9).all() and (coherence["alpha"] <= 1).all()


def test_order_of_examples_does_not_matter():
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(1, 1, 8, 3))
    plain, mixed = (gradient_coherence(gram(g)) for g in (gradients, gradients[:, :, rng.permutation(8)]))
    np.testing.assert_allclose(plain["m_coherence"], mixed["m_coherence"], rtol=1e-12)


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["gradient_coherence"])["gradient_coherence"]
    figure = draw(gradient_coherence.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"m-coherence (examples)", "step"} <= labels
