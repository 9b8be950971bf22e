"""Largest singular value of a layer as the linear map it is: a convolution with padding and stride."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tracer.errors import ArchiveError
from tracer.ops import op

if TYPE_CHECKING:
    from torch import Tensor

    from tracer.network import Network
    from tracer.network.table import Row

DENSE_UP_TO = 128  # inputs of a map below which its whole matrix is built
TOLERANCE = 1e-6  # relative, of Lanczos iterations
MAX_ITERATIONS = 300
RESIDUAL = 10  # times the tolerance: a larger one cannot tell apart two values that lie close


class Norm(NamedTuple):
    """A largest singular value, the iterations it took (0: from the whole matrix) and its estimated error."""

    value: float
    iterations: int = 0
    error: float = 0.0


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Singular values in decreasing order, float64; all NaN where an entry is not finite.

    >>> singular_values(np.array([[3.0, 0.0], [0.0, -4.0]])).round(12).tolist()
    [4.0, 3.0]
    """
    matrix = np.asarray(matrix, np.float64)
    if not np.isfinite(matrix).all():
        return np.full(min(matrix.shape), np.nan)
    if matrix.size and max(matrix.shape) > 2 * min(matrix.shape):
        tall = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
        matrix = np.asarray(np.linalg.qr(tall, mode="r"))
    return np.linalg.svd(matrix, compute_uv=False)


def map_norm(
    apply: Callable[[Tensor, Tensor], Tensor] | None,
    weight: Tensor,
    inputs: Sequence[int],
    *,
    tolerance: float = TOLERANCE,
) -> Norm:
    """Largest singular value of x -> apply(x, weight), x (n, *inputs); without `apply`, of scaling by weight.

    A small map is written out as a matrix; a convolution with kernels of one element is that of one
    position. Else Golub-Kahan-Lanczos iterations from a fixed random start, in float32 (their error enters
    squared; the largest value needs no reorthogonalisation), until the error estimated from residual and gap
    is below `tolerance`, relative, and the residual below ten times that, as two values that lie close look
    like one to larger ones; then one application in float64 to the vector found. So the value is never too
    large by more than rounding.

    >>> import torch
    >>> kernel = torch.diag(torch.arange(200.0))[..., None]
    >>> norm = map_norm(torch.nn.functional.conv1d, kernel, (200, 1))
    >>> round(norm.value, 3), norm.error < 1e-6
    (199.0, True)
    """
    import torch

    weight = weight.detach().double()
    largest = float(torch.stack(torch.aminmax(weight)).abs().max()) if weight.numel() else 0.0
    if not math.isfinite(largest):
        return Norm(math.nan)
    if apply is None or largest == 0:
        return Norm(largest)
    scaled = weight / largest
    if weight.dim() > 2 and math.prod(weight.shape[2:]) == 1:
        inputs = _one_position(apply, scaled, tuple(inputs))
    if math.prod(inputs) <= DENSE_UP_TO:
        with torch.no_grad():
            basis = torch.eye(math.prod(inputs), dtype=torch.float64).reshape(-1, *inputs)
            columns = apply(basis, scaled).reshape(len(basis), -1)
        return Norm(float(singular_values(columns.numpy())[0]) * largest)
    norm, vector = _lanczos(apply, scaled.float(), tuple(inputs), tolerance)
    with torch.no_grad():
        exact = apply(vector.double().reshape(1, *inputs), scaled)
    value = float(torch.linalg.vector_norm(exact) / torch.linalg.vector_norm(vector.double()))
    return norm._replace(value=value * largest)


def _one_position(
    apply: Callable[[Tensor, Tensor], Tensor], weight: Tensor, inputs: tuple[int, ...]
) -> tuple[int, ...]:
    """Shape of one position of inputs that are all mapped alike and apart; all, where padding leaves it out."""
    import torch

    one = (inputs[0], *[1] * (len(inputs) - 1))
    with torch.no_grad(), suppress(RuntimeError, ArchiveError):  # a transposed convolution may crop it
        if bool(apply(torch.ones(1, *one, dtype=weight.dtype), abs(weight)).any()):
            return one
    return inputs


def _lanczos(
    apply: Callable[[Tensor, Tensor], Tensor], weight: Tensor, inputs: tuple[int, ...], tolerance: float
) -> tuple[Norm, Tensor]:
    import torch

    # Channels last is what convolutions are fastest in.
    layout = torch.channels_last if len(inputs) == 3 and weight.dim() == 4 else torch.contiguous_format
    weight = weight.contiguous(memory_format=layout)
    start = torch.randn(1, *inputs, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        x = start.contiguous(memory_format=layout).requires_grad_()
        y = apply(x, weight)

    def backward(u: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, u, retain_graph=True)[0]

    with torch.no_grad():
        basis = [x / torch.linalg.vector_norm(x)]
        u = y / torch.linalg.vector_norm(x)
        diagonal, beside = [float(torch.linalg.vector_norm(u))], []
        limit = min(MAX_ITERATIONS, x.numel(), y.numel())
        for k in range(1, limit + 1):
            u = u.div_(diagonal[-1] or 1.0)
            v = backward(u).sub_(basis[-1], alpha=diagonal[-1])
            beside.append(float(torch.linalg.vector_norm(v)))
            ended = beside[-1] <= 1e-7 * diagonal[0] or k == limit
            if ended or (k > 3 and (k < 16 or k % 3 == 0)):  # seldom enough to cost little
                norm, residual, weights = _ritz(diagonal, beside, k)
                if ended or (norm.error <= tolerance and residual <= RESIDUAL * tolerance):
                    break
            basis.append(v.div_(beside[-1]))
            u = apply(basis[-1], weight).sub_(u, alpha=beside[-1])
            diagonal.append(float(torch.linalg.vector_norm(u)))
        vector = torch.zeros_like(basis[0])
        for part, along in zip(basis, weights.tolist(), strict=True):
            vector.add_(part, alpha=along)
        return norm, vector


def _ritz(diagonal: Sequence[float], beside: Sequence[float], k: int) -> tuple[Norm, float, np.ndarray]:
    """The best value so far with its estimated error, its residual, both relative, and its vector in the basis."""
    from scipy.linalg import eigh_tridiagonal

    alpha, beta = np.array(diagonal[:k]), np.array([0.0, *beside[: k - 1]])
    squares, vectors = eigh_tridiagonal(
        alpha**2 + beta**2, alpha[:-1] * beta[1:], select="i", select_range=(max(k - 2, 0), k - 1)
    )
    values, vector = np.sqrt(np.maximum(squares[::-1], 0.0)), vectors[:, -1]
    size = values[0] or 1.0
    residual = float(beside[k - 1] * abs(alpha[-1] * vector[-1]) / size**2)
    gap = (values[0] - values[1]) / size if k > 1 else 0.0
    error = min(residual, residual**2 / (4 * gap) if gap > 0 else math.inf)
    return Norm(float(values[0]), k, float(error)), residual, vector


class Applied(NamedTuple):
    """A row that applies a weight by itself, and the shape of one example of what it is applied to (None: unknown)."""

    network: Network
    row: Row
    inputs: tuple[int, ...] | None


def applied_weights(network: Network) -> dict[str, Applied]:
    """The first row of the model that applies each stored weight, by its name: linear layers and convolutions.

    >>> import torch
    >>> from tracer.network import trace
    >>> network = trace(torch.nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8))
    >>> applied_weights(network)["weight"].inputs
    (3, 8, 8)
    """
    applied: dict[str, Applied] = {}
    for row in network.rows:
        record = op(row.op)
        if record.rule is None or record.path is None or record.affine != "first" or row.loss:
            continue
        weight = row.args[record.rule.weight] if record.path in ("linear", "conv") else None
        name = weight.get("tensor") if isinstance(weight, dict) else None
        if name is not None:
            applied.setdefault(name, Applied(network, row, _inputs(network, row.args[record.rule.input])))
    return applied


def _inputs(network: Network, argument: Any) -> tuple[int, ...] | None:
    ((kind, key),) = argument.items()
    shape = (
        network.rows[key].shape
        if kind == "row"
        else network.inputs[key]["shape"]
        if kind == "input"
        else None
    )
    rest = tuple(size for size in (shape or ())[1:] if isinstance(size, int))
    return rest if rest and shape is not None and len(rest) == len(shape) - 1 else None


def row_norm(weight: np.ndarray, applied: Applied, *, tolerance: float = TOLERANCE) -> Norm:
    """Largest singular value of what a row of `applied_weights` computes with its weight.

    NaN where the size of the row's input is unknown.
    """
    import torch

    values = torch.from_numpy(np.array(weight, np.float64))
    if values.dim() == 2:
        return map_norm(_linear, values, values.shape[1:], tolerance=tolerance)
    if applied.inputs is None:
        return Norm(math.nan)
    return map_norm(_call_of(applied), values, applied.inputs, tolerance=tolerance)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def _call_of(applied: Applied) -> Callable[[Tensor, Tensor], Tensor]:
    call, others = applied.network.operation(applied.row)
    return lambda x, weight: call(x, weight, None, *others[3:])
