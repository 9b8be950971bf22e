"""Packing: the same arrays in fewer, smaller files; a part of an archive; one zip file; and back."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import tracer
from tests.synthetic import LAYERS, SITES, Truth, write_archive
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share import packs
from tracer.share.content import ArchiveContent, boxes, difference
from tracer.share.packs import pack, unpack
from tracer.store.files import Lock
from tracer.verify import verify
from tracer.writer import Writer, place

STEPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    path = tmp_path_factory.mktemp("pack") / "run.zarr"
    return path, write_archive(path, steps=STEPS)


# From a zip file as from a folder: both ways are read by one `pack` and one `unpack`.
TWICE = pytest.param("unpacked zip", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["packed", "zip", TWICE, "unpacked"])
def copy(
    request: pytest.FixtureRequest, original: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    made = pack(original[0], folder / "made", zip="zip" in request.param)
    return unpack(made, folder / "again") if "unpacked" in request.param else made


def test_every_array_is_the_same(copy: Path, original: tuple[Path, Truth]) -> None:
    one, other = Source(original[0]), Source(copy)
    assert difference(ArchiveContent(one), ArchiveContent(other)) is None
    for path, node in one.nodes.items():
        if node["node_type"] == "array" and path != "manifest/objects":
            assert one.read(path).tobytes() == other.read(path).tobytes()
            assert (
                zarr.open_array(other.as_zarr(), path=path, mode="r")[...].tobytes()
                == one.read(path).tobytes()
            )


def test_what_is_read_of_it_is_what_was_recorded(copy: Path, original: tuple[Path, Truth]) -> None:
    truth = original[1]
    with tracer.open(copy) as archive:
        for step in truth.steps:
            for name, values in truth.weights[step].items():
                assert np.array_equal(archive.weights(step)[name], values)
            for name, probe in archive.probes.items():
                bits = truth.snapshots[step][f"probes/{name}/masks", "bits"]
                assert np.array_equal(probe.bits(step), bits)
                found = probe.gradients("fc2.weight", step)
                np.testing.assert_allclose(found, truth.gradients[name, step]["fc2.weight"], rtol=1e-6)


def test_it_verifies_and_opens_in_plain_xarray(copy: Path, original: tuple[Path, Truth]) -> None:
    assert verify(copy, full=True).findings == []
    store = zarr.storage.ZipStore(copy, mode="r") if copy.is_file() else copy
    tree = xr.open_datatree(store, engine="zarr")
    expected = original[1].snapshots[4]["probes/test/outputs", "loss"]
    assert np.array_equal(tree["probes/test/outputs"].ds["loss"].sel(step=4), expected)


def test_packing_joins_files(original: tuple[Path, Truth], tmp_path: Path) -> None:
    packed = pack(original[0], tmp_path / "packed")
    with tracer.open(packed) as archive:
        n_arrays = sum(node["node_type"] == "array" for node in archive._source.nodes.values())
        assert len([file for file in packed.rglob("c*") if file.is_file()]) <= n_arrays
        assert archive.card["packed"]["left_out"] == {}
        with tracer.open(original[0]) as before:
            assert archive.card["packed"]["original"] == before.digest
            assert archive.run_id == before.run_id


def test_unpacking_gives_the_files_of_the_recorder(original: tuple[Path, Truth], tmp_path: Path) -> None:
    again = unpack(pack(original[0], tmp_path / "run.zip", zip=True))
    assert again == tmp_path / "run.zarr"
    files = [file.relative_to(original[0]) for file in original[0].rglob("c*") if file.is_file()]
    for file in files:
        if file.parts[0] != "manifest":  # the order of its rows is free
            assert (again / file).read_bytes() == (original[0] / file).read_bytes(), file
    with tracer.open(again) as archive:
        assert "packed" not in archive.card


def test_in_place(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    write_archive(path, steps=(0, 1), probes={"train": 8})
    before = Path(shutil.copytree(path, tmp_path / "before"))
    assert pack(path) == path
    assert sorted(tmp_path.iterdir()) == [before, path]
    with tracer.open(path) as archive:
        assert "packed" in archive.card
    assert unpack(path) == path
    with tracer.open(path) as again, tracer.open(before) as first:
        assert difference(ArchiveContent(first._source), ArchiveContent(again._source)) is None


def test_a_reader_from_before_is_told(tmp_path: Path) -> None:
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    with tracer.open(tmp_path / "run.zarr") as archive:
        archive._source.steps("weights")
        pack(tmp_path / "run.zarr")
        for _ in range(2):  # also once the new root was seen
            with pytest.raises(ArchiveError, match=r"changed since it was opened here .*; open it again"):
                archive._source.read("weights/float32", 1)


def test_zip_is_stored_sorted_and_reproducible(original: tuple[Path, Truth], tmp_path: Path) -> None:
    one = pack(original[0], tmp_path / "one.zip", zip=True)
    two = pack(original[0], tmp_path / "two.zip", zip=True)
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as file:
        names = file.namelist()
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
    assert names[0] == "zarr.json"
    assert names[1:] == sorted(set(names[1:]))


def test_a_zip_is_written_beside_the_archive(original: tuple[Path, Truth], tmp_path: Path) -> None:
    path = Path(shutil.copytree(original[0], tmp_path / "run.zarr"))
    assert pack(path, zip=True) == tmp_path / "run.zip"
    assert path.is_dir()


# ---- a part ----


def test_part_holds_what_was_asked_for(original: tuple[Path, Truth], tmp_path: Path) -> None:
    path, truth = original
    part = pack(
        path, tmp_path / "part", probes=["test"], sites=["tanh"], steps=slice(2, 20, 4), gradients=False
    )
    assert verify(part, full=True).findings == []
    with tracer.open(part) as archive, tracer.open(path) as whole:
        assert archive.snapshots.tolist() == [2, 6, 10, 14, 18]
        assert archive.steps("weights").tolist() == [2, 6, 10, 14, 18]
        assert np.array_equal(archive.rows["step"], whole.rows["step"])
        assert (list(archive.probes), archive.sites) == (["test"], ["tanh"])
        assert archive.gram_probes == [("test", 6)]
        assert np.array_equal(archive.gram(6), whole.gram(6)[:, 6:, 6:])
        probe, full = archive.probes["test"], whole.probes["test"]
        assert np.array_equal(probe.activations("tanh", 6), full.activations("tanh", 6))
        assert np.array_equal(probe.sums(6)[1], full.sums(6)[1][:, 1:])
        assert probe.bits(6).shape[0] == 0
        with pytest.raises(tracer.errors.MissingTraceError, match="record with gradients="):
            probe.gradients("fc1.weight", 6)
        left_out = archive.card["packed"]["left_out"]
        assert left_out == {
            "gradients": True,
            "probes": ["train"],
            "sites": ["relu"],
            "snapshots": len(truth.steps) - 5,
        }
    xr.open_datatree(part, engine="zarr").load()


def test_part_with_masks_keeps_their_units(original: tuple[Path, Truth], tmp_path: Path) -> None:
    part = pack(original[0], tmp_path / "part", sites=["relu"], steps=[0, 4])
    with tracer.open(part) as archive, tracer.open(original[0]) as whole:
        for step in (0, 4):
            mask = archive.probes["train"].masks("relu", step)
            assert np.array_equal(mask, whole.probes["train"].masks("relu", step))
        assert archive.layers == list(LAYERS)
        assert archive.site_table == [SITES[0]]


def test_part_of_a_part_says_all_that_is_missing(original: tuple[Path, Truth], tmp_path: Path) -> None:
    first = pack(original[0], tmp_path / "first", probes=["test"])
    second = unpack(pack(first, tmp_path / "second.zip", zip=True, gradients=False))
    with tracer.open(second) as archive:
        assert archive.card["packed"]["left_out"] == {"probes": ["train"], "gradients": True}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probes": ["tset"]}, "no probe 'tset' in .*; did you mean 'test'"),
        ({"sites": ["rely"]}, "no site 'rely' in .*; did you mean 'relu'"),
        ({"sites": "relu"}, "a list of names, not as the text 'relu'"),
        ({"steps": [33]}, "none of the 20 snapshots .* is at the steps asked for"),
        ({"steps": slice(None, None, -1)}, "positive stride, not -1"),
    ],
)
def test_a_part_that_cannot_be_is_refused(options, sentence, original, tmp_path):
    with pytest.raises(ArchiveError, match=sentence):
        pack(original[0], tmp_path / "part", **options)
    assert list(tmp_path.iterdir()) == []


# ---- refusals ----


def test_a_part_never_replaces_the_whole(original: tuple[Path, Truth]) -> None:
    with pytest.raises(ArchiveError, match="a part of an archive does not replace the whole"):
        pack(original[0], probes=["test"])


def test_an_existing_output_is_refused(original: tuple[Path, Truth], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for call in (pack, unpack):
        with pytest.raises(ArchiveError, match="exists already"):
            call(original[0], tmp_path / "there")


def test_an_archive_being_written_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    with pytest.raises(ArchiveError, match="another process is writing"):
        pack(writer.path, tmp_path / "out")
    writer.close()
    assert not (tmp_path / "out").exists()
    lock = Lock(tmp_path / "run.zarr")
    with pytest.raises(ArchiveError, match="writing"):
        pack(writer.path)
    lock.release()


def test_a_copy_that_differs_never_replaces_the_original(
    original: tuple[Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(original[0], tmp_path / "run.zarr"))
    before = (path / "zarr.json").read_bytes()
    monkeypatch.setattr(packs, "difference", lambda one, other: "the values of 'gram/gram'")
    with pytest.raises(ArchiveError, match="differs from the original in the values of 'gram/gram'"):
        pack(path)
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "zarr.json").read_bytes() == before


def test_exchange_without_the_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    monkeypatch.setattr(place.ctypes, "CDLL", lambda *_, **__: object())
    place.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()


def test_difference_sees_one_bit(original: tuple[Path, Truth], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (ArchiveContent(Source(original[0])) for _ in range(2))
    read = other.read

    def flipped(path, box):
        values = read(path, box)
        if path == "weights/float32" and box[0].start == 0:
            values = values.copy()
            values.view(np.uint8)[-1, -1] ^= 1
        return values

    monkeypatch.setattr(other, "read", flipped)
    assert difference(one, other) == "the values of 'weights/float32'"
    other.groups["gram"] = {}
    assert difference(one, other) == "the attributes of group 'gram'"


def test_boxes_cover_everything_once() -> None:
    for shape in ((), (7,), (3, 5, 11), (1, 1000), (0, 3)):
        seen = np.zeros(shape, int)
        for box in boxes(shape, 8, 64):
            seen[box] += 1
            assert seen[box].nbytes <= 64 or seen[box].size == 1
        assert (seen == 1).all()


def test_a_dot_in_a_name_is_part_of_it(tmp_path: Path) -> None:
    for name in ("lr0.1", "lr0.2"):
        Writer(tmp_path / name, attributes={}).close()
        assert pack(tmp_path / name, zip=True) == tmp_path / f"{name}.zip"
    assert unpack(tmp_path / "lr0.2.zip") == tmp_path / "lr0.2.zarr"
