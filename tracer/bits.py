"""Masks as packed bits: pack, unpack, and count how paths overlap without unpacking them.

A mask of shape (example, unit) is stored *unit-major*, as uint8 of shape (unit, byte) with ``byte =
ceil(examples / 8)``: byte b of unit u holds examples 8b ... 8b+7, the first in the highest bit, and the bits
after the last example are 0. Consecutive snapshots of one unit then lie close together, which is what
general-purpose compressors need. Whoever compares examples turns that once into *rows*, uint8 (example, byte)
with the units of one example side by side; two masks are intersected as ``rows & other_rows``.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from tracer.errors import ArgumentError

_BLOCK_BYTES = 4 << 20  # packed bytes turned into rows at a time
_CACHED = 1 << 19  # bytes worked on at a time, so that they stay in the second-level cache
_UNITS = 1 << 13  # units turned into rows at a time, for the same reason; a multiple of 8
_EACH_BIT = (128 >> np.arange(8)).astype(np.uint8)[:, None]
_POPCOUNT_WORDS = 512  # words of 64 units per block: operands stay in the caches, sums below 2**16

Bits = np.ndarray
Rows = np.ndarray


def pack(mask: np.ndarray) -> np.ndarray:
    """Pack a path of bools (example, unit) into bits, uint8 (unit, byte).

    >>> pack(np.array([[True, False], [True, True]]))
    array([[192],
           [ 64]], dtype=uint8)
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ArgumentError(f"a mask has axes (example, unit), got shape {mask.shape}")
    n_examples, n_units = mask.shape
    rows = mask.astype(bool, copy=False).view(np.uint8)
    packed = np.empty((n_units, -(-n_examples // 8)), np.uint8)
    step = max(1024, _CACHED // max(n_examples, 1))
    for start in range(0, n_units, step):
        columns = np.zeros((packed.shape[1], len(packed[start : start + step])), np.uint8)
        for first in range(8):  # one bit of every byte at a time, the highest first
            columns += columns
            taken = rows[first::8, start : start + step]
            columns[: len(taken)] |= taken
        packed[start : start + step] = columns.T
    # Bits after the last example: those rows were shifted in as zeros.
    return packed


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
    return sum(map(row_count, _blocks(bits, n_examples)), np.zeros(n_examples, np.int64))


def unit_count(bits: Bits) -> np.ndarray:
    """Examples for which each unit is on, int32 (unit,).

    >>> unit_count(np.array([[192], [64]], dtype=np.uint8))
    array([2, 1], dtype=int32)
    """
    total = np.zeros(len(bits), np.int32)
    for column in np.bitwise_count(_as_words(np.asarray(bits))).T:
        total += column
    return total


def overlap(bits: Bits, n_examples: int) -> np.ndarray:
    """Units on for both of two examples, int64 (example, example_2): a Gram matrix with diagonal ``count``.

    >>> overlap(np.array([[192], [64]], dtype=np.uint8), 2)
    array([[1, 1],
           [1, 2]])
    """
    return sum(map(row_overlap, _blocks(bits, n_examples)), np.zeros((n_examples, n_examples), np.int64))


# ---- rows: one example each ----


def rows_of(bits: Bits, n_examples: int) -> Rows:
    """The rows (example, byte of units) of a mask, for what compares examples.

    >>> rows_of(np.array([[192], [64]], dtype=np.uint8), 2)
    array([[128],
           [192]], dtype=uint8)
    """
    bits = _checked(bits, n_examples)
    n_bytes, width = bits.shape[1], -(-len(bits) // 8)
    rows = np.empty((n_bytes, 8, width), np.uint8)
    for start in range(0, len(bits), _UNITS):
        columns = np.ascontiguousarray(bits[start : start + _UNITS].T)
        # A byte with one bit left is packed as that bit: 1 where it is set.
        rows[:, :, start // 8 : (start + _UNITS) // 8] = np.packbits(columns[:, None] & _EACH_BIT, axis=-1)
    return rows.reshape(8 * n_bytes, width)[:n_examples]


def row_count(rows: Rows) -> np.ndarray:
    """Bits set in each row, int64 (example,)."""
    return np.bitwise_count(_as_words(rows)).sum(axis=1, dtype=np.int64)


def row_overlap(rows: Rows) -> np.ndarray:
    """Bits set in both of two rows, exact: int64 (example, example_2)."""
    if not rows.size:
        return np.zeros((len(rows), len(rows)), np.int64)
    total = _product()(rows)  # correct on and above the diagonal
    np.copyto(total, total.T, where=np.tri(len(total), k=-1, dtype=bool))
    return total


@cache
def _product() -> Callable[[Rows], np.ndarray]:
    # NumKong counts bits with the widest instructions the processor has, and needs no PyTorch.
    try:
        from numkong import dots_symmetric
    except ImportError:
        return _popcounts
    return lambda rows: np.asarray(dots_symmetric(np.ascontiguousarray(rows), dtype="uint1")).astype(np.int64)


def _popcounts(rows: Rows) -> np.ndarray:
    """The upper triangle of `row_overlap`, with NumPy alone."""
    words = _as_words(rows)
    total = np.zeros((len(rows), len(rows)), np.int64)
    for start in range(0, words.shape[1], _POPCOUNT_WORDS):
        block = words[:, start : start + _POPCOUNT_WORDS]
        for i, row in enumerate(block):
            total[i, i:] += np.bitwise_count(row & block[i:]).sum(axis=1, dtype=np.uint16)
    return total


# ---- layout ----


def _checked(bits: Bits, n_examples: int) -> np.ndarray:
    bits = np.asarray(bits)
    expected = -(-n_examples // 8)
    if bits.dtype != np.uint8 or bits.ndim < 2 or bits.shape[-1] != expected:
        raise ArgumentError(
            f"bits of {n_examples} examples are uint8 (..., unit, {expected}), got {bits.dtype} {bits.shape}"
        )
    return bits


def _blocks(bits: Bits, n_examples: int) -> Iterator[Rows]:
    """Rows of some units at a time, so that a large mask does not take its memory again."""
    bits = _checked(bits, n_examples)
    units = max(512, _BLOCK_BYTES // max(bits.shape[1], 1))
    for start in range(0, len(bits) if n_examples else 0, units):
        yield rows_of(bits[start : start + units], n_examples)


def _as_words(packed: np.ndarray) -> np.ndarray:
    """Packed bytes (row, byte) as uint64 (row, word)."""
    if packed.shape[1] % 8:
        packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(packed).view(np.uint64)
