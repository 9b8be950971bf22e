"""Attributes set after the recording: one more commit, everything else untouched."""

import json
from pathlib import Path

import pytest
import xarray as xr

import tracer
from tests.synthetic import write_archive
from tracer.errors import ArchiveError
from tracer.share.attributes import set_attributes
from tracer.share.packs import pack
from tracer.store.files import Lock
from tracer.verify import verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_archive(tmp_path / "run.zarr", steps=(0, 1), probes={"train": 6})
    return tmp_path / "run.zarr"


def test_attributes_are_set_merged_and_removed(path: Path) -> None:
    with tracer.open(path) as before:
        commit, digest = before.attributes["tracer"]["commit"], before.digest
    assert set_attributes(path, {"licence": "CC0-1.0", "notes": ["a"]}) == {
        "licence": "CC0-1.0",
        "notes": ["a"],
    }
    assert set_attributes(path, {"doi": 1, "notes": None, "title": "new"}) == {"licence": "CC0-1.0", "doi": 1}
    with tracer.open(path) as after:
        assert after.attributes["provenance"] == {"licence": "CC0-1.0", "doi": 1}
        assert after.attributes["title"] == "new"
        assert after.attributes["tracer"]["commit"] == commit + 2
        assert after.digest != digest
        assert after.weights(1)["fc1.bias"].shape == (8,)
    assert verify(path, full=True).findings == []
    assert xr.open_datatree(path, engine="zarr").attrs["provenance"] == {"licence": "CC0-1.0", "doi": 1}


def test_nothing_but_the_root_document_changes(path: Path) -> None:
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    document = json.loads((path / "zarr.json").read_text())
    set_attributes(path, {"licence": "MIT"})
    assert {file for file in files if file.read_bytes() != files[file]} == {path / "zarr.json"}
    assert {file for file in path.rglob("*") if file.is_file()} == files.keys()
    changed = json.loads((path / "zarr.json").read_text())
    assert changed["consolidated_metadata"] == document["consolidated_metadata"]


def test_what_is_being_written_or_no_directory_is_refused(path: Path, tmp_path: Path) -> None:
    lock = Lock(path)
    with pytest.raises(ArchiveError, match="writing"):
        set_attributes(path, {"licence": "MIT"})
    lock.release()
    with pytest.raises(ArchiveError, match="is no directory: unpack or pull it"):
        set_attributes(pack(path, zip=True), {"licence": "MIT"})
