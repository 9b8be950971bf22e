import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analyze.metrics.landscape.loss_plane import direction, loss_plane, normalised
from tests import replayed


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
    ).double()
    given = replayed.examples(9, (1, 5, 5))
    model(given.inputs)
    return model.eval(), replayed.state_of(model, given), given


def test_agrees_with_the_module_moved_by_hand(net):
    model, state, given = net
    result = loss_plane(replayed.States([state], given), points=3, reach=0.5)
    delta, eta = (direction(state, 0, which) for which in (0, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for i, a in enumerate((-0.5, 0.0, 0.5)):
        for j, b in enumerate((-0.5, 0.0, 0.5)):
            model.load_state_dict(before)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter += a * delta[name] + b * eta[name]
                kept = model(given.inputs)
                model.train()
                model[1].momentum = None
                model[1].reset_running_stats()
                model(given.inputs)
                reset = model.eval()(given.inputs)
            for k, outputs in enumerate((kept, reset)):
                assert result["loss"][0, k, i, j] == pytest.approx(
                    float(F.cross_entropy(outputs, given.targets))
                )
                wrong = float((outputs.argmax(1) != given.targets).double().mean())
                assert result["error"][0, k, i, j] == pytest.approx(wrong)
    model.load_state_dict(before)
    one, two = (np.concatenate([value.numpy().ravel() for value in each.values()]) for each in (delta, eta))
    assert result["cosine"][0] == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def test_each_filter_is_as_long_as_that_of_the_weights(net):
    _, state, _ = net
    found = direction(state, 0, 0)
    for name in ("0.weight", "4.weight"):
        for row, own in zip(found[name], state.tensors[name], strict=True):
            assert float(row.norm()) == pytest.approx(float(own.norm()))
    assert not found["0.bias"].any() and not found["1.weight"].any()
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert normalised(torch.ones(2, 2), rows)[0].tolist() == [0, 0]  # a filter of zeros stays


def test_without_batchnorm_nothing_is_reset_and_nan_is_undefined():
    given = replayed.examples(6)
    state = replayed.state_of(replayed.mlp(), given)
    broken = state.with_tensors({"0.weight": torch.full_like(state.tensors["0.weight"], np.nan)})
    result = loss_plane(replayed.States([state, broken], given), points=2)
    assert np.isnan(result["loss"][0, 1]).all() and np.isfinite(result["loss"][0, 0]).all()
    assert np.isnan(result["loss"][1]).all() and np.isnan(result["cosine"][1])
