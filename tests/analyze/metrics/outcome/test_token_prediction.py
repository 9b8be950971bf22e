"""Loss, perplexity and accuracy over tokens, against sums over one token after another."""

import math

import numpy as np
import pytest

from analyze.metrics.outcome.token_prediction import token_prediction

RNG = np.random.default_rng(0)


def made(steps=2, examples=4, length=8):
    log_probs = np.log(RNG.uniform(0.05, 1, (steps, examples, length)))
    correct = (RNG.random(log_probs.shape) < 0.5).astype(float)
    out = RNG.random(log_probs.shape) < 0.3
    log_probs[out], correct[out] = np.nan, np.nan
    return log_probs, correct


def test_agrees_with_one_token_after_another():
    log_probs, correct = made()
    found = token_prediction(log_probs, correct)
    for step in range(2):
        total = hits = n = 0
        for example in range(4):
            for token in range(8):
                if not math.isnan(log_probs[step, example, token]):
                    total -= log_probs[step, example, token]
                    hits += correct[step, example, token]
                    n += 1
        assert found["loss"][step] == pytest.approx(total / n)
        assert found["perplexity"][step] == pytest.approx(math.exp(total / n))
        assert found["accuracy"][step] == pytest.approx(hits / n)
        assert found["n_tokens"][step] == n


def test_the_gain_is_early_loss_minus_late_loss():
    log_probs = -np.array([[[4.0, 4.0, 3.0, 2.0, 2.0, 2.0, 1.0, 1.0]]])
    found = token_prediction(log_probs, np.zeros((1, 1, 8)))
    assert found["context_gain"].tolist() == [3.0]
    assert token_prediction(log_probs, np.zeros((1, 1, 8)), share=0.5)["context_gain"].tolist() == [1.75]
    np.testing.assert_array_equal(found["loss_at"], -log_probs[:, 0])


def test_what_does_not_count_is_in_no_mean():
    log_probs, correct = np.full((1, 2, 4), np.nan), np.full((1, 2, 4), np.nan)
    found = token_prediction(log_probs, correct)
    assert found["n_tokens"].tolist() == [0]
    assert all(np.isnan(found[name]).all() for name in ("loss", "perplexity", "accuracy", "context_gain"))
    log_probs[0, 0, 0], correct[0, 0, 0] = -np.inf, 0.0
    found = token_prediction(log_probs, correct)
    assert found["loss"].tolist() == [np.inf] and found["perplexity"].tolist() == [np.inf]


def test_repeating_the_examples_changes_nothing():
    log_probs, correct = made()
    once, twice = (
        token_prediction(np.tile(log_probs, (1, k, 1)), np.tile(correct, (1, k, 1))) for k in (1, 2)
    )
    for name in ("loss", "accuracy", "context_gain", "loss_at"):
        np.testing.assert_allclose(once[name], twice[name], rtol=1e-12)
