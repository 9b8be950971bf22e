import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from analyze import plot
from analyze.comparison.memorization import influence, memorization, plot_memorization, scores
from tests.loops import blobs


def made(runs=30, n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((runs, n)) < 0.7, (rng.random((runs, n)) < 0.6).astype(float)


def mean(values):
    values = [value for value in values if not math.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def test_agrees_with_one_example_after_another():
    mask, correct = made()
    correct[3, 2] = np.nan
    found = scores(mask, correct)
    for i in range(6):
        inside = [c for m, c in zip(mask[:, i], correct[:, i], strict=True) if m]
        outside = [c for m, c in zip(mask[:, i], correct[:, i], strict=True) if not m]
        p1, p0 = mean(inside), mean(outside)
        assert found["memorization"][i] == pytest.approx(p1 - p0)
        counts = found["n_with"][i], found["n_without"][i]
        error = math.sqrt(p1 * (1 - p1) / counts[0] + p0 * (1 - p0) / counts[1])
        assert found["standard_error"][i] == pytest.approx(error) and sum(counts) == 30 - (i == 2)


def test_influence_agrees_with_loops():
    mask, _ = made(12, 4)
    _, correct = made(12, 3, seed=1)
    correct[0, 0] = np.nan
    found = influence(mask, correct)
    for j in range(3):
        for i in range(4):
            expected = mean(correct[mask[:, i], j]) - mean(correct[~mask[:, i], j])
            assert found[j, i] == pytest.approx(expected)


def test_consistency_is_a_mean_over_the_sizes_of_subsets():
    mask = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]) == 1
    correct = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 1, 0]]) * 1.0
    found = scores(mask, correct)
    assert found["ratio"].tolist() == [0.25, 0.5]
    np.testing.assert_array_equal(found["c_profile"], [[1, 0.5, 1, 0], [0, np.nan, 0.5, 0]])
    np.testing.assert_array_equal(found["c_score"], [0.5, np.nan, 0.75, 0])
    one = scores(mask[:2], correct[:2])  # with one size, the second term of memorization
    np.testing.assert_array_equal(one["c_score"], one["without_example"])


def test_what_one_side_lacks_is_undefined():
    found = scores(np.array([[True, False], [True, False]]), np.array([[1.0, 1.0], [0.0, 1.0]]))
    assert np.isnan(found["memorization"]).all() and found["n_without"].tolist() == [0, 2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    (x, y), folder = blobs(12), tmp_path_factory.mktemp("subsets")
    archives = []
    for run in range(3):
        torch.manual_seed(run)
        model = nn.Linear(6, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        ids = np.random.default_rng(run).permutation(12)[:8]
        path = folder / f"{run}.zarr"
        probes = {"train": (x, y), "test": blobs(5, seed=7)}
        with tracer.record(path, model, optimizer, loss=F.cross_entropy, probes=probes) as recording:
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(x[ids]), y[ids]).backward()
                optimizer.step()
                recording.step(ids=ids)
        archives.append((path, model, ids))
    return archives


def test_subsets_are_the_ids_that_were_recorded(runs):
    x, y = blobs(12)
    result = memorization([path for path, _, _ in runs], test="test")
    mask = np.array([np.isin(np.arange(12), ids) for _, _, ids in runs])
    correct = np.array([(model(x).argmax(1) == y).numpy() for _, model, _ in runs]) * 1.0
    np.testing.assert_array_equal(result["memorization"], scores(mask, correct)["memorization"])
    assert result["influence"].dims == ("test_example", "example") and result.attrs["n_runs"] == 3
    figure = plot.draw(plot_memorization, result)
    assert len(figure.axes) == 2


def test_runs_that_cannot_be_compared(runs, tmp_path):
    with pytest.raises(ValueError, match="got 1 run"):
        memorization([runs[0][0]])
    model = nn.Linear(6, 3)
    options = {"loss": F.cross_entropy, "probes": {"train": blobs(5)}}
    with tracer.record(tmp_path / "other.zarr", model, torch.optim.SGD(model.parameters(), 0.1), **options):
        pass
    with pytest.raises(ValueError, match="holds other examples"):
        memorization([runs[0][0], tmp_path / "other.zarr"])
