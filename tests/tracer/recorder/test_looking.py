"""Looking at the forward pass of a training, `minibatch=`, is no matter of the training, whatever it meets there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from tests.tracer.recorder.test_inflight import (
    Switch,
    batch,
    captured_of,
    flight_over,
    losses_after,
    switch_table,
)


class Floored(nn.Module):
    """Not below a floor for each unit, which is no nonlinearity of a table's."""

    def forward(self, x):
        return torch.clamp(x, min=torch.zeros(x.shape[1]))


def test_looking_at_arguments_asks_nothing_of_tensors():
    model = nn.Sequential(nn.Linear(6, 5), Floored(), nn.Linear(5, 3))
    got, notes, _ = captured_of(model, *batch(), F.cross_entropy)
    assert np.isfinite(got["loss"]).all() and np.isfinite(got["pre"]).all() and notes == []


def by_vmap(model, x, y):
    def loss(parameters, one, target):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (one[None],)), target[None])

    torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(dict(model.named_parameters()), x, y)


def test_within_transforms_nothing_is_captured_and_all_is_computed():
    losses, _, notes = losses_after(by_vmap)
    assert np.isnan(losses).all() and "within torch.func" in notes[0]
    losses, expected, notes = losses_after(lambda *args: (by_vmap(*args), args[0](args[1])))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("place", ["call", "before_site", "after_site", "begin"])
def test_what_looking_raises_is_no_matter_of_the_training(place, monkeypatch):
    model = Switch(more=False)
    x, y = batch()
    expected = model(x)
    flight, notes = flight_over(model, switch_table())

    def broken(*given):
        raise ArithmeticError("lost")

    monkeypatch.setattr(flight.watch, place, broken)
    flight.attach()
    for bx, _ in flight.follow([(x, y)], [0], lambda: (1, 1, np.arange(6))):
        assert torch.equal(model(bx), expected)
    assert "failed (ArithmeticError: lost): minibatch= left it out" in notes[0]
    assert flight.collect().empty and not _get_current_function_mode_stack()
    flight.detach()
    assert torch.equal(model(x), expected)
