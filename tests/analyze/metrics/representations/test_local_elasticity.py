import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.representations.local_elasticity import local_elasticity, summary
from analyze.replay.local_elasticity import elasticities
from tests import replayed
from tests.oracles import local_elasticity as slow
from tests.oracles import mlp

LR = np.array([[0.1], [0.01]])


@pytest.fixture(scope="module")
def states():
    given = replayed.examples(6)
    first = replayed.state_of(replayed.mlp(), given)
    return replayed.States([first, replayed.moved(first, 0.3, 1)], given)


def test_a_linear_network_by_hand():
    given = replayed.examples(3, (2,), classes=2)
    given.inputs.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
    state = replayed.state_of(nn.Linear(2, 2, bias=False).double(), given)
    relative, kernelized = elasticities(state, given, 0.1)
    # The change of f(x') after a step on x is in proportion to x · x'.
    np.testing.assert_allclose(relative, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(kernelized, [[1, 1, 0], [1, 1, 0], [0, 0, 4]], atol=1e-12)


def test_agrees_with_steps_by_hand(states):
    result = local_elasticity(states, LR)
    given = states.examples()
    labels = given.targets.numpy()
    for k, state in enumerate(states):
        tables = slow.tables(mlp.layers_of(state.tensors), given.inputs.numpy(), labels, LR[k, 0])
        for kind, table in enumerate(tables):
            pairs = {True: [], False: []}
            for i, j in np.ndindex(6, 6):
                if i != j:
                    pairs[bool(labels[i] == labels[j])].append(table[i, j])
            assert result["within"][k, kind] == pytest.approx(np.mean(pairs[True]), rel=1e-8)
            assert result["between"][k, kind] == pytest.approx(np.mean(pairs[False]), rel=1e-8)
            cell = [table[i, j] for i in (0, 3) for j in (1, 4)]
            assert result["by_class"][k, kind, 0, 1] == pytest.approx(np.mean(cell), rel=1e-8)
    assert not result["n_undefined"].any()


def test_for_small_steps_it_is_the_tangent_kernel_seen_along_the_slope(states):
    state, given = states[0], states.examples()
    table = elasticities(state, given, 1e-7)[1]
    layers = mlp.layers_of(state.tensors)
    x, labels = given.inputs.numpy(), given.targets.numpy()
    point = mlp.flat(layers)
    for i, j in ((0, 1), (2, 5)):
        slope = mlp.signals(layers, x[i], labels[i])[-1]
        jacobians = [
            mlp.differences(lambda w, k=k: mlp.forward(mlp.unflat(layers, w), x[k])[0], point) for k in (i, j)
        ]
        seen = (slope @ jacobians[0]) @ (slope @ jacobians[1]) / (slope @ slope)
        assert table[i, j] == pytest.approx(seen, rel=1e-4)


def test_float32_networks_are_moved_in_float64():
    given = replayed.examples(4, dtype=torch.float32)
    model = replayed.mlp(dtype=torch.float32)
    state = replayed.state_of(model, given)
    tables = elasticities(state, given, 1e-6)
    expected = slow.tables(
        mlp.layers_of(state.tensors), given.inputs.double().numpy(), given.targets.numpy(), 1e-6
    )
    np.testing.assert_allclose(tables, expected, rtol=1e-5)


def test_size_of_the_step_comes_from_the_run_or_the_user(states):
    given = local_elasticity(states, LR, step_size=0.01)
    recorded = local_elasticity(states, LR)
    assert given["within"][1, 1] == recorded["within"][1, 1]
    assert given["within"][0, 1] != recorded["within"][0, 1]
    unknown = local_elasticity(states, np.full((2, 1), np.nan))
    assert np.isfinite(unknown["within"]).all()


def test_order_of_examples_does_not_matter(states):
    shuffled = replayed.States(list(states), states.examples().take([3, 1, 5, 0, 2, 4]))
    first, second = local_elasticity(states, LR), local_elasticity(shuffled, LR)
    for name in ("within", "between", "by_class"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-10)


def test_a_step_that_moves_nothing_is_undefined():
    table = np.array([[1.0, 0.4, 0.2], [np.nan] * 3, [0.3, 0.1, 1.0]])
    found = summary(table, np.array([0, 0, 1]), np.arange(3))
    assert found["n_undefined"] == 2
    assert found["within"] == pytest.approx(0.4) and found["between"] == pytest.approx(0.2)
    assert np.isnan(found["by_class"][2]).all() and np.isnan(found["by_class"][1, 1])
