"""Inner products of per-example gradients, exact to float32 rounding, from rows or straight from factors.

Two routes to the same matrix. By rows: make the gradients of a few columns of the weight at a time, multiply,
add up in float64. By pairs ("ghost", Li et al. 2022, arXiv:2110.05679): the inner product of two sums of
outer products is a sum over pairs of positions of (a_t . a_s)(z_t . z_s), and no gradient is ever made.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tracer.errors import ArgumentError
from tracer.network.copies import lent

_COLUMNS = 1 << 14  # float32 products are added up in float64 every so many columns
_TILE = {"cpu": 512, "cuda": 8192}  # side of a tile of position pairs; on a CPU 1 MiB, a core's cache
_BLOCK = {"cpu": 1 << 23, "cuda": 1 << 26}  # elements of the gradient rows made at a time
_PAIR = 24  # cost of one pair of positions beside its products, in multiply-adds
_ROW = 40  # cost of writing and reading back one element of a row, in multiply-adds
_DOUBLE = 4  # cost of a float64 product on an accelerator: 1 to 2 on those for computing, far more on others
_CANCELLATION = 32.0  # above it, float32 pair sums could miss 1e-5 of a cosine
_NUMPY_ROWS = 64  # from so many examples on, computing one half and mirroring it pays

Shift = Callable[[Tensor, int, int], Tensor]


def may_look(tensor: Tensor) -> bool:
    """Whether what is computed may depend on a tensor's values: an accelerator would have to be waited for."""
    return tensor.device.type == "cpu"


def block_rows(n: int, columns: int, device: torch.device) -> int:
    """How many groups of `columns` gradient entries of n examples to make at a time, at least 1."""
    return max(1, _BLOCK["cpu" if device.type == "cpu" else "cuda"] // max(1, n * columns))


def square(x: Tensor) -> Tensor:
    """Inner products of the rows of x (n, k), in its own precision, exactly symmetric: (n, n)."""
    if _by_numpy(x):
        rows = lent(x)
        return torch.from_numpy(rows @ rows.T)
    return symmetric(x @ x.T)


def gram_of_vectors(a: Tensor, z: Tensor, bias: bool) -> Tensor:
    """(a_i . a_j + bias)(z_i . z_j) for a (n, K), z (n, O), in their precision: (n, n), exactly symmetric."""
    if not _by_numpy(a):
        left, right = square(a), square(z)
        return (left.add_(1) if bias else left).mul_(right)
    inputs, signals = lent(a), lent(z)
    products = inputs @ inputs.T
    if bias:
        products += 1
    products *= signals @ signals.T
    return torch.from_numpy(products)


def _by_numpy(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[0] >= _NUMPY_ROWS


def symmetric(gram: Tensor) -> Tensor:
    """The mean of a matrix and its transpose."""
    return (gram + gram.mT).mul_(0.5)


def gram_of_rows(blocks: Iterable[Tensor]) -> Tensor:
    """Sum of E @ E.T over blocks of columns E (n, k), of which there is at least one: float64 (n, n)."""
    total: Tensor | None = None
    for block in blocks:
        if not block.shape[1]:  # of a parameter without elements
            total = block.new_zeros(len(block), len(block), dtype=torch.float64) if total is None else total
        for start in range(0, block.shape[1], _COLUMNS):
            part = square(block[:, start : start + _COLUMNS])
            total = part.double() if total is None else total.add_(part)
    if total is None:
        raise ArgumentError("a Gram matrix needs at least one block of rows")
    return total


def pairs_are_cheaper(
    n: int, pairs: int, positions: int, inputs: int, outputs: int, weight: int, device: torch.device
) -> bool:
    """Whether pairs of positions cost less than rows, in multiply-adds.

    n examples; `pairs` = squared number of places where `inputs` channels are multiplied, `positions` =
    number of places of the `outputs` channels; `weight` = elements of one gradient.
    """
    by_pairs = n * n * (pairs * (inputs + _PAIR) + positions * positions * (outputs + _PAIR)) // 2
    by_rows = n * weight * (positions + n // 2 + _ROW)
    return by_pairs * (1 if device.type == "cpu" else _DOUBLE) < by_rows


def gram_of_pairs(a: Tensor, z: Tensor, bias: bool, shift: Shift | None = None) -> Tensor:
    """Sum over positions t, s of (a_it . a_js + bias)(z_it . z_js): float64 (n, n), exactly symmetric.

    a (n, place, K), z (n, position, O). `shift` turns products over places into products over positions (a
    convolution's patches overlap, so its places are pixels). float32 where that is safe: where the terms
    cancel so strongly that rounding could show, everything is repeated in float64. To look whether they do
    would mean waiting for an accelerator, so there it is float64 at once.
    """
    if not may_look(a):
        return _tiles(a.double(), z.double(), bias, shift)[0]
    gram, unsafe = _tiles(a, z, bias, shift)
    if a.dtype != torch.float64 and bool(unsafe):
        gram, _ = _tiles(a.double(), z.double(), bias, shift)
    return gram


def _tiles(a: Tensor, z: Tensor, bias: bool, shift: Shift | None) -> tuple[Tensor, Tensor]:
    n, places, positions = len(a), a.shape[1], z.shape[1]
    side = max(1, _TILE["cpu" if a.device.type == "cpu" else "cuda"] // max(places, positions))
    count = -(-n // side)
    lefts = [part.transpose(0, 1).reshape(-1, a.shape[2]) for part in a.chunk(count)]
    rights = [part.transpose(0, 1).reshape(-1, z.shape[2]) for part in z.chunk(count)]
    gram = torch.zeros(n, n, dtype=torch.float64, device=a.device)
    sums = torch.zeros(n, dtype=torch.float64, device=a.device)
    row = 0
    for i, (left, signal) in enumerate(zip(lefts, rights, strict=True)):
        ni, column = len(left) // places, 0
        for j in range(i + 1):
            nj = len(lefts[j]) // places
            tile = left @ lefts[j].T
            tile = tile if shift is None else shift(tile, ni, nj)
            tile = tile.add_(1) if bias else tile
            signals = signal @ rights[j].T
            if i == j:
                norms = (tile.diagonal() * signals.diagonal()).clamp_min_(0).sqrt_()
                sums[row : row + ni] = norms.view(positions, ni).sum(0)
            over_t = tile.mul_(signals).view(positions, ni, positions * nj).sum(0)
            value = over_t.view(ni, positions, nj).sum(1, dtype=torch.float64)
            value = symmetric(value) if i == j else value
            gram[row : row + ni, column : column + nj] = value
            gram[column : column + nj, row : row + ni] = value.T
            column += nj
        row += ni
    return gram, (sums.square() > _CANCELLATION * positions * gram.diagonal()).any()
