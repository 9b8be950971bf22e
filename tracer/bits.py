"""Masks as packed bits: pack, unpack, and count how paths overlap without unpacking them whole.

A mask of shape (example, unit) is stored *unit-major*, as uint8 of shape (unit, byte) with ``byte =
ceil(examples / 8)``: byte b of unit u holds examples 8b ... 8b+7, the first in the highest bit, and the bits
after the last example are 0. Consecutive snapshots of one unit then lie close together, which is what
general-purpose compressors need.
"""

import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

_BLOCK_BYTES = 8 << 20  # unpacked bytes held at a time
_MATMUL_UNITS = 1 << 14  # float32 sums of 0/1 stay exact far beyond this many units
_POPCOUNT_WORDS = 512  # words of 64 units per block: operands stay in the caches, sums below 2**16
_WORTH_TIMING = 1 << 23  # pair-bits below which any backend is instant
_COUNT_UNITS = 1 << 13  # units counted at a time, so that they stay in the caches

Bits = np.ndarray


def pack(mask: np.ndarray) -> np.ndarray:
    """Pack a path of bools (example, unit) into bits, uint8 (unit, byte).

    >>> pack(np.array([[True, False], [True, True]]))
    array([[192],
           [ 64]], dtype=uint8)
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has axes (example, unit), got shape {mask.shape}")
    n_examples, n_units = mask.shape
    # Packing along the contiguous axis is fast in NumPy, along the other one slow; so pack, then transpose
    # the bits.
    rows = np.packbits(mask.astype(bool, copy=False), axis=1)
    return _transpose_bits(rows, n_examples, n_units)


def unpack(bits: Bits, n_examples: int) -> np.ndarray:
    """Return the bools (..., example, unit) of bits (..., unit, byte).

    >>> unpack(np.array([[192], [64]], dtype=np.uint8), 2)
    array([[ True, False],
           [ True,  True]])
    """
    bits = _checked(bits, n_examples)
    return np.swapaxes(np.unpackbits(bits, axis=-1, count=n_examples), -1, -2).view(bool)


def count(bits: Bits, n_examples: int) -> np.ndarray:
    """Units on for each example, int64 (example,).

    >>> count(np.array([[192], [64]], dtype=np.uint8), 2)
    array([1, 2])
    """
    bits = _checked(bits, n_examples)
    total = np.zeros(n_examples, np.int64)
    for start in range(0, len(bits), _COUNT_UNITS):
        rows, _ = _examples_first(bits[start : start + _COUNT_UNITS], n_examples)
        total += np.bitwise_count(_as_words(rows, 0)).sum(axis=1, dtype=np.int64)
    return total


def common(bits: Bits, other: Bits, n_examples: int) -> np.ndarray:
    """Units on in both masks, for each example by itself, int64 (example,)."""
    bits, other = _checked(bits, n_examples), _checked(other, n_examples)
    if bits.shape != other.shape:
        raise ValueError(f"masks to intersect must agree in shape, got {bits.shape} and {other.shape}")
    return count(bits & other, n_examples)


def unit_count(bits: Bits) -> np.ndarray:
    """Examples for which each unit is on, int64 (unit,).

    >>> unit_count(np.array([[192], [64]], dtype=np.uint8))
    array([2, 1])
    """
    return np.bitwise_count(np.asarray(bits)).sum(axis=-1, dtype=np.int64)


def overlap(bits: Bits, n_examples: int, other: Bits | None = None) -> np.ndarray:
    """Units on for example i in ``bits`` and for example j in ``other``: int64 (example, example_2).

    ``other`` defaults to ``bits`` itself (the overlap Gram matrix, whose diagonal is ``count``). Exact
    integers whatever arithmetic is used: words are ANDed and counted, or unpacked blocks of units multiplied
    as float32, or as int8 where PyTorch is loaded; for large masks, whichever is the fastest on this machine.

    >>> overlap(np.array([[192], [64]], dtype=np.uint8), 2)
    array([[1, 1],
           [1, 2]])
    """
    bits = _checked(bits, n_examples)
    if other is not None:
        other = _checked(other, n_examples)
        if other.shape != bits.shape:
            raise ValueError(f"masks to compare must agree in shape, got {bits.shape} and {other.shape}")
    total = np.zeros((n_examples, n_examples), np.int64)
    backend = _backend(n_examples, len(bits))
    units = min(_MATMUL_UNITS, max(512, _BLOCK_BYTES // max(n_examples, 1)))
    for start in range(0, len(bits) if n_examples else 0, units):
        left = backend.prepare(*_examples_first(bits[start : start + units], n_examples))
        if other is None:
            _add_gram(total, left, backend.product)
        else:
            total += backend.product(
                left, backend.prepare(*_examples_first(other[start : start + units], n_examples))
            )
    return total if other is not None else np.triu(total) + np.triu(total, 1).T


def _add_gram(total: np.ndarray, operand: Any, product: Callable[[Any, Any], np.ndarray]) -> None:
    """Add the upper triangle of an operand's product with itself; what is below the blocks is left alone."""
    rows = max(64, -(-len(total) // 4))
    for start in range(0, len(total), rows):
        total[start : start + rows, start:] += product(operand[start : start + rows], operand[start:])


# ---- backends: packed rows (example, byte) of a block of units become operands, and two of those counts ----


class _Backend(NamedTuple):
    name: str
    prepare: Callable[[np.ndarray, int], Any]
    product: Callable[[Any, Any], np.ndarray]


def _as_floats(rows: np.ndarray, n_units: int) -> np.ndarray:
    return np.unpackbits(rows, axis=1, count=n_units).astype(np.float32)


def _float_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T).astype(np.int64)  # sums of at most 2**14 ones: exact in float32


def _as_words(rows: np.ndarray, n_units: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)


def _popcount_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.zeros((len(a), len(b)), np.int64)
    for start in range(0, a.shape[1], _POPCOUNT_WORDS):
        columns = b[:, start : start + _POPCOUNT_WORDS]
        for i, row in enumerate(a[:, start : start + _POPCOUNT_WORDS]):
            total[i] += np.bitwise_count(row & columns).sum(axis=1, dtype=np.uint16)
    return total


def _as_int8(rows: np.ndarray, n_units: int) -> Any:
    import torch

    return torch.from_numpy(np.unpackbits(rows, axis=1, count=n_units).view(np.int8))


def _int8_product(a: Any, b: Any) -> np.ndarray:
    import torch

    return torch._int_mm(a, b.t()).numpy()


_FLOAT = _Backend("float32", _as_floats, _float_product)
_POPCOUNT = _Backend("popcount", _as_words, _popcount_product)
_INT8 = _Backend("int8", _as_int8, _int8_product)


def _backend(n_examples: int, n_units: int) -> _Backend:
    if n_examples * n_examples * n_units < _WORTH_TIMING:
        return _POPCOUNT
    return _fastest("torch" in sys.modules, min(n_examples, 512))


@lru_cache(maxsize=32)
def _fastest(torch_loaded: bool, n_examples: int) -> _Backend:
    # Which product wins depends on the processor (AMX, VNNI, vector popcount), so it is timed once.
    # PyTorch takes seconds to import, so it is only a candidate where the program has loaded it anyway.
    trial = (np.arange(n_examples * 512, dtype=np.uint32) * np.uint32(2654435761) >> 24).astype(np.uint8)
    trial = trial.reshape(n_examples, 512)
    expected = _POPCOUNT.product(*[_POPCOUNT.prepare(trial, 4096)] * 2)
    times = {}
    for backend in (_POPCOUNT, _FLOAT, *([_INT8] if torch_loaded else [])):
        try:
            if np.array_equal(_timed(backend, trial)[1], expected):
                times[backend] = min(_timed(backend, trial)[0] for _ in range(3))
        except (RuntimeError, AttributeError):  # a build of PyTorch without this product
            continue
    return min(times, key=times.__getitem__)


def _timed(backend: _Backend, trial: np.ndarray) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    operand = backend.prepare(trial, 8 * trial.shape[1])
    result = backend.product(operand, operand)
    return time.perf_counter() - start, result


# ---- layout ----


def _checked(bits: Bits, n_examples: int) -> np.ndarray:
    bits = np.asarray(bits)
    expected = -(-n_examples // 8)
    if bits.dtype != np.uint8 or bits.ndim < 2 or bits.shape[-1] != expected:
        raise ValueError(
            f"bits of {n_examples} examples are uint8 (..., unit, {expected}), got {bits.dtype} {bits.shape}"
        )
    return bits


def _examples_first(bits: np.ndarray, n_examples: int) -> tuple[np.ndarray, int]:
    """Return packed rows (example, byte) of unit-major bits, and the number of units in a row."""
    return _transpose_bits(bits, len(bits), n_examples), len(bits)


def _transpose_bits(rows: np.ndarray, n_rows: int, n_columns: int) -> np.ndarray:
    """Transpose a bit matrix n_rows x n_columns packed along columns, as 8 x 8 tiles in 64-bit words."""
    tiles_down, tiles_across = -(-n_rows // 8), -(-n_columns // 8)
    if rows.shape[0] != tiles_down * 8:
        rows = np.pad(rows, ((0, tiles_down * 8 - rows.shape[0]), (0, 0)))
    tiles = rows.reshape(tiles_down, 8, tiles_across).transpose(2, 0, 1)
    words = np.ascontiguousarray(tiles).view(">u8").astype(np.uint64)[..., 0]
    for shift, keep in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        # Swap the off-diagonal halves of 2 x 2, then 4 x 4, then 8 x 8 blocks of bits.
        swap = (words ^ (words >> np.uint64(shift))) & np.uint64(keep)
        words ^= swap ^ (swap << np.uint64(shift))
    tile_bytes = words.astype(">u8")[..., None].view(np.uint8)  # (across, down, 8 columns of the tile)
    return np.ascontiguousarray(tile_bytes.transpose(0, 2, 1)).reshape(tiles_across * 8, tiles_down)[
        :n_columns
    ]
