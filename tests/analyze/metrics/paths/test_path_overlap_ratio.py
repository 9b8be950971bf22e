import numpy as np
import pytest

from analyze.metrics.paths.path_overlap_ratio import path_overlap_ratio
from tests.oracles import path_overlap_ratio as slow
from tracer.errors import MissingTraceError


def made(seed=0):
    rng = np.random.default_rng(seed)
    similarity = rng.random((11, 3))
    similarity[0] = np.nan
    lr = np.array([np.nan] + [0.1] * 4 + [0.02] * 3 + [0.004] * 3)[:, None]
    return similarity, lr, np.ones(11, bool), np.arange(11) * 50


def test_four_epochs_by_hand():
    similarity = np.array([[np.nan], [0.2], [0.6], [0.8], [0.1]])
    rate = np.array([[np.nan, 1.0], [0.1, 1.0], [0.1, 1.0], [0.1, 0.5], [0.1, 0.1]])
    result = path_overlap_ratio(similarity, rate, np.ones(5, bool), np.arange(5))
    assert result["ratio"].item() == pytest.approx(0.5) and result["ratio_mean"] == pytest.approx(0.5)
    assert result["period"].tolist() == [-1, 0, 0, 1, -1]


def test_agrees_with_a_walk_over_the_epochs():
    similarity, lr, ends, step = made()
    similarity[3, 1] = np.nan
    result = path_overlap_ratio(similarity, lr, ends, step)
    expected = [slow.ratio(similarity[:, site], lr[:, 0]) for site in range(3)]
    np.testing.assert_allclose(result["ratio"], expected)
    assert result["ratio_mean"] == pytest.approx(np.mean(expected))


def test_a_single_change_takes_the_rest_as_mid():
    similarity, lr, ends, step = made()
    result = path_overlap_ratio(similarity[:8], lr[:8], ends[:8], step[:8])
    np.testing.assert_allclose(result["ratio"], similarity[1:5].mean(0) / similarity[5:8].mean(0))


def test_given_milestones_replace_those_of_the_rate():
    similarity, lr, ends, step = made()
    by_rate = path_overlap_ratio(similarity, lr, ends, step)
    given = path_overlap_ratio(similarity, lr * 0 + 1, ends & False, step, milestones=(200, 350))
    np.testing.assert_allclose(given["ratio"], by_rate["ratio"])


def test_identical_snapshots_give_exactly_one():
    similarity, lr, ends, step = made()
    result = path_overlap_ratio(np.ones_like(similarity), lr, ends, step)
    np.testing.assert_array_equal(result["ratio"], 1.0)


def test_undefined_where_a_period_has_no_similarity_or_mid_is_zero():
    similarity, lr, ends, step = made()
    similarity[1:5, 0] = np.nan
    similarity[5:8, 1] = 0.0
    result = path_overlap_ratio(similarity, lr, ends, step)
    assert np.isnan(result["ratio"][:2]).all() and result["ratio_mean"] == result["ratio"][2]


@pytest.mark.parametrize("steps", [1, 2, 3, 11])
def test_a_rate_that_never_changes_is_refused(steps):
    similarity, _, ends, step = made()
    why = "ends of two epochs or more" if steps < 3 else "learning rate that changes"
    with pytest.raises(MissingTraceError, match=why):
        path_overlap_ratio(similarity[:steps], np.full((steps, 1), 0.1), ends[:steps], step[:steps])


def test_snapshots_that_are_not_ends_of_epochs_are_refused():
    similarity, lr, ends, step = made()
    ends[4] = False
    with pytest.raises(MissingTraceError, match="not ends of epochs"):
        path_overlap_ratio(similarity, lr, ends, step)
