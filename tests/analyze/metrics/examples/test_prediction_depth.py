import numpy as np
import pytest

from analyze.metrics.examples.prediction_depth import _votes, prediction_depth
from tests.oracles.prediction_depth import slow


def made(n=9, seed=0):
    rng = np.random.default_rng(seed)
    sites = [rng.normal(size=(2, n, 4)), rng.normal(size=(2, n, 3))]
    split = np.array(["train"] * (n - 3) + ["test"] * 3)
    return {
        "activations": sites,
        "inputs": rng.normal(size=(n, 2, 2)),
        "scores": rng.normal(size=(2, n, 3)),
        "labels": rng.integers(0, 3, n),
        "ids": np.concatenate([np.arange(n - 3)[::-1] + 4, [4, 5, 6]]),
        "probe": split,
        "split": split,
        "any_site": np.array(["relu", "relu#2"]),
    }


@pytest.mark.parametrize("k", [1, 3, 30])
def test_agrees_with_one_example_after_another(k):
    data = made(14)
    result = prediction_depth(**data, k=k)
    expected = [[slow(data, k, step, i) for i in range(14)] for step in range(2)]
    assert result["depth"].tolist() == expected
    undecided = (result["depth"] == 4)[:, :11].sum(1), (result["depth"] == 4)[:, 11:].sum(1)
    np.testing.assert_array_equal(result["n_undecided"], np.stack(undecided, axis=1))
    assert result["place"].tolist() == ["input", "relu", "relu#2", "softmax"]


def test_equal_distances_go_to_the_lower_id_and_equal_votes_to_the_lower_class():
    data = made(5)
    data |= {"labels": np.array([2, 1, 0, 0, 0]), "split": np.array(["train"] * 3 + ["test"] * 2)}
    data["ids"] = np.array([7, 3, 5, 0, 1])
    data |= {
        "inputs": np.zeros((5, 1)),
        "activations": [np.zeros((1, 5, 2))] * 2,
        "scores": np.zeros((1, 5, 3)),
    }
    data["probe"] = data["split"]
    accuracy = prediction_depth(**data, k=1)["vote_accuracy"]  # of three all alike the one with id 3: class 1
    assert accuracy[0, 1].tolist() == [0, 0, 0, 0]
    assert prediction_depth(**data, k=2)["vote_accuracy"][0, 1].tolist() == [1, 1, 1, 1]  # classes 1 and 0


def test_slopes_are_compared_where_there_are_any():
    data = made(12)
    depth = prediction_depth(**data, k=3)["depth"]
    result = prediction_depth(**data, k=3, depth_slope_slope=-depth)
    defined = result["slope_spearman"][np.isfinite(result["slope_spearman"])]
    assert len(defined) and defined == pytest.approx(-1)
    assert np.isnan(prediction_depth(**data, k=3)["slope_spearman"]).all()


def test_scaling_a_site_and_values_that_are_not_finite():
    data = made()
    first = prediction_depth(**data, k=3)
    data["activations"][0] = data["activations"][0] * 1e6
    np.testing.assert_array_equal(prediction_depth(**data, k=3)["depth"], first["depth"])
    data["activations"][0][1, 2] = np.inf
    result = prediction_depth(**data, k=3)
    assert np.isnan(result["depth"][1, 2]) and np.isfinite(result["depth"][0]).all()
    assert result["n_undefined"].tolist() == [[0, 0], [1, 0]]
    data["split"] = np.array(["test"] * 9)
    assert np.isnan(prediction_depth(**data)["depth"]).all()


def test_an_example_far_away_changes_no_neighbours_of_the_others():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 2)) * 0.01
    labels = np.arange(20) % 2
    values[labels == 1] += 1
    ids, split = np.arange(21), np.array(["train"] * 21)
    near = np.concatenate([values, [[3.0, 0.0]]]), np.concatenate([values, [[3e6, 0.0]]])
    with_one = [_votes(rows, ids, np.append(labels, 0), ids, 3, split) for rows in near]
    for found in with_one:
        assert found[:20].tolist() == labels.tolist()
