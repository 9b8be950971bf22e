import numpy as np
import pytest

import analyze
from analyze.metrics.gradients.gradient_confusion import gradient_confusion
from analyze.plot import draw
from tests.oracles.gradient_confusion import gradient_confusion as slow
from tests.synthetic import write_archive

NAMES = ("eta", "min_cosine", "conflicting", "n_undefined")


def gram(gradients):
    gradients = np.asarray(gradients, float)
    return gradients @ gradients.swapaxes(-1, -2)


def test_by_hand():
    # Products: 1·−2 = −2, 1·3 = 3 with cosine 0.6, (−2, 0)·(3, 4) = −6 with cosine −0.6.
    result = gradient_confusion(gram([[[[1, 0], [-2, 0], [3, 4]]]]))
    assert result["eta"].item() == 6 and result["min_cosine"].item() == -1
    assert result["conflicting"].item() == pytest.approx(2 / 3)


def test_agrees_with_loops_over_pairs():
    gradients = np.random.default_rng(0).normal(size=(3, 2, 7, 4))
    gradients[0, 0, 2] = 0
    gradients[2, 1] = np.abs(gradients[2, 1])
    result = gradient_confusion(gram(gradients))
    for where in np.ndindex(3, 2):
        got = [result[name][where] for name in NAMES]
        np.testing.assert_allclose(got, slow(gradients[where]), rtol=1e-12)


def test_gradients_that_agree_have_no_confusion():
    result = gradient_confusion(gram([[[[1, 0], [1, 1], [0, 1]]]]))
    assert (
        result["eta"].item() == 0 and result["min_cosine"].item() == 0 and result["conflicting"].item() == 0
    )


def test_undefined_cases():
    zero = gradient_confusion(gram([[[[0, 0], [0, 0], [1, 0]]]]))
    assert zero["eta"].item() == 0 and np.isnan(zero["min_cosine"].item()) and zero["n_undefined"].item() == 3
    alone = gradient_confusion(gram([[[[1, 2]]]]))
    assert all(np.isnan(alone[name].item()) for name in NAMES[:3]) and alone["n_undefined"].item() == 0
    products = gram([[[[1.0, 0], [2, 0], [-1, 0]]]])
    products[0, 0, 0] = products[0, 0, :, 0] = np.nan
    unknown = gradient_confusion(products)
    assert np.isnan(unknown["eta"].item()) and unknown["min_cosine"].item() == -1


def test_scaling_the_loss_scales_eta_only():
    products = gram(np.random.default_rng(1).normal(size=(1, 1, 6, 3)))
    plain, scaled = gradient_confusion(products), gradient_confusion(9 * products)
    assert scaled["eta"].item() == pytest.approx(9 * plain["eta"].item())
    assert scaled["min_cosine"].item() == pytest.approx(plain["min_cosine"].item())
    assert scaled["conflicting"].item() == plain["conflicting"].item()


def test_order_of_examples_does_not_matter():
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(1, 1, 8, 3))
    plain, mixed = (gradient_confusion(gram(g)) for g in (gradients, gradients[:, :, rng.permutation(8)]))
    for name in NAMES:
        np.testing.assert_allclose(plain[name], mixed[name], rtol=1e-12)


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["gradient_confusion"])["gradient_confusion"]
    figure = draw(gradient_confusion.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"smallest cosine", "step"} <= labels
