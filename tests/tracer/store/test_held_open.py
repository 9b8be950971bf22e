"""What an open archive holds on to: its place, its file, the members it unpacked."""

import gc
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

import tracer
from tests.damage import copied, weights, write_small
from tracer.errors import ArchiveError
from tracer.recovery.repair import repair
from tracer.share import pack
from tracer.store import zipped
from tracer.verify import verify


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held") / "run.zarr"
    write_small(path)
    return path


@pytest.fixture
def path(small: Path, tmp_path: Path) -> Path:
    return copied(small, tmp_path / "run.zarr")


def test_a_relative_path_is_that_of_the_folder_it_was_opened_in(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tracer.open("run.zarr") as archive:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert np.array_equal(archive._source.read("weights/float32", 1), weights(2))
        assert archive._source.store.files().sizes  # type: ignore[union-attr]


def test_an_archive_that_was_moved_is_said_to_be_gone(path: Path) -> None:
    with tracer.open(path) as archive:
        path.rename(path.with_name("moved.zarr"))
        with pytest.raises(ArchiveError, match="is gone since it was opened here"):
            archive._source.read("weights/float32", 1)


def test_a_zip_file_that_nobody_has_any_more_is_closed(path: Path) -> None:
    file = pack(path, path.with_name("run.zip"), zip=True)

    def held() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.path.lexists(link) and link.readlink() == file for link in links)

    archive = tracer.open(file)
    assert held() == 1
    del archive
    gc.collect()
    assert held() == 0
    archive = tracer.open(file)
    archive.close()
    archive.close()
    assert held() == 0
    with pytest.raises(ArchiveError, match="cannot be read"):
        archive._source.read("weights/float32", 1)


def test_a_compressed_member_is_unpacked_once_for_all_its_parts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked, unpack = [], zlib.decompressobj

    def counted(*options: int) -> object:
        unpacked.append(options)
        return unpack(*options)

    file = shutil.make_archive(str(path), "zip", path)
    monkeypatch.setattr(zipped.zlib, "decompressobj", counted)  # type: ignore[attr-defined]
    with tracer.open(file) as archive:
        store, key = archive._source.store, "weights/float32/c.1.0"
        whole, n = store.read(key), len(unpacked)
        assert b"".join(store.read(key, at, at + 4096) for at in range(0, len(whole), 4096)) == whole
        assert len(unpacked) == n
        monkeypatch.setattr(zipped, "_KEPT", 1)
        store.read("zarr.json")
        assert [entry[1] for entry in zipped._UNPACKED._kept] == ["zarr.json"]  # the last one, however large
    assert not zipped._UNPACKED._kept


def test_folders_deeper_than_the_system_takes_paths(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path / "steps")
    for _ in range(20):
        os.mkdir("a" * 250)  # noqa: PTH102
        monkeypatch.chdir("a" * 250)
    monkeypatch.undo()
    (finding,) = verify(path).findings
    assert "deeper than any of an archive" in str(finding)
    assert len(str(finding)) < 1500
    done = repair(path)
    assert done.step == 5
    assert verify(path, full=True).ok
