import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from analyze.metrics.capacity.norm_measures import (
    NAMES,
    SPECTRAL,
    closed_forms,
    margin_tenth,
    norm_measures,
    rescaled,
)
from analyze.replay.folded import fold
from tests.oracles import norm_measures as slow
from tracer.network import trace
from tracer.network.copies import named_tensors

MARGINS = np.array([np.linspace(0.5, 3, 20)])


def conv_net(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        model(torch.randn(30, 2, 6, 6, dtype=torch.float64))
    return model.eval()


def arrays(model):
    return {name: value.detach().numpy().copy() for name, value in named_tensors(model).items()}


def test_agrees_with_a_folded_copy_of_the_module():
    model, initial = conv_net(0), conv_net(1)
    network = trace(model, torch.zeros(4, 2, 6, 6, dtype=torch.float64))
    result = norm_measures([arrays(model)], arrays(initial), [network], MARGINS, 50)
    gamma = MARGINS[0, 1]
    expected = slow.measures(model, initial, gamma)
    expected["path_norm"] = slow.path_norm(model, torch.ones(1, 2, 6, 6, dtype=torch.float64))
    known = {}

    def norm(kernel):
        key = kernel.numpy().tobytes()
        return known[key] if key in known else known.setdefault(key, slow.circular(kernel, 6))

    circular = slow.measures(model, initial, gamma, norm)
    expected |= {f"{name}_fft": circular[name] for name in SPECTRAL}
    for name, value in expected.items():
        assert result[name][0, 0] == pytest.approx(value, rel=1e-8), name
        scaled = 0.5 * (value - math.log(50)) if name.startswith("log_") else math.sqrt(value / 50)
        assert result[name][0, 1] == pytest.approx(scaled, rel=1e-8), name
    assert {*NAMES} - {*expected} == {"l2_dist", "path_norm_over_margin"}
    assert result["path_norm_over_margin"][0, 0] == pytest.approx(expected["path_norm"] / gamma**2)
    assert (result["n_layers"], result["n_unfolded"], result["gamma"]) == ([3], [0], [gamma])


def test_a_folded_network_computes_what_it_did():
    model = conv_net()
    network = trace(model, torch.zeros(4, 2, 6, 6, dtype=torch.float64))
    tensors, x = arrays(model), torch.randn(5, 2, 6, 6, dtype=torch.float64)
    changed = fold(network, tensors)
    outputs = [
        network.run({name: torch.from_numpy(np.array(value)) for name, value in each.items()}, x)[0]
        for each in (tensors, changed.tensors)
    ]
    torch.testing.assert_close(outputs[0], outputs[1])
    assert changed.weights == ("0.weight", "3.weight", "7.weight") and changed.n_norms == 2
    again = fold(network, changed.tensors)  # without a residual
    assert all(
        np.allclose(again.tensors[name], changed.tensors[name], rtol=1e-12) for name in changed.weights
    )


def test_a_norm_that_comes_first_is_not_folded():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)).double().eval()
    network = trace(model, torch.zeros(4, 4, dtype=torch.float64))
    result = norm_measures([arrays(model)], arrays(model), [network], MARGINS, 50)
    assert result["n_unfolded"] == 2
    assert result["param_norm"][0, 0] == pytest.approx(float((model[1].weight.detach() ** 2).sum()))
    assert result["log_spec_init_main"][0, 0] == -np.inf and np.isnan(result["log_prod_of_spec_fft"]).all()


def test_hand_values_over_the_margin():
    found = closed_forms(
        [np.diag([3.0, 4.0]), np.array([[2.0, 0.0]])], [np.diag([3.0, 3.0]), np.zeros((1, 2))], 0.5
    )
    assert found["log_prod_of_spec_over_margin"] == pytest.approx(math.log(256))
    assert found["log_spec_init_main"] == pytest.approx(math.log(256 * 17 / 16))
    assert found["log_spec_orig_main"] == pytest.approx(math.log(256 * 41 / 16))
    assert rescaled("fro_dist", 8.0, 2) == 2 and math.isnan(rescaled("fro_dist", -1.0, 2))


def test_margins_and_layers_that_leave_measures_undefined():
    assert margin_tenth(np.arange(-1.0, 18.0), absolute=True) == 1 and math.isnan(
        margin_tenth(np.arange(-1.0, 18.0))
    )
    assert math.isnan(margin_tenth(np.ones(9)))
    zero = closed_forms([np.zeros((2, 2)), np.eye(2)], [np.eye(2)] * 2, 1.0)
    assert zero["log_prod_of_spec"] == -np.inf and np.isnan(zero["fro_over_spec"]) and zero["fro_dist"] == 2
    model = nn.Linear(4, 3).double()
    broken, network = arrays(model), trace(model, torch.zeros(4, 4, dtype=torch.float64))
    broken["weight"][0, 0] = np.nan
    result = norm_measures([broken], arrays(model), [network], MARGINS, 50)
    assert all(np.isnan(result[name]).all() for name in NAMES)
    none = norm_measures([arrays(model)], arrays(model), [network], -MARGINS, 50)
    assert np.isnan(none["inverse_margin"]).all() and np.isfinite(none["log_prod_of_spec"]).all()


def test_scale_of_a_layer_moves_from_batchnorm_into_the_weights():
    model = conv_net()
    network = trace(model, torch.zeros(4, 2, 6, 6, dtype=torch.float64))
    larger = copy.deepcopy(model)
    with torch.no_grad():  # the same function: ten times the weights under a norm of ten times the spread
        larger[0].weight.mul_(10)
        larger[1].running_mean.mul_(10)
        larger[1].running_var.add_(1e-5).mul_(100).sub_(1e-5)
    first, second = (
        norm_measures([arrays(m)], arrays(conv_net(1)), [network], MARGINS, 50) for m in (model, larger)
    )
    for name in NAMES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-9, err_msg=name, atol=1e-9)
