"""Uses of parameters that a rule must know, or refuse: in every mode, the gradients are autograd's one at a time."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.oracles.gradients import check_gram, check_rows, per_example
from tracer.archive.gradients import rebuild
from tracer.gradients import products
from tracer.network import Network, trace
from tracer.network.copies import named_tensors
from tracer.probe import Probe, ProbePass


class Calls(nn.Module):
    """A forward of its own between parameters of these shapes and a last layer."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], x: Tensor, **shapes: Any) -> None:
        super().__init__()
        for name, shape in shapes.items():
            made = shape() if callable(shape) else nn.Parameter(torch.randn(shape))
            setattr(self, name, made)
        self._function = forward
        with torch.no_grad():
            self.last = nn.Linear(forward(self, x).flatten(1).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self._function(self, x).flatten(1))


def transposed(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.ConvTranspose1d(2, 3, 2, dilation=4, **options)


def spectrum(m: Any, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * m.w + m.v, n=x.shape[-1])


def gated(m: Any, x: Tensor) -> Tensor:
    """The gate's own gradient is 0: what it lets through is."""
    return x + m.w * (x @ (m.v - m.v.detach()))


Case = tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...], dict[str, Any]]
HEADS: dict[str, Any] = {"w": (4, 5, 2)}
CASES: dict[str, Case] = {
    "weight of each head": (lambda m, x: torch.tanh(x @ m.w), (4, 3, 5), HEADS),
    "one token a head": (lambda m, x: torch.tanh(x @ m.w), (4, 1, 5), HEADS),
    "batch of weights": (lambda m, x: torch.tanh(x @ m.w), (4, 3, 5), {"w": (1, 4, 5, 2)}),
    "experts of all": (lambda m, x: torch.tanh(x[None] @ m.w).transpose(0, 1), (5,), HEADS),
    "experts of their own": (
        lambda m, x: torch.tanh(torch.matmul(x.transpose(0, 1), m.w)).transpose(0, 1), (4, 5), HEADS,
    ),
    "weight of one axis": (lambda m, x: torch.tanh(F.linear(x, m.w)), (4, 5), {"w": (5,)}),
    "one bias for all": (lambda m, x: torch.tanh(F.linear(x, m.w, m.v)), (5,), {"w": (4, 5), "v": (1,)}),
    "scalars": (lambda m, x: torch.tanh(m.w * x) - m.v, (5,), {"w": (), "v": ()}),
    "gate of what is 0": (gated, (5,), {"w": (), "v": (5, 5)}),
    "prelu of a number": (lambda m, x: m.act(x.sum(1)).unsqueeze(1), (5,), {"act": nn.PReLU}),
    "group norm of vectors": (lambda m, x: m.norm(x), (6,), {"norm": lambda: nn.GroupNorm(2, 6)}),
    "real among complex": (spectrum, (6,), {"w": (4,), "v": (4,)}),
    "padded by its stride": (
        lambda m, x: m.t(x), (2, 5), {"t": transposed(stride=2, output_padding=2)},
    ),
    "padded by more": (
        lambda m, x: m.t(x), (2, 5), {"t": transposed(stride=1, padding=1, output_padding=3)},
    ),
}  # fmt: skip


@pytest.fixture(params=[True, False], ids=["looking", "never looking"])
def looks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, and as on an accelerator, where nobody looks at values."""
    if not request.param:
        monkeypatch.setattr(products, "may_look", lambda _: False)


@cache
def made(name: str) -> tuple[Network, dict[str, Tensor], Probe, list[dict[str, Tensor]]]:
    """The table of a case, its tensors, its examples and their gradients by autograd, exact and not."""
    torch.manual_seed(0)
    forward, shape, parts = CASES[name]
    x, y = torch.randn(4, *shape), torch.arange(4) % 3
    model = Calls(forward, x, **parts)
    network = trace(model, x, y, F.cross_entropy)
    rows = [per_example(model, F.cross_entropy, x, y, double=double) for double in (True, False)]
    return network, named_tensors(model), Probe(x, y), rows


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_every_mode(name: str, looks: None) -> None:
    network, tensors, probe, (exact, theirs) = made(name)
    for mode in ("exact", "gram", "sketch"):
        seen = ProbePass(network, {"train": probe}, tensors=tensors, streams=["gradients"], gradients=mode)
        found = seen.run(tensors, {"gradients"})
        if mode == "sketch":  # of layers as small as these it is the gradients themselves
            values = torch.from_numpy(found["probes/train/sketches"]["values"]).double()
            product = values @ values.T
        else:
            product = torch.from_numpy(found["gram"]["gram"]).sum(0)
        check_gram(product, list(exact.values()), list(theirs.values()))
        if mode == "exact":
            values = found["probes/train/gradients"]["values"]
            blocks = seen.attributes["probes/train/gradients"]["blocks"]
            for key, rows in exact.items():
                got = np.array(rebuild(blocks, key, lambda start, stop, own=values: own[start:stop]))
                assert got.shape == rows.shape
                check_rows(torch.from_numpy(got), rows, theirs[key])


class Squeezed(nn.Module):
    """A bare squeeze() of a state: of a single example the model makes something else, and its table does not."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.state = nn.Identity() if normed else nn.LSTM(5, 5)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)) if normed else nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.state(x.transpose(0, 1))
        return self.last((state[1][0] if isinstance(state, tuple) else state[-1:]).squeeze())


class Twice(nn.Module):
    """A model whose examples come in pairs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.cat([x, x]))[: len(x)]


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("normed", [False, True], ids=["lstm", "weight norm"])
def test_the_table_of_a_model_that_takes_no_single_example_takes_one(normed: bool, n: int) -> None:
    torch.manual_seed(0)
    model, x, y = Squeezed(normed), torch.randn(5, 4, 5), torch.arange(5) % 3
    network = trace(model, x, y, F.cross_entropy)
    seen = ProbePass(
        network, {"train": Probe(x[:n], y[:n])}, tensors=named_tensors(model), gradients="gram", chunk=2
    )
    found = torch.from_numpy(seen.run(named_tensors(model), {"gradients"})["gram"]["gram"]).sum(0)
    exact, theirs = (
        per_example(Twice(model), F.cross_entropy, x[:n], y[:n], double=double) for double in (True, False)
    )
    check_gram(found, list(exact.values()), list(theirs.values()))
    assert ("vmap" if normed else "loop") in "+".join(seen.ways.values())
