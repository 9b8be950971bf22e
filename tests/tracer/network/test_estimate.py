"""What passes take is told before anything is traced, from sizes alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.errors import RecordError
from tracer.network.estimate import estimate
from tracer.recorder import preparation

X, Y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])


def network(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def test_sizes_of_one_example_are_told() -> None:
    told = estimate(network(), X, Y, loss=F.cross_entropy)
    assert told is not None
    assert (told.outputs, told.sites, told.units, told.masked) == ((3,), 1, 8, 8)
    assert told.held == {"0": 6 + 8, "2": 8 + 3}  # factors are smaller than rows
    # A Linear layer, a ReLU, a Linear layer, logarithms of probabilities, a loss.
    assert told.nbytes >= 4 * (8 + 8 + 3 + 3 + 1)


def test_what_cannot_fit_is_refused_before_it_is_traced(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr("tracer.recorder.stand_in.trace_once", never)
    monkeypatch.setattr(preparation, "_SMALL", 1e9)  # a model this small is traced sooner than estimated
    probe = tracer.Probe(torch.randn(400, 6), torch.arange(400) % 3, capture={"activations": 400})
    with pytest.raises(RecordError, match=r"lower its capture.*raise memory= to"):
        tracer.record(
            f"{tmp_path}/run.zarr",
            network(4096),
            None,
            loss=F.cross_entropy,
            probes={"train": probe},
            memory=1 << 20,
        ).start()
