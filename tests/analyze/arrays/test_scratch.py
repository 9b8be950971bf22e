"""Bands on disk: made once, unless there is no room for them, and gone with what reads them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from analyze.arrays.scratch import OnDisk, folder

ROWS = [slice(0, 3), slice(3, 5)]


class Table:
    """Bands that say how often they were made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, step: int, rows: slice) -> np.ndarray:
        self.made += 1
        return np.arange(10.0).reshape(1, 5, 2)[:, rows] + step


def check(read: OnDisk, steps: int = 2) -> None:
    for step in range(steps):
        for rows in ROWS:
            assert read(step, rows).tolist() == Table()(step, rows).tolist()


def test_what_was_made_is_read() -> None:
    table = Table()
    read = OnDisk(table)
    for _ in range(3):
        check(read)
    assert table.made == 4


def test_of_values_that_were_changed_those_that_were_made_are_kept() -> None:
    read = OnDisk(Table())
    read(0, ROWS[0])[:] = -1
    check(read, 1)


@pytest.mark.parametrize("full", ["told", "not told", "nowhere"])
def test_a_full_disk_costs_time_alone(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    if full == "told":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=40960))
        read = OnDisk(table)
    elif full == "nowhere":
        monkeypatch.setattr("analyze.arrays.scratch.folder", lambda: "/nowhere")
        read = OnDisk(table)
    else:
        read = OnDisk(table)
        read.file.close()
        read.file = Path("/dev/full").open("w+b", buffering=0)  # noqa: SIM115
    for _ in range(2):
        check(read)
    if read.file is not None:
        read.file.close()
    assert table.made == 8


def test_the_file_has_no_name_and_goes_with_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert folder() == str(tmp_path)
    read = OnDisk(Table())
    check(read)
    assert not list(tmp_path.iterdir())
    assert not read.file.closed
    file = read.file
    del read
    assert file.closed
