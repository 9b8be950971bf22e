"""Complex numbers in a spectrum, grids and experts: written in what has a record, and with PyTorch's own values."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.tracer.network.test_decompositions import X, read_again
from tracer.network import trace
from tracer.network.copies import named_tensors
from tracer.network.program import resolve
from tracer.ops import decompositions


class Spectral(nn.Module):
    """Two frequencies weighed on a grid and written into zeros, and a third by itself, as neural operators do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(2.0), indexing="xy")
        waves = torch.fft.rfft(self.first(x)) * (rows + columns)[1]
        kept = torch.zeros_like(waves)
        kept[:, 1:3] = waves[:, 1:3]
        kept[:, -1] = waves[:, 0]
        return self.last(torch.fft.irfft(kept * kept.conj(), n=8))


def test_complex_numbers_written_into_a_part_have_gradients() -> None:
    torch.manual_seed(0)
    made = Spectral()
    weights = dict(made.named_parameters())
    outputs, _ = read_again(trace(made, X)).run(weights, X)
    torch.testing.assert_close(outputs, made(X))
    ours, theirs = (
        torch.autograd.grad(value.square().sum(), list(weights.values())) for value in (outputs, made(X))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("end", [None, 4, 2, -1, 1 << 62])
@pytest.mark.parametrize("start", [None, 0, 1, -3])
def test_a_part_is_where_pytorch_has_it(start: int | None, end: int | None) -> None:
    into = torch.randn(2, 4, dtype=torch.complex64)
    part = torch.ones_like(into[:, start:end])
    expected = torch.slice_scatter(into, part, 1, start, end)
    assert torch.equal(decompositions._slice_scatter(into, part, 1, start, end), expected)
    assert decompositions._slice_scatter(into.real, part.real, 1, start, end) is NotImplemented


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_grids_are_those_of_pytorch(indexing: str) -> None:
    axes = [torch.arange(2.0), torch.arange(3.0), torch.tensor(4.0)]
    for n in range(1, 4):
        ours = decompositions._meshgrid(axes[:n], indexing=indexing)
        theirs = torch.meshgrid(*axes[:n], indexing=indexing)
        assert len(ours) == n and all(map(torch.equal, ours, theirs))


@torch.library.custom_op("transformers::grouped_mm_fallback", mutates_args=())
def grouped(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """What the transformers library runs experts by, which is unknown here unless that is imported."""
    parts = zip(torch.tensor_split(rows, ends.tolist()), weights, strict=False)
    return torch.cat([part @ weight for part, weight in parts])


@grouped.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[2])


class Experts(nn.Module):
    """Each example goes through the expert that its gate chooses, those of one expert together."""

    def __init__(self, multiply: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 1)
        self.multiply, self.weights = multiply, nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        chosen = self.gate(x).argmax(1)
        order = chosen.argsort()
        ends = torch.histc(chosen[order].float(), bins=4, min=0, max=3).cumsum(0).to(torch.int32)
        return self.last(self.multiply(x[order], self.weights, ends)[order.argsort()])


# Without values PyTorch's own knows but one dtype.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("transformers.grouped_mm_fallback", torch.float32),
        pytest.param(
            "aten._grouped_mm",
            torch.bfloat16,
            marks=pytest.mark.skipif(torch.__version__ < "2.10", reason="PyTorch has none for processors"),
        ),
    ],
)
def test_experts_are_read_and_run_again(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made, x = Experts(resolve(f"{name}.default")).to(dtype), X.to(dtype)
    assert len(set(made.gate(made.first(x)).argmax(1).tolist())) > 1
    network = trace(made, x)
    assert network.foreign == []
    torch.testing.assert_close(read_again(network).run(named_tensors(made), x)[0], made(x))
