"""Which archives there are in a directory: one bad thing hides no other, and what is none is not taken for one."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from tests.synthetic import write_archive
from tracer.archive import summary
from tracer.archive.listing import archives_and_links, archives_in
from tracer.errors import ArchiveError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("listing") / "run.zarr"
    write_archive(path, steps=(0, 1))
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run.zarr")
    return tmp_path


def listed(folder: Path) -> Any:
    result = CliRunner().invoke(cli.main, ["list", str(folder)])
    assert result.exit_code == 0, result.stderr
    return result


def misnamed(path: Path) -> None:
    """A zip file with a member whose name is said to be UTF-8, and is not."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("\u00e9.txt", "x")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))


def test_a_zip_file_whose_names_are_no_text_hides_nothing(folder: Path) -> None:
    misnamed(folder / "bad.zip")
    result = listed(folder)
    assert "run.zarr" in result.stdout
    assert "1 file or folder cannot be looked into (bad.zip: it is no whole zip file)" in result.stderr
    with pytest.raises(ArchiveError, match=r"bad\.zip' cannot be looked into: it is no whole zip file"):
        archives_in(folder / "bad.zip")


def test_a_folder_that_is_closed_to_us_hides_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "closed").mkdir()
    (folder / "unlisted").mkdir()
    is_file, scan = Path.is_file, os.scandir

    def closed(path: Path) -> bool:
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    def unlisted(path: Any) -> Any:
        if Path(path).name == "unlisted":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(os, "scandir", unlisted)
    found, passed = archives_and_links(folder)
    assert found == [str(folder / "run.zarr")]
    told = "(closed: Permission denied, unlisted: Permission denied)"
    assert passed == f"2 files or folders cannot be looked into {told}"


def test_an_archive_that_fails_in_a_way_nobody_foresaw_hides_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "run.zarr", folder / "odd.zarr")
    progress_of = summary.progress_of

    def fail(archive: Any) -> Any:
        if "odd" in archive.path:
            raise KeyError("loss")
        return progress_of(archive)

    monkeypatch.setattr(summary, "progress_of", fail)
    odd, run = listed(folder).stdout.splitlines()[1:]
    assert odd.split()[0].endswith("odd.zarr") and odd.endswith("KeyError: 'loss'")
    assert run.endswith("complete")


@pytest.mark.parametrize(
    "name",
    [
        "run.zarr.cut-1",
        "run.zarr.cut-12",
        "run.zarr.part",
        ".run.zarr.0a1b2c3d.part",
        ".run.zarr.0a1b2c3d.original",
    ],
)
def test_what_stands_beside_an_archive_is_none(folder: Path, name: str) -> None:
    shutil.copytree(folder / "run.zarr", folder / name)
    assert archives_and_links(folder) == ([str(folder / "run.zarr")], "")
