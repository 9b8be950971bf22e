"""Objects written by hand read back through zarr-python, waste little, and damage is seen."""

import json
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.store.documents import ArrayNode, object_key
from tracer.store.layout import Layout, as_bytes, plan, plan_tail

DTYPES = ["bool", "uint8", "int16", "float16", "int64", "float64", "complex64"]


def save(folder: Path, layout: Layout, values: np.ndarray, rows: int | None = None) -> tuple[Path, int]:
    """Write one object as a whole array; returns its file and checksum."""
    dims = tuple(f"d{axis}" for axis in range(values.ndim))
    shape = values.shape if rows is None else (rows, *values.shape[1:])
    node = ArrayNode(layout.dtype, dims, layout.chunk_shape, layout.codecs, {}, shape)
    (folder / "zarr.json").write_text(node.text())
    file = folder / object_key("x", *[0] * values.ndim).partition("/")[2]
    with file.open("wb") as opened:
        nbytes, checksum = layout.write(opened.fileno(), as_bytes(values), rows)
    assert nbytes == file.stat().st_size
    return file, checksum


def load(folder: Path) -> np.ndarray:
    array = zarr.open_array(folder, mode="r")
    assert isinstance(array, zarr.Array)
    return np.asarray(array[...])


def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    raw = np.random.default_rng(0).integers(0, 100, shape)
    return (raw > 50) if dtype == "bool" else raw.astype(dtype)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(shape=st.lists(st.integers(1, 12), max_size=4), dtype=st.sampled_from(DTYPES))
def test_small_objects_are_plain_chunks(tmp_path: Path, shape: list[int], dtype: str) -> None:
    values = numbers(tuple(shape), dtype)
    file, checksum = save(tmp_path, plan(values.shape, values.dtype), values)
    assert file.stat().st_size == values.nbytes + 4
    assert checksum == google_crc32c.value(values.tobytes())
    assert np.array_equal(load(tmp_path), values)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 3_000_001), "uint8"),
        ((1, 5_000_011), "float32"),
        ((1, 7, 300_001), "float32"),
        pytest.param((1, 3, 5_000_003), "float16", marks=pytest.mark.slow),
        ((1, 33, 130, 130), "float64"),
        ((1, 2, 1, 1_100_000), "int64"),
    ],
)
def test_large_objects_are_shards_with_little_padding(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    values = numbers(shape, dtype)
    layout = plan(shape, values.dtype)
    file, _ = save(tmp_path, layout, values)
    assert layout.pieces
    inner = np.prod(layout.inner_shape) * values.itemsize
    assert 1 << 19 <= inner <= 1 << 23
    assert file.stat().st_size <= values.nbytes * 1.01 + 4096
    assert all(a % b == 0 for a, b in zip(layout.chunk_shape, layout.inner_shape, strict=True))
    assert np.array_equal(load(tmp_path), values)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=3), st.sampled_from(DTYPES))
def test_every_plan_is_a_valid_grid(shape: list[int], dtype: str) -> None:
    layout = plan((1, *shape), np.dtype(dtype))
    size = np.prod(shape) * np.dtype(dtype).itemsize
    assert all(a >= b for a, b in zip(layout.chunk_shape, (1, *shape), strict=True))
    if layout.pieces:
        inner = np.prod(layout.inner_shape) * np.dtype(dtype).itemsize
        assert inner <= 1 << 24  # whole rows can take it beyond the 8 MiB aimed at
        assert np.prod(layout.chunk_shape) * np.dtype(dtype).itemsize <= size * 1.1
    else:
        assert size <= 1 << 20


@pytest.mark.parametrize("rows", [1, 4, 5, 16])
def test_tails_cost_only_the_rows_they_hold(tmp_path: Path, rows: int) -> None:
    values = np.full((16, 3), np.nan)
    values[:rows] = np.arange(rows * 3).reshape(rows, 3)
    file, _ = save(tmp_path, plan_tail((16, 3), 4, values.dtype), values, rows)
    assert file.stat().st_size == -(-rows // 4) * (4 * 3 * 8 + 4) + 4 * 16 + 4
    assert np.array_equal(load(tmp_path), values[:rows])


@pytest.mark.parametrize("shape", [(), (0,), (1, 5, 7), (1, 3, 700_001), (1, 2, 2, 550_000)])
def test_objects_are_read_back_without_zarr(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = numbers(shape, "float32")
    layout = plan(shape, values.dtype)
    file, _ = save(tmp_path, layout, values)
    assert np.array_equal(read(layout, file), values)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="bytes instead of"):
        read(layout, file)


def read(layout: Layout, file: Path) -> np.ndarray:
    with file.open("rb") as opened:
        return layout.read(opened.fileno())


@pytest.mark.parametrize("size", [1000, 2_000_000])
@pytest.mark.parametrize("at", [0, 0.5, 0.99, -1, -10])
def test_one_flipped_bit_is_seen(tmp_path: Path, size: int, at: float) -> None:
    values = numbers((1, size), "uint8")
    layout = plan(values.shape, values.dtype)
    file, _ = save(tmp_path, layout, values)
    data = bytearray(file.read_bytes())
    data[int(at) if at < 0 else int(at * size)] ^= 4
    file.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        read(layout, file)
    with pytest.raises((ValueError, IndexError, KeyError)):
        load(tmp_path)


def test_index_of_a_shard_tells_where_its_chunks_are(tmp_path: Path) -> None:
    values = numbers((1, 3_000_000), "uint8")
    layout = plan(values.shape, values.dtype)
    file, checksum = save(tmp_path, layout, values)
    data = file.read_bytes()
    index = np.frombuffer(data[-4 - 16 * layout.pieces : -4], "<u8").reshape(-1, 2)
    sums = [data[offset + nbytes - 4 : offset + nbytes] for offset, nbytes in index.tolist()]
    assert checksum == google_crc32c.value(b"".join(sums))
    assert json.loads((tmp_path / "zarr.json").read_text())["codecs"] == layout.codecs
