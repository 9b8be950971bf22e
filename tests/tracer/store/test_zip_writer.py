"""A zip file is on the disk, all of it, before it may get its name."""

import os
from pathlib import Path

import pytest

from tests.damage import write_small
from tracer.store.zip_writer import write_zip


def test_all_of_it_has_reached_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path / "run.zarr", steps=2)
    synced, sync = list[tuple[int, int]](), os.fsync

    def note(fd: int) -> None:
        sync(fd)
        synced.append((os.fstat(fd).st_ino, os.fstat(fd).st_size))

    monkeypatch.setattr(os, "fsync", note)
    write_zip(tmp_path / "run.zarr", tmp_path / "run.zip")
    file = (tmp_path / "run.zip").stat()
    assert synced == [(file.st_ino, file.st_size)]
