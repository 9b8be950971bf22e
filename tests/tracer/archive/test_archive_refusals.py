"""What is no archive, or a damaged one, is refused in a sentence; nothing missing is ever shown as data."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

import tracer
from tests.attacks.hostile import change_root
from tests.damage import objects_of
from tests.synthetic import write_archive
from tracer import spec
from tracer.errors import ArchiveError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refusals") / "run.zarr"
    with objects_of(1):
        write_archive(path, steps=(0, 1))
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run.zarr"))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no archive at .*; check the path"):
        tracer.open(tmp_path / "none")
    with pytest.raises(ArchiveError, match="no archive at 'memory://none'; check the URL"):
        tracer.open("memory://none")


def test_other_things(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    zarr.create_group(tmp_path / "foreign")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "zarr.json").write_text("[")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "zarr.json").write_text("[]")
    for name, sentence in (
        ("empty", "a directory but not an archive"),
        ("text", "neither an archive directory nor a zip file"),
        ("foreign", "a Zarr group but not an archive of tracer"),
        ("bad", "its zarr.json is not the JSON of a group"),
        ("list", "its zarr.json is not the JSON of a group"),
    ):
        with pytest.raises(ArchiveError, match=sentence):
            tracer.open(tmp_path / name)


def test_unknown_protocol() -> None:
    with pytest.raises(ArchiveError, match="cannot read 'nosuch://x'"):
        tracer.open("nosuch://x")


def test_later_major_version_is_refused(path: Path) -> None:
    change_root(path, lambda root: root["attributes"]["tracer"].update(format_version="2.0"))
    with pytest.raises(ArchiveError, match=r"has format 2\.0, this release reads 1\.x"):
        tracer.open(path)


def test_later_minor_version_is_warned_of_and_read(path: Path) -> None:
    change_root(path, lambda root: root["attributes"]["tracer"].update(format_version="1.9", novelty=1))
    with pytest.warns(UserWarning, match=re.escape(f"format 1.9, newer than {spec.FORMAT_VERSION}:")):
        archive = tracer.open(path)
    assert archive.weights(1)["count"] == 1


def test_nonsense_version_is_refused(path: Path) -> None:
    change_root(path, lambda root: root["attributes"]["tracer"].update(format_version="one"))
    with pytest.raises(ArchiveError, match="'one' is not a format version"):
        tracer.open(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.pop("consolidated_metadata"),
        lambda root: root["attributes"]["tracer"].pop("rows"),
        lambda root: root["attributes"]["tracer"].pop("digest"),
        lambda root: root["consolidated_metadata"]["metadata"]["steps"].pop("node_type"),
    ],
)
def test_incomplete_root_is_refused(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_root(path, change)
    with pytest.raises(ArchiveError, match=r"is damaged: its zarr.json lacks"):
        tracer.open(path)


def test_a_lost_object_is_an_error_and_not_fill_values(path: Path) -> None:
    (path / "weights" / "float32" / "c.1.0").unlink()
    with tracer.open(path) as archive:
        archive.weights(0)
        with pytest.raises(ArchiveError, match=r"'weights/float32/c\.1\.0' is lost"):
            archive.weights(1)
        with pytest.raises(ArchiveError, match="is lost"):
            archive.to_xarray()["weights/float32"].values


def test_a_flipped_bit_is_an_error(path: Path) -> None:
    file = path / "probes" / "train" / "outputs" / "loss" / "c.1.0"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with tracer.open(path) as archive, pytest.raises(ArchiveError, match="'probes/train/outputs/loss' of"):
        archive.probes["train"].losses(1)


def test_a_truncated_file_is_an_error(path: Path) -> None:
    for name in ("steps/loss/c.0", "weights/float32/c.0.0"):
        file = path / name
        file.write_bytes(file.read_bytes()[:-7])
    with tracer.open(path) as archive:
        with pytest.raises(ArchiveError, match="cannot be read"):
            _ = archive.rows
        with pytest.raises(ArchiveError, match="cannot be read"):
            archive.weights(0)


def test_unknown_gradient_forms_are_refused(path: Path) -> None:
    def change(root: dict[str, Any]) -> None:
        group = root["consolidated_metadata"]["metadata"]["probes/train/gradients"]
        group["attributes"]["blocks"][0]["form"] = "novel"

    change_root(path, change)
    with tracer.open(path) as archive, pytest.raises(ArchiveError, match="unknown form 'novel'"):
        archive.probes["train"].gradients("fc1.weight", 0)
