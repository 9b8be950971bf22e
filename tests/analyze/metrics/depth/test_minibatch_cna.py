import itertools

import numpy as np
import pytest

from analyze.metrics.depth import minibatch_cna as module
from analyze.metrics.depth.minibatch_cna import minibatch_cna
from tests.oracles import minibatch_cna as slow
from tracer.errors import MissingTraceError


def made(steps=9, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 9, steps)
    ids = np.concatenate([rng.choice(60, size, replace=False) for size in sizes])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return rng.normal(size=(len(ids), 5)), ids, offsets, rng.random(50), rng.permutation(60)[:50]


def test_one_minibatch_by_hand():
    # Slopes over the first three calls: 1, 2, 0; complexities 1, 3, 2.
    sums = np.array([[0.0, 1.0, 2.0, 50.0], [0.0, 2.0, 4.0, -9.0], [7.0, 7.0, 7.0, 0.0]])
    result = minibatch_cna(
        sums, np.array([4, 2, 8]), np.array([0, 3]), np.array([3.0, 1.0, 2.0]), np.array([2, 4, 8])
    )
    assert result["pearson"].item() == pytest.approx(0.5)
    assert result["n_examples"].tolist() == [3] and np.isnan(result["loss"]).all()


def test_sums_after_the_nonlinearities_take_every_site():
    """Slopes over all columns: the oracle leaves the last out, so it is given one more."""
    sums, ids, offsets, alpha, alpha_ids = made()
    post = np.maximum(sums, 0)
    result = minibatch_cna(sums, ids, offsets, alpha, alpha_ids, minibatch_sums_post=post, where="post")
    known = dict(zip(alpha_ids.tolist(), alpha.tolist(), strict=True))
    expected = slow.cna(np.column_stack([post, post[:, 0]]), ids, offsets, known)
    np.testing.assert_allclose(result["pearson"], expected, rtol=1e-9)
    assert not np.allclose(result["pearson"], minibatch_cna(sums, ids, offsets, alpha, alpha_ids)["pearson"])
    with pytest.raises(MissingTraceError, match="nonlinearities"):
        minibatch_cna(sums, ids, offsets, alpha, alpha_ids, where="post")
    with pytest.raises(ValueError, match="'pre' or 'post'"):
        minibatch_cna(sums, ids, offsets, alpha, alpha_ids, where="behind")


@pytest.mark.parametrize("at_once", [4096, 4])
def test_agrees_with_one_minibatch_at_a_time(monkeypatch, at_once):
    monkeypatch.setattr(module, "STEPS_AT_ONCE", at_once)
    sums, ids, offsets, alpha, alpha_ids = made()
    result = minibatch_cna(sums, ids, offsets, alpha, alpha_ids)
    known = dict(zip(alpha_ids.tolist(), alpha.tolist(), strict=True))
    np.testing.assert_allclose(result["pearson"], slow.cna(sums, ids, offsets, known), rtol=1e-9)
    counts = [sum(int(i) in known for i in part) for part in np.split(ids, offsets[1:-1])]
    assert result["n_examples"].tolist() == counts and min(counts) < max(counts)


def test_order_within_a_minibatch_does_not_matter():
    sums, ids, offsets, alpha, alpha_ids = made()
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in itertools.pairwise(offsets)])
    plain = minibatch_cna(sums, ids, offsets, alpha, alpha_ids)
    other = minibatch_cna(sums[order], ids[order], offsets, alpha[::-1], alpha_ids[::-1])
    np.testing.assert_allclose(plain["pearson"], other["pearson"], rtol=1e-12)


def test_undefined_minibatches():
    sums = np.array([[0.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 3.0, 0.0]])
    ids, offsets = np.array([0, 1, 0]), np.array([0, 0, 1, 3])
    result = minibatch_cna(sums, ids, offsets, np.array([0.1, 0.1]), np.arange(2))
    assert np.isnan(result["pearson"]).all() and result["n_examples"].tolist() == [0, 1, 2]
    one_layer = minibatch_cna(sums[:, :2], ids, offsets, np.array([0.1, 0.2]), np.arange(2))
    assert np.isnan(one_layer["pearson"]).all()
    unknown = minibatch_cna(sums, ids, offsets, np.empty(0), np.empty(0, int))
    assert unknown["n_examples"].sum() == 0


def test_loss_is_passed_on():
    sums, ids, offsets, alpha, alpha_ids = made()
    losses = np.linspace(2, 1, 9, dtype=np.float32)
    result = minibatch_cna(sums, ids, offsets, alpha, alpha_ids, minibatch_loss=losses)
    np.testing.assert_array_equal(result["loss"], losses)
