import numpy as np
import pytest

from analyze.metrics.representations.effective_rank import NAMES, _small, effective_rank, ranks
from tests.oracles.effective_rank import slow


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_agrees_with_the_covariance(shape):
    matrix = np.random.default_rng(0).normal(size=shape) + 3
    assert ranks(matrix) == pytest.approx(slow(matrix), rel=1e-6)
    result = effective_rank([np.stack([matrix, 1e-200 * matrix])], np.array(["relu"]))
    for name in NAMES:
        np.testing.assert_allclose(result[name][0], result[name][1], rtol=1e-12)
    assert max(result["effective_rank"].max(), result["participation_ratio"].max()) <= min(shape)


def test_equal_directions_count_in_full():
    found = ranks(np.eye(6), centred=False)
    assert found["effective_rank"] == pytest.approx(6) and found["stable_rank"] == pytest.approx(6)
    assert found["participation_ratio"] == pytest.approx(5)  # the mean is one of the six


def test_rotation_and_order_do_not_matter():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(7, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert ranks(matrix) == pytest.approx(ranks(2 * matrix[::-1] @ turn))


def test_what_does_not_vary_is_undefined():
    assert all(np.isnan(list(ranks(np.full((3, 2), 0.1)).values())))
    assert np.isnan(ranks(np.full((3, 2), np.inf))["stable_rank"])
    plain = ranks(np.full((3, 2), 0.1), centred=False)
    assert plain["stable_rank"] == pytest.approx(1) and np.isnan(plain["participation_ratio"])


@pytest.mark.parametrize("shape", [(3, 100), (100, 3), (4, 64), (4, 63), (5, 0), (0, 5), (1, 40)])
def test_long_matrices_have_their_singular_values_in_blocks(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    matrix[:1] *= 1e-9
    np.testing.assert_allclose(
        np.linalg.svd(_small(matrix), compute_uv=False)[: min(shape)],
        np.linalg.svd(matrix, compute_uv=False),
        rtol=1e-6,
        atol=1e-15,
    )
