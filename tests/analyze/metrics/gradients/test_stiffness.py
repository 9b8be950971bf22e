import numpy as np
import pytest

from analyze.metrics.gradients.stiffness import stiffness
from tests.oracles.stiffness import stiffness as slow

SPLIT = np.array(["train"] * 5 + ["test"] * 4)
IDS = np.array([0, 1, 2, 3, 3, 0, 1, 2, 9])


def grams(gradients):
    """Gram and cosine (step, layer, example, example_2) of gradients (step, layer, example, weight)."""
    gram = gradients @ gradients.swapaxes(-1, -2)
    length = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    scale = length[..., None] * length[..., None, :]
    return gram, np.divide(gram, scale, out=np.full(gram.shape, np.nan), where=scale > 0)


def test_three_gradients_by_hand():
    gram, cosine = grams(np.array([[[[1.0, 0.0], [3.0, 0.0], [-4.0, 4.0]]]]))
    result = stiffness(gram, cosine, np.array(["train"] * 3), np.arange(3))
    assert result["cosine"].item() == pytest.approx((1 - 2 / np.sqrt(2)) / 3)
    assert result["sign"].item() == pytest.approx(-1 / 3)
    assert result["n_undefined"].item() == 0 and result["n_pairs"].item() == 3


def test_agrees_with_loops_over_pairs():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(2, 3, 9, 6))
    gradients[0, 1, 2] = 0.0
    gram, cosine = grams(gradients)
    result = stiffness(gram, cosine, SPLIT, IDS)
    assert result["pair"] == ["train-train", "test-test", "train-test"]
    for step, layer in np.ndindex(2, 3):
        for p, pair in enumerate(result["pair"]):
            expected = slow(gradients[step, layer], SPLIT, IDS, *pair.split("-"))
            got = [result[name][step, p, layer] for name in ("cosine", "sign", "n_undefined")]
            np.testing.assert_allclose(got, expected, atol=1e-14)


def test_same_id_of_another_split_is_another_example():
    gram, cosine = grams(np.ones((1, 1, 2, 3)))
    result = stiffness(gram, cosine, np.array(["train", "test"]), np.array([7, 7]))
    np.testing.assert_allclose(result["cosine"][0, :, 0], [np.nan, np.nan, 1.0])
    same = stiffness(gram, cosine, np.array(["train", "train"]), np.array([7, 7]))
    assert np.isnan(same["cosine"]).all() and same["n_pairs"].tolist() == [0]


def test_zero_gradient_is_left_out_or_counted_as_zero():
    gram, cosine = grams(np.array([[[[1.0], [1.0], [0.0]]]]))
    split, ids = np.array(["train"] * 3), np.arange(3)
    result = stiffness(gram, cosine, split, ids)
    assert result["cosine"].item() == 1.0 and result["n_undefined"].item() == 2
    assert result["sign"].item() == pytest.approx(1 / 3)
    counted = stiffness(gram, cosine, split, ids, zero="as_zero")
    assert counted["cosine"].item() == pytest.approx(1 / 3) and counted["n_undefined"].item() == 2


def test_length_of_gradients_does_not_matter():
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(1, 2, 9, 4))
    longer = gradients * rng.uniform(0.1, 10, size=(1, 2, 9, 1))
    plain, scaled = (stiffness(*grams(g), SPLIT, IDS) for g in (gradients, longer))
    np.testing.assert_allclose(plain["cosine"], scaled["cosine"], rtol=1e-12)
    np.testing.assert_array_equal(plain["sign"], scaled["sign"])


def test_standard_errors_are_those_of_leaving_out_one_example():
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(1, 1, 9, 4)) + rng.normal(size=4)
    result = stiffness(*grams(gradients), SPLIT, IDS)
    for name in ("cosine", "sign"):
        without = [
            stiffness(*grams(np.delete(gradients, k, 2)), np.delete(SPLIT, k), np.arange(8))[name][0, 1, 0]
            for k in np.flatnonzero(SPLIT == "test")
        ]
        jackknife = np.sqrt(3 / 4 * np.square(np.subtract(without, np.mean(without))).sum())
        assert result[f"{name}_error"][0, 1, 0] == pytest.approx(jackknife)


def test_standard_errors_cover_the_mean_of_all_examples():
    rng = np.random.default_rng(3)
    centre, within = rng.normal(size=6), 0
    everyone = stiffness(
        *grams(rng.normal(size=(1, 1, 400, 6)) + centre), np.array(["train"] * 400), np.arange(400)
    )
    for _ in range(60):
        some = stiffness(
            *grams(rng.normal(size=(1, 1, 20, 6)) + centre), np.array(["train"] * 20), np.arange(20)
        )
        off = abs(some["cosine"].item() - everyone["cosine"].item())
        within += off < 1.96 * some["cosine_error"].item()
    assert 50 <= within <= 60


def test_two_examples_have_no_standard_error():
    result = stiffness(*grams(np.ones((1, 1, 2, 3))), np.array(["train"] * 2), np.arange(2))
    assert np.isnan(result["cosine_error"]).all() and result["cosine"].item() == pytest.approx(1)


def test_pairs_without_a_sign_and_with_sign_0_are_counted_apart():
    gram, cosine = grams(np.array([[[[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [np.nan, 0.0]]]]))
    result = stiffness(gram, cosine, np.array(["train"] * 5), np.arange(5))
    counts = {name: result[name].item() for name in ("n_pairs", "n_undefined", "n_undefined_sign", "n_zero")}
    # Of ten pairs four hold the NaN, three more the zero; two of the rest are at right angles.
    assert counts == {"n_pairs": 10, "n_undefined": 7, "n_undefined_sign": 4, "n_zero": 5}
    assert result["sign"].item() == pytest.approx(1 / 6)
