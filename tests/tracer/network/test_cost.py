"""What running a table takes, counted on sizes alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tracer.errors import ArchiveError
from tracer.network import cost
from tracer.network.tracing import trace


@pytest.fixture(scope="module")
def traced():
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.ReLU())]
    model = nn.Sequential(*layers)
    x, y = torch.rand(8, 4), torch.zeros(8, dtype=torch.int64)
    return trace(model, x, y, F.cross_entropy), dict(model.state_dict()), x, y


def test_rows_that_are_alike_are_looked_at_once(traced, monkeypatch):
    network, tensors, x, y = traced
    cost._known.clear()
    looked = []
    real = cost._sized
    monkeypatch.setattr(cost, "_sized", lambda row, *rest: looked.append(row.name) or real(row, *rest))
    first = cost.effort(network, tensors, x, y)
    assert len(looked) == first.calls < len(network.rows)
    assert cost.effort(network, tensors, x, y) == first and len(looked) == first.calls
    assert cost.effort(network, tensors, x[:3], y[:3]).calls == first.calls == len(looked) / 2


def test_what_is_remembered_says_the_same(traced):
    network, tensors, x, y = traced
    first = cost.effort(network, tensors, x, y)
    cost._known.clear()
    assert cost.effort(network, tensors, x, y) == first
    # Six products of 4 x 4 for 8 examples, 2 operations a number, and 8 for each number read and written.
    assert first.arithmetic == 6 * 2 * 8 * 4 * 4 and first.operations == first.arithmetic + 8 * first.moved


def test_a_call_that_was_once_worth_it_is_refused_where_it_is_not(traced, monkeypatch):
    network, tensors, x, y = traced
    monkeypatch.setattr(cost, "_limits", lambda size: (100, 100))
    for _ in range(2):  # looked at, and remembered
        monkeypatch.setattr(cost, "_limits", lambda size: (10**6, 10**6))
        cost.check(network, tensors, x, y)
        monkeypatch.setattr(cost, "_limits", lambda size: (10**6, 100))
        with pytest.raises(ArchiveError, match="more memory or time than its weights and inputs"):
            cost.check(network, tensors, x, y)


def test_numbers_of_another_type_are_another_call():
    assert len({cost._key((1, [True], 1.0)), cost._key((1.0, [True], 1.0)), cost._key((1, [1], 1.0))}) == 3
