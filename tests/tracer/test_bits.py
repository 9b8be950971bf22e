"""Packed masks against the obvious unpacked arithmetic."""

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracer import bits

masks = hnp.arrays(bool, st.tuples(st.integers(0, 40), st.integers(0, 90)))
few = settings(max_examples=30)


@few
@given(masks)
def test_pack_is_numpys_packing_along_examples(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    expected = (
        np.packbits(mask.T, axis=1) if mask.size else np.zeros((mask.shape[1], -(-len(mask) // 8)), "u1")
    )
    assert packed.dtype == np.uint8
    assert np.array_equal(packed, expected)


@few
@given(masks)
def test_unpack_undoes_pack(mask: np.ndarray) -> None:
    assert np.array_equal(bits.unpack(bits.pack(mask), len(mask)), mask)


@few
@given(masks)
def test_pad_bits_are_zero(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    assert np.bitwise_count(packed).sum() == mask.sum()


@few
@given(masks)
def test_counts(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    assert np.array_equal(bits.count(packed, len(mask)), mask.sum(axis=1))
    assert np.array_equal(bits.unit_count(packed), mask.sum(axis=0))


@few
@given(masks)
def test_rows_hold_the_units_of_one_example_side_by_side(mask: np.ndarray) -> None:
    rows = bits.rows_of(bits.pack(mask), len(mask))
    assert np.array_equal(rows, np.packbits(mask, axis=1))
    assert np.array_equal(bits.row_count(rows), mask.sum(axis=1))


@few
@given(masks)
def test_overlap(mask: np.ndarray) -> None:
    other = np.roll(mask, 1, axis=1) ^ (np.arange(mask.shape[1]) % 3 == 0)
    rows, rows_other = (bits.rows_of(bits.pack(one), len(one)) for one in (mask, other))
    both = (mask & other).astype(int)
    assert np.array_equal(bits.overlap(bits.pack(mask), len(mask)), mask.astype(int) @ mask.T.astype(int))
    assert np.array_equal(bits.row_overlap(rows & rows_other), both @ both.T)


@pytest.mark.parametrize("product", [bits._popcounts, bits._product()], ids=["numpy", "fastest"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (100, 1000), (130, 517), (100, 90_000)])
def test_every_product_is_exact(
    product: Callable[[bits.Rows], np.ndarray], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bits, "_product", lambda: product)
    mask = np.random.default_rng(0).random(shape) < 0.4
    as_float = mask.astype("f8")
    found = bits.overlap(bits.pack(mask), shape[0])
    assert found.dtype == np.int64
    assert np.array_equal(found, as_float @ as_float.T)


def test_without_numkong_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numkong", None)
    assert bits._product.__wrapped__() is bits._popcounts


def test_sums_beyond_one_block_are_exact() -> None:
    units = 3 * bits._BLOCK_BYTES // 2 + 5
    packed = bits.pack(np.ones((9, units), bool))
    assert (bits.overlap(packed, 9) == units).all()
    assert (bits.count(packed, 9) == units).all()


@pytest.mark.parametrize("measure", [bits.count, bits.overlap])
def test_blocks_bound_memory(measure: Callable[[np.ndarray, int], np.ndarray]) -> None:
    packed = np.zeros((1 << 20, 16), np.uint8)  # 128 MiB unpacked
    measure(packed[:8], 128)
    tracemalloc.start()
    try:
        measure(packed, 128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < peak <= 3 * bits._BLOCK_BYTES


@settings(max_examples=20)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 9))))
def test_unpack_keeps_leading_axes(mask: np.ndarray) -> None:
    packed = np.stack([bits.pack(snapshot) for snapshot in mask])
    assert np.array_equal(bits.unpack(packed, mask.shape[1]), mask)


def test_wrong_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"17 examples are uint8 \(\.\.\., unit, 3\)"):
        bits.count(np.zeros((4, 2), np.uint8), 17)
    with pytest.raises(ValueError, match="example, unit"):
        bits.pack(np.zeros(3, bool))
