"""Packed masks against the obvious unpacked arithmetic."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracer import bits

masks = hnp.arrays(bool, st.tuples(st.integers(0, 40), st.integers(0, 90)))


@given(masks)
def test_pack_is_numpys_packing_along_examples(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    expected = (
        np.packbits(mask.T, axis=1) if mask.size else np.zeros((mask.shape[1], -(-len(mask) // 8)), "u1")
    )
    assert packed.dtype == np.uint8
    assert np.array_equal(packed, expected)


@given(masks)
def test_unpack_undoes_pack(mask: np.ndarray) -> None:
    assert np.array_equal(bits.unpack(bits.pack(mask), len(mask)), mask)


@given(masks)
def test_pad_bits_are_zero(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    assert np.bitwise_count(packed).sum() == mask.sum()


@given(masks)
def test_counts(mask: np.ndarray) -> None:
    packed = bits.pack(mask)
    assert np.array_equal(bits.count(packed, len(mask)), mask.sum(axis=1))
    assert np.array_equal(bits.unit_count(packed), mask.sum(axis=0))


@given(masks)
def test_common_and_overlap(mask: np.ndarray) -> None:
    n = len(mask)
    other = np.roll(mask, 1, axis=1) ^ (np.arange(mask.shape[1]) % 3 == 0)
    packed, packed_other = bits.pack(mask), bits.pack(other)
    assert np.array_equal(bits.common(packed, packed_other, n), (mask & other).sum(axis=1))
    assert np.array_equal(bits.overlap(packed, n), mask.astype(int) @ mask.T.astype(int))
    assert np.array_equal(bits.overlap(packed, n, packed_other), mask.astype(int) @ other.T.astype(int))


def backends() -> list[bits._Backend]:
    return [bits._FLOAT, bits._POPCOUNT, bits._INT8]


@pytest.mark.parametrize("backend", backends(), ids=lambda backend: backend.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (100, 1000), (130, 517), (300, 20_000)])
def test_every_backend_is_exact(
    backend: bits._Backend, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bits, "_backend", lambda n_examples, n_units: backend)
    rng = np.random.default_rng(0)
    mask, other = rng.random(shape) < 0.4, rng.random(shape) < 0.7
    packed, packed_other = bits.pack(mask), bits.pack(other)
    as_float = mask.astype("f8")
    assert np.array_equal(bits.overlap(packed, shape[0]), as_float @ as_float.T)
    assert np.array_equal(bits.overlap(packed, shape[0], packed_other), as_float @ other.T.astype("f8"))


def test_sums_beyond_one_block_are_exact() -> None:
    packed = bits.pack(np.ones((9, 3 * bits._MATMUL_UNITS + 5), bool))
    assert (bits.overlap(packed, 9) == 3 * bits._MATMUL_UNITS + 5).all()
    assert (bits.count(packed, 9) == 3 * bits._MATMUL_UNITS + 5).all()


def test_fastest_backend_is_chosen_among_exact_ones() -> None:
    assert bits._fastest(False, 64) in (bits._FLOAT, bits._POPCOUNT)


@pytest.mark.parametrize("measure", [bits.count, bits.overlap])
def test_blocks_bound_memory(measure: Callable[[np.ndarray, int], np.ndarray]) -> None:
    packed = np.zeros((1 << 18, 16), np.uint8)  # 32 MiB unpacked
    measure(packed[:8], 128)
    tracemalloc.start()
    try:
        measure(packed, 128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < peak <= 2 * bits._BLOCK_BYTES


@settings(max_examples=20)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 9))))
def test_unpack_keeps_leading_axes(mask: np.ndarray) -> None:
    packed = np.stack([bits.pack(snapshot) for snapshot in mask])
    assert np.array_equal(bits.unpack(packed, mask.shape[1]), mask)


def test_wrong_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"17 examples are uint8 \(\.\.\., unit, 3\)"):
        bits.count(np.zeros((4, 2), np.uint8), 17)
    with pytest.raises(ValueError, match="agree in shape"):
        bits.common(np.zeros((4, 1), np.uint8), np.zeros((5, 1), np.uint8), 8)
    with pytest.raises(ValueError, match="agree in shape"):
        bits.overlap(np.zeros((4, 1), np.uint8), 8, np.zeros((5, 1), np.uint8))
    with pytest.raises(ValueError, match="example, unit"):
        bits.pack(np.zeros(3, bool))
