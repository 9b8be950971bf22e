import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.outcome.layer_margin import Q, layer_margin, margins
from tests import replayed
from tests.oracles import layer_margin as slow
from tests.oracles import mlp


@pytest.fixture(scope="module")
def states():
    given = replayed.examples(9)
    first = replayed.state_of(replayed.mlp((4, 6, 5, 3)), given)
    return replayed.States([first, replayed.moved(first, 0.4, 1)], given)


def test_distance_to_a_straight_boundary_by_hand():
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    given = replayed.examples(2, (2,), classes=2)
    given.inputs.copy_(torch.tensor([[1.0, 0.5], [2.0, 1.0]]))
    result = layer_margin(replayed.States([replayed.state_of(model, given)], given), normalise="none")
    # On one side of the line 3a + 4b = 0 by 5 / 5, on the wrong one by 10 / 5.
    assert result["mean"].item() == pytest.approx((1.0 - 2.0) / 2)
    np.testing.assert_allclose(result["quantile"][0, 0], np.quantile([1.0, -2.0], Q))
    assert result["place"].tolist() == ["input"]


@pytest.mark.parametrize("normalise", ["total_variation", "none"])
def test_agrees_with_differences(states, normalise):
    result = layer_margin(states, normalise=normalise)
    given = states.examples()
    assert result["place"].tolist() == ["input", "1", "3"]
    for k, state in enumerate(states):
        layers = mlp.layers_of(state.tensors)
        expected = slow.margins(layers, given.inputs.numpy(), given.targets.numpy(), normalise != "none")
        np.testing.assert_array_equal(result["n_undefined"][k], np.isnan(expected).sum(1))
        np.testing.assert_allclose(result["mean"][k], np.nanmean(expected, 1), rtol=1e-5)
        np.testing.assert_allclose(result["quantile"][k], np.nanquantile(expected, Q, axis=1).T, rtol=1e-5)


def test_scale_of_a_layer_does_not_matter(states):
    state, given = states[0], states.examples()
    names = ("0.weight", "0.bias", "2.weight")
    scaled = state.with_tensors(
        {name: state.tensors[name] * (3 if name[0] == "0" else 1 / 3) for name in names}
    )
    first, second = (layer_margin(replayed.States([s], given))["quantile"] for s in (state, scaled))
    np.testing.assert_allclose(first, second, rtol=1e-10)
    raw = layer_margin(replayed.States([scaled], given), normalise="none")["mean"]
    plain = layer_margin(replayed.States([state], given), normalise="none")["mean"]
    np.testing.assert_allclose(raw / plain, [[1, 3, 1]], rtol=1e-10)


def test_chunks_make_no_difference(states, monkeypatch):
    whole = layer_margin(states)["quantile"]
    monkeypatch.setattr("analyze.replay.evaluate.MEMORY", 1 << 12)
    np.testing.assert_allclose(layer_margin(states)["quantile"], whole, rtol=1e-12)


def test_no_gradient_and_no_class_are_undefined():
    found = margins(np.array([1.0, np.nan, 2.0]), np.array([[0.0, 1.0, 4.0]]), np.array([1.0]))
    np.testing.assert_array_equal(found, [[np.nan, np.nan, 0.5]])


def test_dead_network_has_no_margins(states):
    state, given = states[0], states.examples()
    dead = state.with_tensors({"4.weight": torch.zeros_like(state.tensors["4.weight"])})
    result = layer_margin(replayed.States([dead], given))
    assert np.isnan(result["mean"]).all() and (result["n_undefined"] == given.n).all()


@pytest.mark.parametrize("n", [23, 37])
def test_values_that_are_the_same_for_all_examples_have_no_margin(n):
    given = replayed.examples(n)
    model = replayed.mlp((4, 8, 8, 3))
    with torch.no_grad():  # the first layer is dead for all, so the second gives its biases
        model[0].weight.fill_(-1)
        model[0].bias.fill_(-100)
        model[2].bias.copy_(torch.rand(8, generator=torch.Generator().manual_seed(n)).double() + 0.1)
    result = layer_margin(replayed.States([replayed.state_of(model, given)], given))
    assert np.isnan(result["mean"][0, 2]) and result["n_undefined"][0, 2] == n
