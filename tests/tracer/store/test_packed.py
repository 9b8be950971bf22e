"""Reading chunks and shards directly: the numbers zarr gives, each inner chunk fetched and decoded once."""

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracer
from tests.synthetic import write_archive
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.packs import pack
from tracer.store.encodings import SNAPSHOTS
from tracer.store.layout import ArrayLayout
from tracer.store.reader import Chunks, box_of, decode

BITS = "probes/train/masks/bits"
STEPS = tuple(range(40))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    write_archive(folder / "run.zarr", steps=STEPS)
    return pack(folder / "run.zarr", folder / "packed.zarr")


@pytest.fixture(scope="module", params=["directory", pytest.param("zip", marks=pytest.mark.slow), "url"])
def source(request: pytest.FixtureRequest, path: Path) -> Source:
    if request.param == "directory":
        return Source(path)
    if request.param == "zip":
        return Source(pack(path, path.with_name("packed.zip"), zip=True))
    memory = fsspec.filesystem("memory")
    for file in path.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/packed/run.zarr/{file.relative_to(path)}", file.read_bytes())
    return Source("memory://packed/run.zarr")


ARRAYS = (BITS, "gram/gram", "steps/loss", "steps/ids", "network/constant_0_0", "probes/test/id")


@settings(max_examples=20, deadline=None)
@given(data=st.data(), name=st.sampled_from(ARRAYS))
def test_any_selection_is_what_zarr_gives(source: Source, data: st.DataObject, name: str) -> None:
    shape = source.shape(name)
    parts: list[Any] = []
    for size in shape[: data.draw(st.integers(0, len(shape)))]:
        edge = st.none() | st.integers(-size - 2, size + 2)
        parts.append(data.draw(st.integers(-size, size - 1) | st.builds(slice, edge, edge)))
    found = source._chunks.read(source.layout(name), tuple(parts))
    expected = np.asarray(source._array(name)[...])[tuple(parts)]
    assert found is not None
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")


def test_reading_snapshots_one_after_another_fetches_each_object_once(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, asked = Chunks(source.store), list[Any]()
    fetch = chunks._fetch
    monkeypatch.setattr(chunks, "_fetch", lambda *part: asked.append(part) or fetch(*part))
    for row in range(len(STEPS)):
        chunks.read(source.layout(BITS), (row,))
    assert len(asked) == 1  # it is small enough to be fetched whole
    monkeypatch.setattr("tracer.store.reader._SMALL", 0)
    chunks, asked = Chunks(source.store), []
    monkeypatch.setattr(chunks, "_fetch", lambda *part: asked.append(part) or fetch(*part))
    for row in range(len(STEPS)):
        chunks.read(source.layout(BITS), (row,))
    assert len(asked) == 1 + -(-len(STEPS) // SNAPSHOTS)  # the index, then one run of bytes for so many


def test_memory_of_decoded_chunks_is_bounded(path: Path) -> None:
    source = Source(path)
    chunks = Chunks(source.store, limit=3000)
    for name in ("gram/gram", BITS, "weights/float32"):
        for row in range(len(STEPS)):
            whole = chunks.read(source.layout(name), (row,))
            assert np.array_equal(whole, source._array(name)[row])
    assert sum(values.nbytes for values in chunks._kept.values()) == chunks._size
    assert chunks._size <= 3000 or len(chunks._kept) == 1


@pytest.mark.parametrize(
    "selection", [[0, 1], np.array([True]), (slice(0, 4, 2),), (None,), (0, 0, 0, 0), 99]
)
def test_other_selections_are_left_to_zarr(selection: Any) -> None:
    assert box_of(selection, (4, 3, 5)) is None


def test_forms_it_does_not_know_are_left_to_zarr(path: Path) -> None:
    node = Source(path).node("steps/loss")
    sharding = node["codecs"][0]
    inner = sharding["configuration"]
    big = [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}]
    for change in (
        {"data_type": "string"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
        {"codecs": [{**sharding, "configuration": {**inner, "codecs": big}}]},
        {"codecs": [{**sharding, "configuration": {**inner, "index_codecs": big}}]},
        {
            "codecs": [
                {**sharding, "configuration": {**inner, "codecs": [*inner["codecs"], {"name": "gzip"}]}}
            ]
        },
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}},
    ):
        assert not ArrayLayout.of("steps/loss", {**node, **change}).is_native
    assert ArrayLayout.of("steps/loss", node).is_native


def damaged(path: Path, target: Path, name: str, at: int) -> Path:
    copy = Path(shutil.copytree(path, target))
    file = next((copy / name).glob("c*"))
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    return copy


@pytest.mark.parametrize("at", [0, 40, -30, -2])
def test_one_flipped_bit_is_noticed(path: Path, tmp_path: Path, at: int) -> None:
    with (
        tracer.open(damaged(path, tmp_path / "run.zarr", BITS, at)) as archive,
        pytest.raises(ArchiveError, match=r"cannot be read .*(checksum|index)"),
    ):
        for step in archive.steps("masks"):
            archive.probes["train"].bits(step)


def test_a_lost_object_is_no_fill(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "run.zarr"))
    next((copy / BITS).glob("c*")).unlink()
    with tracer.open(copy) as archive, pytest.raises(ArchiveError, match="is lost from the archive"):
        archive.probes["train"].bits(0)


@pytest.mark.parametrize("name", ["zstd", "blosc"])
def test_what_says_it_holds_more_than_a_chunk_is_not_unpacked(name: str) -> None:
    import google_crc32c
    from numcodecs import blosc, zstd

    large = np.zeros(1 << 20, np.uint8)
    data = zstd.compress(large, 1) if name == "zstd" else blosc.compress(large, b"zstd", 1, 0)
    layout = ArrayLayout("a", (8,), (8,), None, np.dtype("u1"), compressors=(name,))
    piece = np.frombuffer(data + google_crc32c.value(data).to_bytes(4, "little"), np.uint8)
    with pytest.raises(ValueError, match="holds 1048576 bytes instead of 8"):
        decode(layout, piece)
    cut = np.frombuffer(data[:3] + google_crc32c.value(data[:3]).to_bytes(4, "little"), np.uint8)
    with pytest.raises(ValueError, match="holds None bytes"):
        decode(layout, cut)
