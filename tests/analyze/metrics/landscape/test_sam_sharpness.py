import numpy as np
import pytest
import torch

from analyze.metrics.landscape.sam_sharpness import sam_sharpness
from tests.analyze.metrics.landscape.test_expected_sharpness import regression
from tests.oracles import sam_sharpness as slow
from tests.replayed import States, examples, mlp, state_of

RHO = (0.05, 0.5)


def test_agrees_with_the_step_taken_by_hand():
    state, given = regression()
    result = sam_sharpness(States([state], given), rho=RHO)
    stabilised = sam_sharpness(States([state], given), rho=RHO, eta=0.2)
    w, x, y = state.flat().numpy(), given.inputs.numpy(), given.targets.numpy()[:, 0]
    for k, rho in enumerate(RHO):
        assert result["sam"][0, k] == pytest.approx(slow.rise(w, x, y, rho, np.ones(4)))
        assert result["asam"][0, k] == pytest.approx(slow.rise(w, x, y, rho, np.abs(w)))
        assert stabilised["asam"][0, k] == pytest.approx(slow.rise(w, x, y, rho, np.abs(w) + 0.2))
    gradient = 2 * x.T @ (x @ w - y) / len(y)
    assert result["gradient_norm"][0] == pytest.approx(np.linalg.norm(gradient))
    assert result["n_examples"] == 9


def test_rescaling_hidden_units_changes_sam_but_not_asam():
    given = examples()
    state = state_of(mlp(), given)
    scaled = state.with_tensors(
        {
            "0.weight": state.tensors["0.weight"] * 10,
            "0.bias": state.tensors["0.bias"] * 10,
            "2.weight": state.tensors["2.weight"] / 10,
        }
    )
    result = sam_sharpness(States([state, scaled], given), rho=(0.1,))
    assert result["asam"][1, 0] == pytest.approx(result["asam"][0, 0], rel=1e-9)
    assert result["sam"][1, 0] != pytest.approx(result["sam"][0, 0], rel=0.1)


def test_small_steps_rise_by_the_length_of_the_gradient():
    given = examples()
    result = sam_sharpness(States([state_of(mlp(), given)], given), rho=(1e-5,))
    assert result["sam"][0, 0] == pytest.approx(1e-5 * result["gradient_norm"][0], rel=1e-3)


def test_no_gradient_no_direction():
    given = examples()
    state = state_of(mlp(), given)
    dead = state.with_tensors({name: torch.zeros_like(state.tensors[name]) for name in state.parameters})
    flat = dead.with_tensors({"2.bias": torch.zeros(3)})
    result = sam_sharpness(States([flat], given), rho=(0.1,))
    # Six examples of three classes, two each: scores of 0 are the best constant, and |w| = 0 moves nothing.
    assert np.isnan(result["asam"]).all() and result["gradient_norm"][0] == pytest.approx(0, abs=1e-15)
