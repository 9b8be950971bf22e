from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analyze.metrics.representations.ntk_alignment import alignment, centred, ntk_alignment
from analyze.replay.examples import Examples
from analyze.replay.output_kernel import directions, output_kernel
from analyze.replay.state import State
from tests import replayed
from tests.oracles import mlp
from tests.oracles import ntk_alignment as slow
from tracer.network import trace
from tracer.network.copies import named_tensors

NO_END = np.zeros(3, bool)


@pytest.fixture(scope="module")
def states():
    given = replayed.examples(6)
    first = replayed.state_of(replayed.mlp(), given)
    return replayed.States([first, *(replayed.moved(first, 0.3, k, k) for k in (2, 4))], given)


def test_a_linear_network_by_hand():
    given = replayed.examples(5, (2,))
    state = replayed.state_of(nn.Linear(2, 3).double(), given)
    x = given.inputs
    # Each of three outputs has the gradient (x, 1), whatever the weights.
    torch.testing.assert_close(output_kernel(state, given), 3 * (x @ x.T + 1))
    result = ntk_alignment(replayed.States([state, replayed.moved(state, 1.0, 1)], given), NO_END[:2])
    assert result["velocity"][1] == pytest.approx(0, abs=1e-12) and np.isnan(result["velocity"][0])
    assert result["trace"][0] == pytest.approx(3 * float((x**2).sum() / 5 + 1))


def test_agrees_with_differences(states):
    result = ntk_alignment(states, NO_END)
    given = states.examples()
    labels = given.targets.numpy()
    target = np.array([[float(a == b) for a in labels] for b in labels])
    kernels = [slow.kernel(mlp.layers_of(state.tensors), given.inputs.numpy()) for state in states]
    for k, kernel in enumerate(kernels):
        plain = slow.alignment(kernel, target)
        middle = slow.alignment(slow.centred(kernel), slow.centred(target))
        np.testing.assert_allclose(result["alignment"][k], [plain, middle], rtol=1e-6)
        assert result["trace"][k] == pytest.approx(np.trace(kernel) / 6, rel=1e-6)
        values = np.linalg.eigvalsh(kernel)
        assert result["effective_rank"][k] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-6)
    expected = [1 - slow.alignment(kernels[k], kernels[k - 1]) for k in (1, 2)]
    np.testing.assert_allclose(result["velocity"][1:], expected, rtol=1e-5)


@pytest.mark.parametrize("targets", [(torch.zeros(6), torch.ones(6)), torch.zeros(6, 4, dtype=torch.int64)])
def test_targets_that_are_neither_classes_nor_numbers_align_with_nothing(states, targets):
    given = replace(states.examples(), targets=targets, rule=None)
    result = ntk_alignment(replayed.States(list(states), given), NO_END)
    assert np.isnan(result["alignment"]).all()
    assert np.isfinite(result["velocity"][1:]).all() and np.isfinite(result["effective_rank"]).all()


def test_calls_that_the_outputs_do_not_depend_on_have_no_part_in_the_kernel():
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3).double(), torch.randn(5, 4, dtype=torch.float64)

    def triplet(model, inputs, targets):
        anchor, other = model(inputs[0]), model(inputs[1])
        return anchor, F.pairwise_distance(anchor, other)

    network = trace(model, (x, x.flip(0)), torch.zeros(5), objective=triplet)
    state, alone = (State(0, one, named_tensors(model)) for one in (network, trace(model, x)))
    found = output_kernel(state, Examples((x, x.flip(0)), torch.zeros(5)))
    torch.testing.assert_close(found, output_kernel(alone, Examples(x)))


def test_ends_of_epochs_are_compared_where_there_are_two(states):
    result = ntk_alignment(states, np.array([False, False, True]))
    assert np.isnan(result["velocity"][:2]).all() and result["attrs"]["compared"] == "epoch"
    first, last = (
        slow.kernel(mlp.layers_of(states[k].tensors), states.examples().inputs.numpy()) for k in (0, 2)
    )
    assert result["velocity"][2] == pytest.approx(1 - slow.alignment(first, last), rel=1e-5)


def test_convolutions_and_parameters_without_a_rule():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 2), nn.Linear(8, 3)
            self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
            self.shift = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            y = self.fc(torch.relu(self.conv(x)).flatten(1))
            return y * self.scale.sin() + self.scale**2 + self.shift * y.sin()

    torch.manual_seed(0)
    model = Odd().double()
    given = replayed.examples(4, (1, 3, 3))
    found = output_kernel(replayed.state_of(model, given), given)
    rows = []
    for x in given.inputs:
        outputs = model(x[None])[0]
        slopes = [torch.autograd.grad(y, list(model.parameters()), retain_graph=True) for y in outputs]
        rows.append(torch.cat([g.reshape(-1) for slope in slopes for g in slope]))
    joint = torch.stack(rows)
    torch.testing.assert_close(found, joint @ joint.T)


def test_of_an_objective_the_outputs_alone_count():
    """Its outputs come from the model's, after its losses; and it says which examples are correct."""

    def objective(model, inputs, targets):
        scores = model(inputs)
        losses = F.cross_entropy(scores, targets, reduction="none")
        return {"outputs": scores.softmax(1), "losses": losses, "correct": scores.argmax(1) == targets}

    model, given = replayed.mlp(), replayed.examples(4)
    network = trace(model, given.inputs, given.targets, objective=objective)
    state = State(0, network, {name: value.detach().clone() for name, value in named_tensors(model).items()})
    rows = []
    for x in given.inputs:
        outputs = model(x[None]).softmax(1)[0]
        slopes = [torch.autograd.grad(y, list(model.parameters()), retain_graph=True) for y in outputs]
        rows.append(torch.cat([g.reshape(-1) for slope in slopes for g in slope]))
    joint = torch.stack(rows)
    torch.testing.assert_close(output_kernel(state, given), joint @ joint.T)


def test_random_projections_are_unbiased(states):
    exact = output_kernel(states[1], states.examples())
    drawn = [output_kernel(states[1], states.examples(), 2, seed) for seed in range(60)]
    gap = torch.stack(drawn).mean(0) - exact
    error = torch.stack(drawn).std(0) / 60**0.5
    assert (gap.abs() <= 4 * error + 1e-9).all() and bool((error > 0).any())
    eye = directions(states[1])
    torch.testing.assert_close(eye.T @ eye, torch.eye(3, dtype=torch.float64))


def test_class_names_and_order_do_not_matter(states):
    order = np.random.default_rng(0).permutation(6)
    given = states.examples()
    shuffled = given.take(order)
    renamed = replayed.Examples(shuffled.inputs, 2 - shuffled.targets)
    first, second = (
        ntk_alignment(states, NO_END),
        ntk_alignment(replayed.States(list(states), renamed), NO_END),
    )
    for name in ("alignment", "velocity", "trace", "effective_rank"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9)


def test_constant_kernels_have_no_direction():
    assert np.isnan(alignment(np.zeros((2, 2)), np.eye(2)))
    assert np.isnan(alignment(centred(np.full((3, 3), 0.1)), np.eye(3)))
