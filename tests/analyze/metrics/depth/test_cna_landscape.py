import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.depth.cna_landscape import cna_landscape
from analyze.numerics import landscape
from tests import replayed
from tests.oracles import cna_landscape as slow
from tests.oracles import mlp
from tracer.errors import MissingTraceError

ALPHA = np.random.default_rng(0).random(8)


@pytest.fixture(scope="module")
def states():
    given = replayed.examples(8)
    first = replayed.state_of(replayed.mlp((4, 5, 6, 3)), given)
    moved = [replayed.moved(first, 0.2 * k, k, seed=k) for k in range(4)]
    return replayed.States(moved, given)


def test_plane_of_three_points_by_hand():
    points = np.array([[0.0, 3.0, 5.0], [-1.0, 0.0, 5.0], [1.0, 0.0, 5.0]])
    plane = landscape.principal_plane(lambda k: points[k], 3)
    # Around (0, 1, 5): 4 + 1 + 1 along the second axis, which is turned round, 1 + 1 along the first.
    np.testing.assert_allclose(plane.trajectory, [[-2, 0], [1, -1], [1, 1]], atol=1e-14)
    np.testing.assert_allclose(plane.explained, [0.75, 0.25])
    np.testing.assert_allclose(plane.weights([1, 1]), points[2], atol=1e-14)


def test_agrees_with_singular_values_and_loops(states):
    result = cna_landscape(states, ALPHA, points=3)
    points = np.stack([state.flat().numpy() for state in states])
    mean, directions, trajectory = slow.plane(points)
    np.testing.assert_allclose(result["trajectory"], trajectory, atol=1e-12)
    template = mlp.layers_of(states[0].tensors)
    inputs, labels = (tensor.numpy() for tensor in (states.examples().inputs, states.examples().targets))
    for i, j in np.ndindex(3, 3):
        place = mean + np.array([result["pc1"][i], result["pc2"][j]]) @ directions
        layers = mlp.unflat(template, place)
        assert result["cna"][i, j] == pytest.approx(slow.cna(layers, inputs, ALPHA), rel=1e-9)
        scores = [mlp.forward(layers, x)[0] for x in inputs]
        losses = [mlp.cross_entropy(score, label) for score, label in zip(scores, labels, strict=True)]
        assert result["loss"][i, j] == pytest.approx(np.mean(losses), rel=1e-9)
        wrong = [score.argmax() != label for score, label in zip(scores, labels, strict=True)]
        assert result["error"][i, j] == pytest.approx(np.mean(wrong))


def test_snapshots_in_blocks_give_the_same_plane(monkeypatch):
    points = np.random.default_rng(1).normal(size=(7, 30)) + 100
    whole = landscape.principal_plane(lambda k: points[k], 7)
    monkeypatch.setattr(landscape, "NBYTES", 3 * points[0].nbytes)
    parts = landscape.principal_plane(lambda k: points[k], 7)
    np.testing.assert_allclose(parts.trajectory, whole.trajectory, atol=1e-12)
    np.testing.assert_allclose(whole.trajectory, slow.plane(points)[2], atol=1e-10)


def test_order_of_examples_and_units_does_not_matter(states):
    order = np.random.default_rng(2).permutation(8)
    shuffled = replayed.States(list(states), states.examples().take(order))
    first, second = cna_landscape(states, ALPHA, points=2), cna_landscape(shuffled, ALPHA[order], points=2)
    for name in ("cna", "loss", "error"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-10)


def test_statistics_of_batch_norm_are_taken_anew():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers).double()
    given = replayed.examples(8)
    first = replayed.state_of(model, given)
    states = replayed.States([replayed.moved(first, 0.1 * k, k, k) for k in range(3)], given)
    result = cna_landscape(states, ALPHA, points=2)
    assert "anew" in result["attrs"]["batch_norm"]
    # In training mode, with the weights of a corner of the grid, the module itself computes the same loss.
    plane = landscape.principal_plane(lambda k: states[k].flat().numpy(), 3)
    tensors = first.unflat(torch.from_numpy(plane.weights([result["pc1"][0], result["pc2"][1]])))
    outputs = torch.func.functional_call(model.train(), tensors, given.inputs)
    expected = nn.functional.cross_entropy(outputs, given.targets)
    # Running variance is unbiased, that of a batch is not; so they agree only roughly.
    assert result["loss"][0, 1] == pytest.approx(float(expected), rel=0.1)


def test_two_snapshots_span_no_plane(states):
    few = replayed.States(states[:2], states.examples())
    with pytest.raises(MissingTraceError, match="span 1 dimension and a plane has 2"):
        cna_landscape(few, ALPHA)


def test_constant_complexity_is_undefined(states):
    result = cna_landscape(states, np.full(8, 0.1), points=2)
    assert np.isnan(result["cna"]).all() and np.isfinite(result["loss"]).all()
