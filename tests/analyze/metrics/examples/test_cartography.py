import numpy as np
import pytest

from analyze.metrics.examples.cartography import NAMES, cartography
from tests.oracles.cartography import slow

ENDS = np.array([True, False, True, True, True])
STEPS = np.array([0, 3, 4, 8, 12])


def made(seed=0, n=6, classes=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(5, n, classes)), rng.integers(0, classes, n)


@pytest.mark.parametrize("burn_out", [None, 2])
def test_agrees_with_one_example_after_another(burn_out):
    scores, labels = made()
    found = cartography(scores, labels, STEPS, ENDS, burn_out=burn_out)
    for i, label in enumerate(labels):
        expected = slow(scores[[2, 3, 4]][:burn_out, i], label)
        assert {name: found[name][i] for name in NAMES} == pytest.approx(expected, nan_ok=True)
    assert found["n_epochs"].tolist() == [burn_out or 3] * 6
    assert found["confidence_mean"] == pytest.approx(found["confidence"].mean())


def test_forgetting_and_never_correct():
    right = np.array([[1.0, 0.0], [0.0, 1.0]])
    scores = np.stack([right, right, right[::-1], right, right[::-1]])
    found = cartography(scores, np.array([0, 1]), STEPS, ENDS, at="snapshots")
    assert found["forgetfulness"].tolist() == [2, 2] and found["correctness"].tolist() == [0.5, 0.5]
    never = cartography(scores * 0 + [1, 0], np.array([1, 1]), STEPS, ENDS)
    assert np.isnan(never["forgetfulness"]).all() and never["n_never_correct"] == 2


def test_what_is_undefined_is_left_out_and_counted():
    scores, labels = made()
    scores[3, 0] = np.nan
    labels[1] = -100
    found = cartography(scores, labels, STEPS, ENDS)
    assert found["n_epochs"].tolist() == [2, 0, 3, 3, 3, 3] and found["n_undefined"] == 1
    assert found["confidence"][0] == pytest.approx(slow(scores[[2, 4], 0], labels[0])["confidence"])
    alone = cartography(scores, labels, STEPS, ENDS, burn_out=1)
    assert np.isnan(alone["variability"]).all() and np.isfinite(alone["confidence"][2:]).all()
    none = cartography(scores, labels, STEPS, ENDS * 0 == 1)
    assert np.isnan(none["confidence"]).all() and none["n_undefined"] == 6


def test_relabelling_classes_changes_nothing():
    scores, labels = made()
    order = np.array([2, 0, 1])
    first = cartography(scores, labels, STEPS, ENDS)
    second = cartography(scores[..., order], np.argsort(order)[labels], STEPS, ENDS)
    for name in NAMES:
        np.testing.assert_allclose(first[name], second[name])
    with pytest.raises(ValueError, match="'epochs' or 'snapshots'"):
        cartography(scores, labels, STEPS, ENDS, at="steps")
