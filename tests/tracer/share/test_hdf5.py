"""HDF5 and back: nothing is lost, xarray knows the dimensions, and a stranger's file is data only."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import tracer
from tests.synthetic import Truth, write_archive
from tracer.errors import ArchiveError
from tracer.share import confined, hdf5
from tracer.share.attributes import set_attributes
from tracer.share.content import ArchiveContent, difference
from tracer.share.hdf5 import export_hdf5, import_hdf5
from tracer.share.packs import pack
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Truth]:
    """An archive with awkward attributes, and its export."""
    folder = tmp_path_factory.mktemp("hdf5")
    truth = write_archive(folder / "run.zarr")
    odd = {
        "text": "ä\n",
        "zero": "a\0b",
        "number": 2.5,
        "whole": 3,
        "huge": 2**70,
        "yes": True,
        "nothing": None,
    }
    set_attributes(folder / "run.zarr", {**odd, "long": list(range(30_000)), "nested": {"a": [1, {}]}})
    return folder / "run.zarr", export_hdf5(folder / "run.zarr", folder / "run.h5"), truth


def test_round_trip_loses_nothing(
    made: tuple[Path, Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that may usually write smaller files than the objects are."""
    monkeypatch.setattr(confined, "FILE", 1 << 10)
    again = import_hdf5(made[1], tmp_path / "again.zarr")
    with tracer.open(made[0]) as one, tracer.open(again) as other:
        assert difference(ArchiveContent(one._source), ArchiveContent(other._source)) is None
        assert one.attributes["provenance"] == other.attributes["provenance"]
        assert one.tensors == other.tensors
        assert one.run_id == other.run_id
        for path, node in one._source.nodes.items():
            if node["node_type"] == "array" and path != "manifest/objects":
                assert one._source.read(path).tobytes() == other._source.read(path).tobytes()
    assert verify(again, full=True).findings == []
    assert max(file.stat().st_size for file in again.rglob("c.*")) > 1 << 10


@pytest.mark.slow  # a packed archive is read as any other
def test_packed_archive_and_no_compression(made: tuple[Path, Path, Truth], tmp_path: Path) -> None:
    packed = pack(made[0], tmp_path / "packed.zip", zip=True)
    again = import_hdf5(export_hdf5(packed, tmp_path / "run.h5", compression=None), tmp_path / "again.zarr")
    with tracer.open(made[0]) as one, tracer.open(again) as other:
        assert difference(ArchiveContent(one._source), ArchiveContent(other._source)) is None


def test_xarray_opens_it_with_the_dimensions_of_the_archive(made: tuple[Path, Path, Truth]) -> None:
    with xr.open_datatree(made[1], engine="h5netcdf") as tree:
        zarr = xr.open_datatree(made[0], engine="zarr")
        for node in zarr.subtree:
            if node.path.startswith("/manifest"):
                continue
            for name, variable in node.ds.variables.items():
                other = tree[node.path].ds.variables[name]
                assert (other.dims, other.dtype) == (variable.dims, variable.dtype), (node.path, name)
                assert np.array_equal(other.values, variable.values, equal_nan=variable.dtype.kind in "fM")
        expected = made[2].snapshots[4]["probes/test/outputs", "loss"]
        assert np.array_equal(tree["probes/test/outputs"].ds["loss"].sel(step=4), expected)


def test_datasets_have_chunks_checksums_and_scales(made: tuple[Path, Path, Truth]) -> None:
    with h5py.File(made[1]) as file:
        bits = file["probes/train/masks/bits"]
        assert (bits.shuffle, bits.fletcher32, bits.compression) == (True, True, "gzip")
        assert [dim.label for dim in bits.dims] == ["step", "unit", "masks_byte"]
        assert bits.dims[0][0] == file["probes/train/masks/step"]
        assert bits.attrs["units"] == "1"
        assert json.loads(file.attrs["sites"])[0]["name"] == "relu"
        assert "manifest" not in file


def test_no_array_is_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    writer.stream("weights", {"float32": ("float32", (300_000,), ("float32_element",))})
    for step in range(8):
        writer.append("weights", step, False, {"float32": np.full(300_000, step, np.float32)})
    writer.close()
    seen: list[int] = []
    read = ArchiveContent.read

    def watched(self, path, box):
        seen.append(read(self, path, box).nbytes)
        return read(self, path, box)

    monkeypatch.setattr(ArchiveContent, "read", watched)
    monkeypatch.setattr(hdf5, "difference", lambda one, other: None)
    export_hdf5(writer.path, tmp_path / "run.h5", compression=None)
    assert max(seen) <= 1 << 20
    assert sum(seen) >= 8 * 4 * 300_000


def test_existing_outputs_are_refused(made: tuple[Path, Path, Truth], tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for call, source in ((export_hdf5, made[0]), (import_hdf5, made[1])):
        with pytest.raises(ArchiveError, match="exists already"):
            call(source, tmp_path / "there")


def test_a_failed_export_leaves_nothing(
    made: tuple[Path, Path, Truth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "difference", lambda one, other: "the values of 'steps/loss'")
    with pytest.raises(ArchiveError, match="differs from the archive in the values of 'steps/loss'"):
        export_hdf5(made[0], tmp_path / "run.h5")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(ArchiveError, match="differs from the file in"):
        hdf5.write_archive(str(made[1]), str(tmp_path / "run.zarr"))


# ---- what a stranger may send ----


def refused(file: Path, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=sentence):
        import_hdf5(file, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "text.h5", "there is no file at .*; check the path", tmp_path)
    (tmp_path / "text.h5").write_text("no")
    refused(tmp_path / "text.h5", "cannot be read as HDF5", tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3)
    refused(tmp_path / "other.h5", "is no export of an archive", tmp_path)


# A process each: of what names another file one by default, and what runs code.
RARELY = ("external", "virtual", "name")


@pytest.mark.parametrize(
    "kind", ["link", "objects", *(pytest.param(kind, marks=pytest.mark.slow) for kind in RARELY)]
)
def test_nothing_outside_the_file_is_read(kind: str, made: tuple[Path, Path, Truth], tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(made[1].read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["steps"]
        if kind == "link":
            group["extra"] = h5py.ExternalLink(str(made[1]), "/steps/loss")
        elif kind == "external":
            group.create_dataset("extra", (4,), "u1", external=[(str(made[1]), 0, 4)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((9,), "f8")
            layout[:] = h5py.VirtualSource(str(made[1]), "steps/loss", (9,))
            group.create_virtual_dataset("extra", layout)
        elif kind == "objects":
            group.create_dataset("extra", (2,), h5py.string_dtype())
        else:
            group.create_dataset("a\\b", (2,), "f4")
    refused(
        path,
        "is a link or a name that no archive holds|none that an export of an archive holds|cannot be",
        tmp_path,
    )


def test_names_that_hdf5_keeps_for_itself_are_refused(tmp_path: Path) -> None:
    Writer(tmp_path / "run.zarr", attributes={"CLASS": "x"}).close()
    with pytest.raises(ArchiveError, match="attribute 'CLASS' of '/' has no place in HDF5"):
        export_hdf5(tmp_path / "run.zarr", tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()
