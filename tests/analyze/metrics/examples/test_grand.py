import numpy as np
import pytest

import analyze
from analyze.metrics.examples.grand import grand
from analyze.plot import draw
from tests.oracles.grand import grand as slow
from tests.synthetic import write_archive


def gram(gradients):
    return gradients @ gradients.swapaxes(-1, -2)


def test_by_hand():
    result = grand(gram(np.array([[[[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]]]])))
    assert result["score"][0, 0].tolist() == [5, 0, 1]
    assert result["mean"].item() == 2 and result["std"].item() == pytest.approx(np.sqrt(14 / 3))
    assert result["n_zero"].item() == 1


def test_agrees_with_the_gradients_themselves_and_adds_up_over_layers():
    gradients = np.random.default_rng(0).normal(size=(3, 5, 9))
    layers = np.stack([gram(gradients[..., :4]), gram(gradients[..., 4:]), gram(gradients)], axis=1)
    score = grand(layers)["score"]
    for step in range(3):
        np.testing.assert_allclose(score[step, 2], slow(gradients[step]), rtol=1e-12)
    np.testing.assert_allclose(score[:, 2] ** 2, score[:, 0] ** 2 + score[:, 1] ** 2, rtol=1e-12)


def test_permuting_examples_permutes_scores():
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(1, 1, 6, 3))
    order = rng.permutation(6)
    plain, mixed = grand(gram(gradients)), grand(gram(gradients[:, :, order]))
    np.testing.assert_allclose(plain["score"][..., order], mixed["score"])
    np.testing.assert_allclose(plain["std"], mixed["std"])


def test_scaling_the_loss_scales_the_score():
    products = gram(np.random.default_rng(2).normal(size=(1, 1, 6, 3)))
    np.testing.assert_allclose(grand(25 * products)["score"], 5 * grand(products)["score"])


def test_one_gradient_that_is_not_finite():
    products = np.eye(3)[None, None].copy()
    products[..., 1, 1] = np.nan
    result = grand(products)
    assert np.isnan(result["score"][0, 0]).tolist() == [False, True, False]
    assert result["mean"].item() == 1 and result["n_undefined"].item() == 1


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["grand"])["grand"]
    figure = draw(grand.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"gradient norm", "examples"} <= labels
