import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.representations.jacobian import jacobian, summary
from analyze.replay import Examples, output_kernel
from tests import replayed
from tests.oracles import jacobian as slow
from tests.oracles import mlp
from tracer.errors import MissingTraceError


@pytest.fixture(scope="module")
def states():
    given = replayed.examples(7)
    first = replayed.state_of(replayed.mlp(), given)
    return replayed.States([first, replayed.moved(first, 0.5, 1)], given)


def test_a_linear_network_by_hand():
    model = nn.Linear(2, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -2.0], [4.0, 0.0]]))
    given = replayed.examples(4, (2,))
    result = jacobian(replayed.States([replayed.state_of(model, given)], given))
    # Everywhere the weights themselves: 1 + 4 + 4 + 16.
    assert result["mean"].item() == pytest.approx(5.0)
    assert result["std"].item() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(result["class_mean"], [[5.0, 5.0, 5.0]])


@pytest.mark.parametrize("softmax", [False, True])
def test_agrees_with_differences(states, softmax):
    result = jacobian(states, softmax=softmax)
    given = states.examples()
    for k, state in enumerate(states):
        expected = np.array(slow.norms(mlp.layers_of(state.tensors), given.inputs.numpy(), softmax))
        assert result["mean"][k] == pytest.approx(expected.mean(), rel=1e-6)
        assert result["std"][k] == pytest.approx(expected.std(), rel=1e-5)
        for label in range(3):
            within = expected[given.targets.numpy() == label].mean()
            assert result["class_mean"][k, label] == pytest.approx(within, rel=1e-6)
    assert result["n_examples"].tolist() == [7, 7]


def test_order_of_examples_does_not_matter(states):
    order = np.random.default_rng(0).permutation(7)
    shuffled = replayed.States(list(states), states.examples().take(order))
    first, second = jacobian(states), jacobian(shuffled)
    for name in ("mean", "std", "class_mean"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-12)


def test_outputs_twice_as_large_are_twice_as_sensitive(states):
    state = states[0]
    doubled = state.with_tensors({name: 2 * state.tensors[name] for name in ("2.weight", "2.bias")})
    given = states.examples()
    one, two = (jacobian(replayed.States([s], given))["mean"].item() for s in (state, doubled))
    assert two == pytest.approx(2 * one)


def test_undefined_norms_are_left_out():
    found = summary(np.array([2.0, np.nan]), np.array([1, 1]), np.arange(3))
    assert found["mean"] == 2.0 and found["n_examples"] == 1
    np.testing.assert_array_equal(found["class_mean"], [np.nan, 2.0, np.nan])


def test_projections_estimate_squared_norms_and_many_outputs_need_them(monkeypatch):
    torch.manual_seed(0)
    given = replayed.examples(4, (2,))
    states = replayed.States([replayed.state_of(nn.Linear(2, 40).double(), given)], given)
    exact = jacobian(states)["mean"].item()
    assert jacobian(states, projections=40)["mean"].item() == exact
    assert jacobian(states, projections=30)["mean"].item() == pytest.approx(exact, rel=0.5)
    monkeypatch.setattr(output_kernel, "MOST", 39)
    with pytest.raises(MissingTraceError, match=r"each of 40 outputs.*projections=64"):
        jacobian(states)


def test_only_classes_that_are_there_have_a_mean():
    given = replayed.examples(4, (2,))
    given.targets.copy_(torch.tensor([1, 1, 2, 2]))
    result = jacobian(replayed.States([replayed.state_of(nn.Linear(2, 3).double(), given)], given))
    assert result["label"].tolist() == [1, 2] and result["class_mean"].shape == (1, 2)


def test_words_have_no_derivative():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(5, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(self.words(x).sum(1))

    given = Examples(torch.randint(0, 5, (4, 2)), torch.arange(4) % 3)
    states = replayed.States([replayed.state_of(Words(), given)], given)
    with pytest.raises(MissingTraceError, match="no derivative by them"):
        jacobian(states)
