import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.representations.neural_collapse import VALUES, collapse, neural_collapse
from analyze.replay import Examples
from tests import replayed
from tests.oracles import neural_collapse as slow
from tracer.errors import MissingTraceError

SIMPLEX = np.eye(3) - 1 / 3


def conv_net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    model(torch.randn(20, 1, 6, 6, dtype=torch.float64))
    return model.eval()


def test_a_simplex_of_points_has_collapsed():
    features, labels = np.repeat(SIMPLEX, 4, axis=0), np.repeat(np.arange(3), 4)
    found = collapse(features, labels, SIMPLEX, labels)
    zero = set(VALUES) - {"smallest_eigenvalue"}
    assert {name: found[name] for name in zero} == pytest.approx(dict.fromkeys(zero, 0), abs=1e-12)
    turned = collapse(features, labels, -SIMPLEX, labels[::-1])
    assert turned["nc3"] == pytest.approx(4) and turned["nc4"] == pytest.approx(2 / 3)
    assert turned["nc3_product"] == pytest.approx(2)


@pytest.mark.parametrize("p", [2, 5, 40])  # fewer features than classes, more than examples
def test_agrees_with_the_covariance_matrices(p):
    rng = np.random.default_rng(p)
    features, labels = rng.normal(size=(21, p)), np.arange(21) % 4
    weights, predicted = rng.normal(size=(4, p)), rng.integers(0, 4, 21)
    found = collapse(features + labels[:, None], labels, weights, predicted)
    expected = slow.values(features + labels[:, None], labels, weights, predicted)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-8)
    assert collapse(features, labels, weights, predicted, ddof=1)["equinorm_means"] == pytest.approx(
        collapse(features, labels, weights, predicted)["equinorm_means"] * (4 / 3) ** 0.5
    )


def test_features_of_a_convolutional_network_are_what_its_last_layer_is_given():
    model, given = conv_net(), replayed.examples(15, (1, 6, 6))
    result = neural_collapse(replayed.States([replayed.state_of(model, given)], given))
    with torch.no_grad():
        features, predicted = model[:-1](given.inputs).numpy(), model(given.inputs).argmax(1).numpy()
    expected = slow.values(features, given.targets.numpy(), model[-1].weight.detach().numpy(), predicted)
    assert {name: result[name][0] for name in expected} == pytest.approx(expected, rel=1e-8)
    assert (result["n_features"], result["n_examples"], result["imbalance"]) == (12, 15, 0)


def test_turning_and_scaling_features_changes_nothing():
    rng = np.random.default_rng(0)
    features, labels, weights = rng.normal(size=(12, 4)), np.arange(12) % 3, rng.normal(size=(3, 4))
    turn = 3 * np.linalg.qr(rng.normal(size=(4, 4)))[0]
    first = collapse(features, labels, weights, labels)
    second = collapse(features @ turn, labels, weights @ turn, labels)
    assert second.pop("smallest_eigenvalue") == pytest.approx(9 * first.pop("smallest_eigenvalue"))
    assert first == pytest.approx(second)


def test_what_is_undefined():
    features, labels = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 0, 1, 1, 1, 0])
    assert all(np.isnan(list(collapse(features, labels, np.ones((3, 3)), labels).values())))  # no third class
    assert all(np.isnan(list(collapse(features * 0 + 0.1, labels, np.ones((2, 3)), labels).values())))
    alone = collapse(features, labels, np.ones((1, 3)), labels, 2)  # one output, two classes
    assert np.isnan(alone["nc3"]) and np.isfinite(alone["nc1"])


def test_a_network_that_ends_in_something_else_is_named():
    given = replayed.examples(6)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    with pytest.raises(MissingTraceError, match="which is no linear layer"):
        neural_collapse(replayed.States([replayed.state_of(model, given)], given))


def test_a_state_that_is_not_finite_is_undefined():
    given = Examples(torch.full((6, 4), np.inf, dtype=torch.float64), torch.arange(6) % 3)
    state = replayed.state_of(replayed.mlp(), replayed.examples(6))
    result = neural_collapse(replayed.States([state], given))
    assert all(np.isnan(result[name]).all() for name in VALUES)
