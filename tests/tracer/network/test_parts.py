"""A program written in parts one operation at a time is the one that a trace of the whole gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tracer.errors import RecordError
from tracer.network import Network, trace, tracing
from tracer.network.copies import named_tensors
from tracer.network.torch_internals import _KEPT

X, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.rand(6, 1)
Middle = Callable[[Tensor], Tensor]


class Between(nn.Module):
    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.middle, self.first, self.norm, self.last = (
            middle,
            nn.Linear(5, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 1),
        )

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.norm(self.first(x))))


def rest(middle: Middle) -> nn.Module:
    torch.manual_seed(0)
    return Between(middle).eval()


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean(1)


def both(middle: Middle, loss: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether it went part by part; the table is that of the whole, and runs as the model does."""
    model = rest(middle)
    wholes: list[object] = []
    rewritten = tracing._rewritten
    monkeypatch.setattr(tracing, "_rewritten", lambda *of: wholes.append(of) or rewritten(*of))
    network: Network = trace(model, X, Y, loss)
    by_parts = not wholes
    monkeypatch.setattr(tracing, "in_parts", lambda graph: None)
    assert trace(model, X, Y, loss).to_json() == network.to_json()
    outputs, losses = network.run(named_tensors(model), X, Y)
    torch.testing.assert_close(outputs, model(X))
    if loss is squares:
        torch.testing.assert_close(losses, squares(model(X), Y))
    return by_parts


def in_place(h: Tensor) -> Tensor:
    h.relu_()
    return h


def added(h: Tensor) -> Tensor:
    """The two of a residual block."""
    out = h.tanh()
    out += h
    return F.relu(out, inplace=True)


def used_before_and_after(h: Tensor) -> Tensor:
    before = h.tanh()
    after = h.mul_(2)
    return before + h * after


def viewed(h: Tensor) -> Tensor:
    first, *others = h.view(-1, 4, 2).movedim(1, 2).contiguous().unbind(1)
    return sum(others, first).repeat(1, 2)


def without_gradients(h: Tensor) -> Tensor:
    """A region in which gradients are off, and one in it in which they are on."""
    with torch.no_grad():
        scale, bound = h.abs().amax(1, keepdim=True), torch.ones(8)
        with torch.enable_grad():
            twice = scale * 2
    return h / (bound + scale + twice)


def written(h: Tensor) -> Tensor:
    return F.dropout(used_before_and_after(in_place(added(h))).view(-1, 8), 0.5, False, True)


def views(h: Tensor) -> Tensor:
    """And dtypes."""
    return torch.cat(viewed(h).chunk(2, 1)[::-1], 1).to(torch.float64).float()


class Whole(nn.Module):
    """What PyTorch has written in Python too, and keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 8, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        h = F.interpolate(h.unsqueeze(1), size=8, mode="linear").matmul(h.unsqueeze(2)) * h.unsqueeze(1)
        return self.layer(h)[0].squeeze(1) + F.one_hot(h.squeeze(1).argmax(1), 8)


@pytest.mark.parametrize(
    "middle",
    [
        nn.Sequential(nn.GELU(), nn.LayerNorm(8), nn.Softmax(-1), nn.Flatten(), nn.PReLU(), nn.Dropout()),
        lambda h: views(without_gradients(written(h))),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (written, without_gradients, views)),
        pytest.param(Whole(), marks=pytest.mark.skipif(torch.__version__ < _KEPT, reason="of older PyTorch")),
    ],
    ids=["plain and composite", "one after another", "in place", "without gradients", "views", "kept whole"],
)
def test_it_is_written_part_by_part(middle: Middle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(middle, squares, monkeypatch)


def seen_by_an_earlier_view(h: Tensor) -> Tensor:
    view = h.view(-1, 2, 4)
    h.relu_()
    return view.flatten(1)


def through_a_view(h: Tensor) -> Tensor:
    h[:, :4].relu_()
    return h


def twice(h: Tensor) -> Tensor:
    """The first result is read through a view that the second write changes."""
    first = h.relu_()
    view = first.view(-1, 8)
    first.add_(1)
    return view * 2


def another_dtype(h: Tensor) -> Tensor:
    return h.add_(h.double())


@pytest.mark.parametrize(
    "middle",
    [
        seen_by_an_earlier_view,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (twice, through_a_view, another_dtype)),
    ],
)
def test_what_something_else_can_see_takes_the_whole(middle: Middle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not both(middle, squares, monkeypatch)


def test_parts_that_have_no_record_take_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not both(
        nn.ReLU(), lambda y, t: F.multi_margin_loss(y, t.long()[:, 0], reduction="none"), monkeypatch
    )


def laid_out_anew(h: Tensor) -> Tensor:
    """A size that is left to PyTorch, of values that do not lie in their order."""
    return h.view(-1, 2, 4).transpose(1, 2).reshape(-1, 4).view(h.shape[0], -1)


def test_a_size_is_told_by_one_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a trace of the whole multiplies and divides."""
    monkeypatch.setattr(tracing, "_rewritten", lambda *_: pytest.fail("a trace of the whole"))
    model = rest(laid_out_anew)
    network = trace(model, X, Y, squares)
    assert [row.op for row in network.rows if row.op.startswith("int.")] == ["int.mul"]
    for n in (1, 4, 6):
        assert torch.equal(network.run(named_tensors(model), X[:n], Y[:n])[0], model(X[:n]))


def test_values_beside_their_history_have_no_parts_and_are_named() -> None:
    with pytest.raises(RecordError, match=r"`data`, for which detach\(\) can be traced"):
        trace(rest(lambda h: h / h.data.norm(dim=1, keepdim=True)), X, Y, squares)
