import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.landscape.expected_sharpness import expected_sharpness, mean_and_error
from analyze.replay import Examples
from tests.oracles import expected_sharpness as slow
from tests.replayed import States, examples, mlp, moved, state_of


def regression(n=9, size=4):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, size, generator=generator, dtype=torch.float64)
    given = Examples(inputs, torch.randn(n, 1, generator=generator, dtype=torch.float64))
    model = nn.Linear(size, 1, bias=False).double()
    return state_of(model, given, lambda out, target: ((out - target) ** 2).squeeze(1)), given


def initial(state, scale=0.0):
    return {name: value.numpy() + scale for name, value in state.tensors.items()}


@pytest.mark.parametrize("noise", ["magnitude", "plain"])
def test_agrees_with_the_closed_form_of_a_linear_model(noise):
    state, given = regression()
    w = state.flat().numpy()
    result = expected_sharpness(
        States([state], given), initial(state, 0.5), sigma=(0.05, 0.2), noise=noise, pairs=300
    )
    for k, sigma in enumerate((0.05, 0.2)):
        spread = sigma * (10 * np.abs(w) + 1) if noise == "magnitude" else np.full(4, sigma)
        expected = slow.gain(spread, given.inputs.numpy())
        assert abs(result["gain"][0, k] - expected) < 4 * result["gain_error"][0, k]
        assert result["gain_error"][0, k] < 0.1 * expected
        assert result["kl"][0, k] == pytest.approx(slow.kl(w, w + 0.5, spread), rel=1e-9)
    assert result["n_pairs"].tolist() == [[300, 300]] and result["n_examples"] == 9


def test_prior_at_zero_and_at_the_start():
    state, given = regression()
    states = States([state], given)
    zero = expected_sharpness(states, initial(state), sigma=(0.1,), noise="plain", prior="zero", pairs=1)
    assert zero["kl"][0, 0] == pytest.approx(float((state.flat() ** 2).sum()) / (2 * 0.1**2))
    start = expected_sharpness(states, initial(state), sigma=(0.1,), pairs=1)
    assert start["kl"][0, 0] == 0 and np.isnan(start["gain_error"]).all() and start["attrs"]["draws"] == 2


def test_steps_share_their_noise():
    given = examples()
    state = state_of(mlp(), given)
    both = expected_sharpness(States([moved(state, 1.0, 1), state], given), initial(state), pairs=3)
    alone = expected_sharpness(States([state], given), initial(state), pairs=3)
    np.testing.assert_array_equal(both["gain"][1], alone["gain"][0])
    other = expected_sharpness(States([state], given), initial(state), pairs=3, seed=1)
    assert (other["gain"] != alone["gain"]).all()


def test_losses_that_are_not_finite_are_left_out_and_counted():
    assert mean_and_error(np.array([2.0, 4.0, np.nan, np.inf])) == (3.0, 1.0, 2)
    mean, error, count = mean_and_error(np.array([np.nan]))
    assert np.isnan(mean) and np.isnan(error) and count == 0
    given = examples()
    state = state_of(mlp(), given)
    broken = state.with_tensors({"0.weight": state.tensors["0.weight"] * torch.nan})
    result = expected_sharpness(States([broken], given), initial(state), sigma=(0.1,), pairs=2)
    assert np.isnan(result["gain"][0, 0]) and result["n_pairs"][0, 0] == 0
