import numpy as np

from analyze.metrics.depth.error_by_complexity import error_by_complexity
from tests.oracles import error_by_complexity as slow


def made(n=47, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((4, n)) < 0.6, rng.integers(0, 9, n) / 3.0, rng.permutation(1000)[:n]


def test_six_examples_by_hand():
    correct = np.array([[True, False, False, True, True, False]])
    complexity = np.array([0.5, 3.0, 2.0, 1.0, 2.0, 2.5])
    result = error_by_complexity(correct, complexity, np.array([1, 2, 9, 4, 5, 6]), groups=3)
    # In order of complexity, ids breaking the tie at 2: 0, 3 | 4, 2 | 5, 1.
    np.testing.assert_allclose(result["error"], [[0.0, 0.5, 1.0]])
    np.testing.assert_allclose(result["mean_complexity"], [0.75, 2.0, 2.75])
    assert result["n_examples"].tolist() == [2, 2, 2] and result["group"].tolist() == [1, 2, 3]


def test_agrees_with_sorted_lists():
    correct, complexity, ids = made()
    result = error_by_complexity(correct, complexity, ids)
    for g, members in enumerate(slow.groups(complexity, ids, 10)):
        assert result["n_examples"][g] == len(members)
        for step in range(4):
            np.testing.assert_allclose(result["error"][step, g], slow.error(correct[step], members))


def test_order_of_examples_does_not_matter_even_with_ties():
    correct, complexity, ids = made()
    order = np.random.default_rng(1).permutation(len(ids))
    plain = error_by_complexity(correct, complexity, ids)
    other = error_by_complexity(correct[:, order], complexity[order], ids[order])
    np.testing.assert_array_equal(plain["error"], other["error"])
    np.testing.assert_allclose(plain["mean_complexity"], other["mean_complexity"], rtol=1e-14)


def test_unknown_complexity_is_left_out_and_empty_groups_are_undefined():
    correct = np.array([[True, False, True]])
    result = error_by_complexity(correct, np.array([1.0, np.nan, 2.0]), np.arange(3), groups=3)
    np.testing.assert_array_equal(result["error"], [[0.0, 0.0, np.nan]])
    assert result["n_examples"].tolist() == [1, 1, 0] and np.isnan(result["mean_complexity"][2])
