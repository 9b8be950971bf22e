"""Parameters that are not float32: float64 keeps its precision in what is stored, complex ones are refused by name."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analyze
import tracer
from tests.loops import blobs, mlp
from tracer.errors import MissingTraceError
from tracer.recorder import RecordWarning


def test_gradients_of_a_float64_model_are_stored_in_it(tmp_path):
    model, (x, y) = mlp().double(), blobs(6)
    with tracer.record(
        tmp_path / "a.zarr",
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        loss=F.cross_entropy,
        probes={"train": (x.double(), y)},
        gradients="exact",
    ):
        pass
    F.cross_entropy(model(x[:1].double()), y[:1]).backward()
    with tracer.open(tmp_path / "a.zarr") as archive:
        for name, parameter in model.named_parameters():
            stored = archive.probes["train"].gradients(name, 0)
            assert stored.dtype == np.float64
            np.testing.assert_allclose(stored[0], parameter.grad, rtol=1e-12, atol=1e-15)


class Turning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))
        self.register_buffer("phase", torch.randn(4, dtype=torch.complex64))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu((x.to(torch.complex64) @ self.turn * self.phase).abs()))


def test_complex_parameters_are_refused_by_name_and_the_rest_goes_on(tmp_path):
    torch.manual_seed(0)
    model, (x, y) = Turning(), blobs(6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with (
        pytest.warns(RecordWarning, match="Parameters turn are complex"),
        tracer.record(tmp_path / "a.zarr", model, optimizer, loss=F.cross_entropy, probes={"train": (x, y)}),
    ):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.weights(1)["turn"].dtype == np.complex64
    assert np.isfinite(analyze.run(archive, ["generalization"])["generalization"]["loss"]).all()
    for metric in ("layer_norms", "capacity", "sharpness"):
        with pytest.raises(MissingTraceError, match="parameter 'turn' is complex"):
            analyze.run(archive, [metric])
