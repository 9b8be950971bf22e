"""Gradients rebuilt from factors against autograd."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tracer.archive import gradients
from tracer.errors import MissingTraceError


def stored(
    blocks: list[dict[str, Any]], parts: dict[int, dict[str, np.ndarray]]
) -> tuple[list[Any], np.ndarray]:
    """Lay parts of blocks one after another; returns the complete blocks and the flat values."""
    pieces: list[np.ndarray] = []
    for number, block in enumerate(blocks):
        block["parts"] = []
        for name, values in parts.get(number, {}).items():
            offset = sum(piece.size for piece in pieces)
            block["parts"].append({"name": name, "offset": offset, "shape": list(values.shape)})
            pieces.append(values.ravel())
    return blocks, np.concatenate(pieces)


def rebuilt(blocks: list[Any], flat: np.ndarray, tensor: str) -> np.ndarray:
    return gradients.rebuild(blocks, tensor, lambda start, stop: flat[start:stop])


def signals(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss with a random gradient at y, and that gradient."""
    z = torch.randn_like(y)
    return (y * z).sum(), z


def test_linear_over_tokens_and_a_weight_used_twice() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(4, 5, 3), torch.randn(4, 2, 3)
    weight, bias = torch.randn(6, 3), torch.randn(6)
    parts, expected, expected_bias = {}, [], []
    z = {number: torch.randn(4, a.shape[1], 6) for number, a in enumerate((first, second))}
    for i in range(4):
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = sum(((F.linear(a[i], w, b)) * z[number][i]).sum() for number, a in enumerate((first, second)))
        grads = torch.autograd.grad(loss, (w, b))
        expected.append(grads[0].numpy())
        expected_bias.append(grads[1].numpy())
    parts = {0: {"a": first.numpy(), "z": z[0].numpy()}, 2: {"a": second.numpy(), "z": z[1].numpy()}}
    blocks, flat = stored(
        [
            {"tensor": "w", "form": "outer"},
            {"tensor": "b", "form": "sum", "source": 0},
            {"tensor": "w", "form": "outer"},
            {"tensor": "b", "form": "sum", "source": 2},
        ],
        parts,
    )
    np.testing.assert_allclose(rebuilt(blocks, flat, "w"), np.stack(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rebuilt(blocks, flat, "b"), np.stack(expected_bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((9,), (3,), (2,), (1,), (1,), 1),
        ((8, 7), (3, 2), (1, 2), (2, 0), (1, 1), 2),
        ((11, 9), (3, 3), (2, 1), (1, 1), (2, 3), 1),
        ((6, 6), (1, 1), (4, 4), (0, 0), (1, 1), 4),
        ((5, 4, 6), (2, 2, 3), (1, 1, 2), (0, 1, 1), (1, 1, 1), 1),
    ],
)
def test_convolutions(
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> None:
    torch.manual_seed(0)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(space)]
    a, weight, bias = torch.randn(3, 4, *space), torch.randn(8, 4 // groups, *kernel), torch.randn(8)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    z, expected, expected_bias = [], [], []
    for i in range(3):
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss, signal = signals(convolve(a[i : i + 1], w, b, **settings))
        grads = torch.autograd.grad(loss, (w, b))
        z.append(signal[0].numpy())
        expected.append(grads[0].numpy())
        expected_bias.append(grads[1].numpy())
    blocks, flat = stored(
        [
            {"tensor": "w", "form": "conv", "kernel": kernel, **settings},
            {"tensor": "b", "form": "sum", "source": 0},
        ],
        {0: {"a": a.numpy(), "z": np.stack(z)}},
    )
    np.testing.assert_allclose(rebuilt(blocks, flat, "w"), np.stack(expected), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rebuilt(blocks, flat, "b"), np.stack(expected_bias), rtol=1e-4, atol=1e-4)


def test_full_rows_and_unknown_tensors() -> None:
    values = np.arange(12, dtype="f4").reshape(2, 3, 2)
    blocks, flat = stored([{"tensor": "w", "form": "full"}], {0: {"grad": values}})
    assert np.array_equal(rebuilt(blocks, flat, "w"), values)
    with pytest.raises(MissingTraceError, match="no gradients of 'v' are recorded; known: w"):
        rebuilt(blocks, flat, "v")
