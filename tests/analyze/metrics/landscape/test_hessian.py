import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.landscape.hessian import hessian, spectrum
from analyze.numerics import lanczos
from analyze.replay import Examples
from tests import replayed
from tests.oracles import hessian as slow
from tests.oracles import mlp


@pytest.fixture(scope="module")
def states():
    given = replayed.examples(8)
    first = replayed.state_of(replayed.mlp((4, 5, 3)), given)
    return replayed.States([first, replayed.moved(first, 0.4, 1)], given)


@pytest.fixture(scope="module")
def tables(states):
    given = states.examples()
    arrays = given.inputs.numpy(), given.targets.numpy()
    return [slow.hessian(mlp.layers_of(state.tensors), *arrays) for state in states]


def test_squares_of_one_weight_by_hand():
    model = nn.Linear(1, 1, bias=False).double()
    given = Examples(
        torch.tensor([[1.0], [3.0]], dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    )
    state = replayed.state_of(model, given, nn.functional.mse_loss)
    result = hessian(replayed.States([state], given), top=2)
    # (x w)² has curvature 2x²: 2 and 18.
    np.testing.assert_allclose(result["eigenvalue"], [[10.0, np.nan]], rtol=1e-12)
    assert result["trace"].item() == pytest.approx(10) and result["trace_error"].item() == pytest.approx(0)
    assert result["edge"].item() == pytest.approx(10)


def test_eigenvalues_and_trace_agree_with_the_whole_matrix(states, tables):
    result = hessian(states, trace_draws=50, nodes=30, draws=1, tolerance=1e-8)
    for k, table in enumerate(tables):
        values = np.linalg.eigvalsh(table)[::-1]
        np.testing.assert_allclose(result["eigenvalue"][k], values[:5], rtol=1e-4)
        assert result["edge"][k] == pytest.approx(values[-1], abs=1e-4 * values[0])
        gap = abs(result["trace"][k] - np.trace(table))
        assert 0 < gap < 4 * result["trace_error"][k]


def test_enough_nodes_give_the_moments_of_the_spectrum(states, tables):
    result = hessian(states, nodes=43, draws=2, trace_draws=2)
    starts = lanczos.signs(43, 2, 0)
    for k, table in enumerate(tables):
        for draw, start in enumerate(starts):
            nodes, weights = result["ritz_value"][k, draw], result["ritz_weight"][k, draw]
            for power in (0, 1, 2, 5):
                expected = start @ np.linalg.matrix_power(table, power) @ start / 43
                assert np.nansum(weights * nodes**power) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_density_is_that_of_the_eigenvalues_on_average(tables):
    table, size = tables[0], len(tables[0])
    options = {"top": 1, "trace_draws": 2, "nodes": size}
    found = spectrum(lambda v: table @ v, size, draws=200, **options)
    width = (found["grid"][-1] - found["grid"][0]) / 70
    expected = slow.density(np.linalg.eigvalsh(table), found["grid"], width)
    step = found["grid"][1] - found["grid"][0]
    assert found["density"].sum() * step == pytest.approx(1, rel=1e-3)
    assert np.abs(found["density"] - expected).sum() * step < 0.1


def test_large_matrices_go_through_arpack():
    values = np.concatenate([np.linspace(-1, 1, 95), [4, 5, 6, 7, 9]])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]
    table = rotation @ np.diag(values) @ rotation.T
    np.testing.assert_allclose(lanczos.largest(lambda v: table @ v, 100, 3, 0, 1e-8), [9, 7, 6], rtol=1e-8)


def test_a_flat_loss_has_no_curvature():
    found = spectrum(lambda v: 0 * v, 60, top=2, trace_draws=3, draws=2, nodes=4)
    np.testing.assert_array_equal(found["eigenvalue"], [0, 0])
    assert found["trace"] == 0 and np.nansum(found["ritz_value"]) == 0


def test_order_of_examples_does_not_matter(states):
    order = np.random.default_rng(1).permutation(8)
    shuffled = replayed.States(list(states), states.examples().take(order))
    options = {"tolerance": 1e-8, "trace_draws": 3, "draws": 1, "nodes": 5}
    first, second = hessian(states, **options), hessian(shuffled, **options)
    for name in ("eigenvalue", "trace", "edge"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6)


def test_an_infinite_loss_is_undefined(states):
    state = states[0]
    broken = state.with_tensors({"2.bias": torch.full_like(state.tensors["2.bias"], np.nan)})
    result = hessian(replayed.States([broken], states.examples()))
    assert all(np.isnan(result[name]).all() for name in ("eigenvalue", "trace", "density", "edge"))
