import math

import numpy as np
import pytest

from analyze.arrays.classes import entropy
from analyze.metrics.outcome.training_measures import training_measures

WHEN = (
    np.array([0, 4, 8, 12]),
    np.array([False, False, True, True]),
    np.array([0, 1, 1, 2]),
)  # step, ends, epoch


def made(means, n=5):
    scores = np.random.default_rng(0).normal(size=(len(means), n, 3))
    return np.array(means)[:, None] * np.ones(n), np.array([entropy(snapshot) for snapshot in scores])


def slow_entropy(row):
    powers = [math.exp(value) for value in row]
    return -sum(p / sum(powers) * math.log(p / sum(powers)) for p in powers)


def test_agrees_with_one_example_after_another():
    losses, entropies = made([2.0, 0.4, 0.1, 0.02])
    scores = np.random.default_rng(0).normal(size=(4, 5, 3))
    found = training_measures(losses, entropies, *WHEN)
    expected = [sum(slow_entropy(row) for row in snapshot) / 5 for snapshot in scores]
    np.testing.assert_allclose(found["output_entropy"], expected, rtol=1e-12)
    assert found["steps_to_0_1"] == 8 and math.isnan(found["steps_0_1_to_0_01"]) and found["n_censored"] == 1


def test_a_loss_that_rises_again_was_reached():
    losses, entropies = made([0.05, 3.0, 0.01, 0.5])
    found = training_measures(losses, entropies, *WHEN)
    assert (found["steps_to_0_1"], found["steps_0_1_to_0_01"], found["n_censored"]) == (0, 8, 0)
    never = training_measures(losses + 1, entropies, *WHEN)
    assert math.isnan(never["steps_to_0_1"]) and never["n_censored"] == 2


def test_noise_is_that_at_the_first_end_of_an_epoch_and_at_the_last():
    trace = np.array([[1.0, 5.0], [1.0, 6.0], [1.0, 7.0], [1.0, np.nan]])
    found = training_measures(*made([1.0] * 4), *WHEN, gradient_noise_trace=trace)
    assert (found["gradient_noise_epoch1"], found["gradient_noise_final"]) == (7, 7)
    assert math.isnan(training_measures(*made([1.0] * 4), *WHEN)["gradient_noise_final"])
    later = *WHEN[:2], np.array([0, 3, 6, 9])
    found = training_measures(*made([1.0] * 4), *later, gradient_noise_trace=trace)
    assert math.isnan(found["gradient_noise_epoch1"]) and found["gradient_noise_final"] == 7


def test_what_is_undefined_is_left_out_and_counted():
    losses, entropies = made([1.0, 2.0, 3.0, 4.0])
    losses[1, 0], entropies[2] = np.inf, np.nan
    found = training_measures(losses, entropies, *WHEN)
    assert found["train_loss"].tolist() == [1, 2, 3, 4] and np.isnan(found["output_entropy"][2])
    assert found["n_undefined"].tolist() == [0, 1, 5, 0]


def test_certain_and_shifted_scores():
    assert entropy(np.array([[1e4, 0.0]])) == pytest.approx(0)
    scores = np.random.default_rng(1).normal(size=(4, 3))
    np.testing.assert_allclose(entropy(scores + 100), entropy(scores[:, ::-1]), rtol=1e-12)
