import math

import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.capacity.pac_bayes import NOISE, complexity, largest_noise, pac_bayes
from analyze.replay import Examples
from analyze.replay.neighbourhood import draws
from tests.oracles import pac_bayes as slow
from tests.replayed import States, examples, mlp, state_of


def classifier(n=60):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    inputs = torch.randn(n, 2, generator=generator, dtype=torch.float64) * 0.3 + labels[:, None] * 2.0 - 1.0
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        model.bias.zero_()
    given = Examples(inputs, labels)
    return state_of(model, given), given


def test_noise_found_is_the_largest_that_accuracy_survives():
    state, given = classifier()
    initial = {name: value.numpy() - 0.1 for name, value in state.tensors.items()}
    result = pac_bayes(States([state], given), initial, n_noise=20, bisections=12)
    weight, bias = (state.tensors[name].numpy() for name in ("weight", "bias"))
    x, y = given.inputs.numpy(), given.targets.numpy()
    noises = [vector.numpy() for vector in draws(state.flat(), 20, 0)]
    flat = np.concatenate([weight.ravel(), bias])
    for k, noise in enumerate(NOISE):
        sigma = result["sigma"][0, k]

        def drop(sigma, noise=noise):
            spread = np.full(6, sigma) if noise == "plain" else np.sqrt(sigma**2 * flat**2 + 1e-6)
            return slow.mean_drop(weight, bias, x, y, [v * spread for v in noises])

        assert abs(drop(sigma)) <= 0.1 < abs(drop(sigma * 1.01))
        assert result["drop"][0, k] == pytest.approx(drop(sigma)) and result["drop_error"][0, k] > 0
        assert result["flatness"][0, k] == pytest.approx(sigma**-2)
        epsilon = None if noise == "plain" else 1e-3
        assert result["complexity"][0, k] == pytest.approx(
            slow.complexity(np.full(6, 0.1), sigma, 60, epsilon)
        )
    assert result["at_limit"].tolist() == [[0, 0]] and result["accuracy"][0] == 1.0


def test_limits_of_the_search():
    assert largest_noise(lambda sigma: np.zeros(2), 0.1, 1e-5, 10.0, bisections=5) == (10.0, 1)
    sigma, limit = largest_noise(lambda sigma: np.ones(2), 0.1, 1e-5, 10.0, bisections=5)
    assert math.isnan(sigma) and limit == -1
    assert math.isnan(complexity(torch.ones(2), math.nan, 5, "plain", 1e-3))
    # A rise of the accuracy counts as a fall does.
    found, _ = largest_noise(lambda sigma: np.array([-sigma]), 0.1, 1e-5, 10.0, bisections=30)
    assert found == pytest.approx(0.1, rel=1e-6)


def test_distances_differ_from_parameter_to_parameter():
    moved = torch.tensor([0.3, -2.0, 0.01], dtype=torch.float64)
    for epsilon, noise in ((None, "plain"), (1e-3, "magnitude")):
        expected = slow.complexity(moved.tolist(), 0.2, 50, epsilon)
        assert complexity(moved, 0.2, 50, noise, 1e-3) == pytest.approx(expected)


def test_targets_that_are_no_classes_leave_everything_undefined():
    inputs = torch.randn(6, 4, dtype=torch.float64)
    given = Examples(inputs, torch.randn(6, 3, dtype=torch.float64))
    state = state_of(mlp(), given, lambda out, target: ((out - target) ** 2).mean(1))
    initial = {name: value.numpy() for name, value in state.tensors.items()}
    result = pac_bayes(States([state], given), initial, n_noise=2, bisections=2)
    assert all(
        np.isnan(result[name]).all() for name in ("sigma", "flatness", "complexity", "drop", "accuracy")
    )


def test_examples_are_limited():
    given = examples(9)
    state = state_of(mlp(), given)
    initial = {name: value.numpy() for name, value in state.tensors.items()}
    assert pac_bayes(States([state], given), initial, n_noise=1, bisections=1, examples=4)["n_examples"] == 4
