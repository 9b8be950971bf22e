"""How packed objects are cut and encoded: zarr reads them, a sample decides, sizes stay in bounds."""

from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.store.documents import ArrayNode, object_key
from tracer.store.encodings import SNAPSHOTS, Form, packed
from tracer.store.files import Directory

MASKS = "probes/train/masks/bits"


def write(folder: Path, form: Form, values: np.ndarray) -> zarr.Array:
    directory = Directory(folder)
    node = ArrayNode(
        form.dtype, tuple(f"d{i}" for i in range(values.ndim)), form.chunk, form.codecs, {}, form.shape
    )
    for numbers in form.objects():
        directory.publish(
            object_key("a", *numbers), lambda fd, at=numbers: form.write(fd, at, values.__getitem__)
        )
    directory.publish_text("a/zarr.json", node.text())
    array = zarr.open_array(folder / "a", mode="r")
    assert isinstance(array, zarr.Array)
    return array


def flipping(rate: float, shape: tuple[int, int, int] = (40, 300, 16)) -> np.ndarray:
    """Masks of which each bit changes with some probability from one snapshot to the next."""
    rng = np.random.default_rng(0)
    n, units, width = shape
    bits = np.empty((n, units, 8 * width), bool)
    bits[0] = rng.random(bits.shape[1:]) < rng.random((units, 1)) ** 2
    for step in range(1, n):
        bits[step] = bits[step - 1] ^ (rng.random(bits.shape[1:]) < rate)
    return np.packbits(bits, axis=-1)


@pytest.mark.parametrize(
    ("rate", "compressor", "most"), [(0.005, "zstd", 0.2), (0.08, "bitshuffle", 0.6), (0.0, "zstd", 0.08)]
)
def test_masks_are_encoded_the_better_way(rate: float, compressor: str, most: float, tmp_path: Path) -> None:
    values = flipping(rate)
    form = packed(MASKS, values.shape, values.dtype, values.__getitem__)
    assert (form.compressor, form.inner) == (compressor, (40, 300, 16))
    assert np.array_equal(write(tmp_path, form, values)[...], values)
    stored = sum(file.stat().st_size for file in (tmp_path / "a").glob("c.*"))
    assert stored <= most * values.nbytes


@pytest.mark.parametrize(
    "rate", [0.03, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.01, 0.08))]
)
def test_masks_are_near_the_entropy_given_the_snapshot_before(rate: float, tmp_path: Path) -> None:
    values = flipping(rate, (65, 80, 16))
    write(tmp_path, packed(MASKS, values.shape, values.dtype, values.__getitem__), values)
    stored = sum(file.stat().st_size for file in (tmp_path / "a").glob("c.*")) / values.nbytes
    entropy = -rate * np.log2(rate) - (1 - rate) * np.log2(1 - rate)
    assert stored <= 2.5 * entropy


@pytest.mark.parametrize(("n", "joined"), [(1, 8), (8, 8), (22, 24), (64, 64), (65, 40), (200, 56)])
def test_as_many_snapshots_are_joined_as_make_whole_bytes(n: int, joined: int, tmp_path: Path) -> None:
    values = flipping(0.01, (n, 20, 4))
    form = packed(MASKS, values.shape, values.dtype, values.__getitem__)
    assert form.inner is not None and form.inner[0] == joined <= SNAPSHOTS
    assert np.array_equal(write(tmp_path, form, values)[...], values)


def test_noise_stays_raw_and_zeros_are_compressed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 1 << 32, (6, 10_000), "<u4")
    assert packed("a/values", noise.shape, noise.dtype, noise.__getitem__).compressor is None
    noise[:, ::2] = 0
    form = packed("a/values", noise.shape, noise.dtype, noise.__getitem__)
    assert form.compressor == "shuffle"
    assert np.array_equal(write(tmp_path, form, noise)[...], noise)


@settings(max_examples=15, deadline=None)
@given(
    st.builds(lambda n, rest: [n, *rest], st.integers(1, 70), st.lists(st.integers(1, 20), max_size=3)),
    st.sampled_from(["u1", "<f4", "<f8", "<i8", "?", "<c8", "<f2"]),
    st.booleans(),
)
def test_zarr_reads_what_is_written(shape: list[int], dtype: str, masks: bool) -> None:
    import tempfile

    rng = np.random.default_rng(len(shape))
    values = rng.integers(0, 3, shape).astype(dtype)
    path = MASKS if masks and dtype == "u1" and len(shape) == 3 else "a/values"
    form = packed(path, values.shape, values.dtype, values.__getitem__)
    with tempfile.TemporaryDirectory() as folder:
        assert np.array_equal(write(Path(folder), form, values)[...], values)


@pytest.mark.parametrize("shape", [(), (0, 3), (4, 0)])
def test_nothing_and_scalars(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.full(shape, 2.5)
    form = packed("a/values", shape, values.dtype, values.__getitem__)
    assert np.array_equal(write(tmp_path, form, values)[...], values)


@pytest.mark.parametrize(
    ("path", "shape", "itemsize"),
    [
        (MASKS, (500, 65536, 64), 1),
        (MASKS, (1000, 4_000_000, 64), 1),
        ("a/values", (200, 128 * 1_179_648), 4),
        ("a/values", (10_000_000,), 8),
        ("a/values", (1000, 12, 256, 256), 8),
    ],
)
def test_large_arrays_are_cut_within_bounds(path: str, shape: tuple[int, ...], itemsize: int) -> None:
    dtype = np.dtype({1: "u1", 4: "f4", 8: "f8"}[itemsize])

    def read(box: tuple[slice, ...]) -> Any:
        return np.zeros([part.stop - part.start for part in box], dtype)

    form = packed(path, shape, dtype, read)
    assert form.inner is not None
    inner, whole = (prod(size) * itemsize for size in (form.inner, form.chunk))
    beside = prod(ceil(n / step) for n, step in zip(form.chunk, form.inner, strict=True))
    assert (1 << 15) <= inner <= (1 << 23)
    assert whole <= (1 << 28) + (1 << 23) or form.chunk[0] == form.inner[0]
    assert beside <= 4096 or form.chunk[0] == form.inner[0]
    assert form.chunk[1:] >= shape[1:]
