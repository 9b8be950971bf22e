"""A power cut after any system call: with durability="power" all that was acknowledged is there, and whole."""

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.damage import SIZE, copied, go_on, weights, write_small
from tests.power import ALL, LAST, NONE, Disk, State, write_state
from tracer.errors import ArchiveError
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.share import pack, set_attributes
from tracer.store import files
from tracer.store.files import PARTIAL, Directory
from tracer.verify import verify
from tracer.writer import Writer, worker

Check = Callable[[Path, Any], None]
ROOT = "run.zarr/zarr.json"


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits happen where the test says, so that the same calls are made each time."""
    monkeypatch.setattr(worker, "_INTERVAL", 1e6)


@pytest.fixture(params=[5, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "all"])
def most(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("power") / "run.zarr"
    write_small(path)
    return path


def telling(disk: Disk) -> Iterator[tuple[int, int]]:
    """The states that tell whether all was synced in time.

    Where a commit came through and nothing else that was not synced, and what is certain when something has been
    acknowledged.
    """
    known = disk.crashes[0].acknowledged
    for number, crash in enumerate(disk.crashes):
        with_it, without = (crash.states[kind].get(ROOT) for kind in (LAST, NONE))
        if with_it != without and crash.after.startswith(("rename", "exchange")):
            yield number, LAST
        if crash.acknowledged != known:
            known = crash.acknowledged
            yield number, NONE


def cut(disk: Disk, scratch: Path, most: int, check: Check) -> int:
    """Check the telling states, and others that the disk may have been in up to `most`; returns how many there are."""
    states = {
        (crash.acknowledged, *((name, hash(data)) for name, data in sorted(state.items()))): (number, kind)
        for number, crash in enumerate(disk.crashes)
        for kind, state in enumerate(crash.states)
    }
    first = [*telling(disk)]
    rest = [state for state in states.values() if state not in first]
    others = random.Random(0).sample(rest, max(0, min(most - len(first), len(rest))))
    for number, kind in sorted([*first, *others]):
        crash, place = disk.crashes[number], scratch / f"{number}-{kind}"
        write_state(crash.states[kind], place)
        try:
            check(place / "run.zarr", crash.acknowledged)
        except BaseException as error:
            error.add_note(f"power cut after call {number} ({crash.after}), state {kind}")
            raise
        shutil.rmtree(place)
    return len(states)


def sound(path: Path) -> None:
    report = verify(path, full=True)
    assert report.ok, str(report)


def rows(path: Path, factor: float = 1.0, resumed: int = -1) -> int:
    """The last step, after comparing every row and snapshot; those after `resumed` have another factor."""
    sound(path)
    with tracer.open(path) as archive:
        n = len(archive.rows["step"])
        expected = [step * (factor if step > resumed else 1.0) for step in range(n)]
        assert archive.rows["loss"].tolist() == expected
        for row, step in enumerate(archive.steps("weights") if n else ()):
            values = weights(int(step), factor if step > resumed else 1.0)
            assert np.array_equal(archive._source.read("weights/float32", row), values)
    return n - 1


def record(base: Path, steps: int = 3) -> Disk:
    """The disk while an archive is recorded, with what was acknowledged at each time."""
    base.mkdir()
    disk = Disk(base)
    with disk.watching():
        writer = Writer(base / "run.zarr", attributes={}, durability="power")
        disk.acknowledged = -1
        writer.static("probes/p", {"id": np.arange(4)}, {"id": ("example",)}, {"split": "train"})
        writer.stream("weights", {"float32": ("float32", (SIZE,), ("float32_element",))})
        writer.stream("probes/p/outputs", {"loss": ("float32", (4,), ("outputs_example",))})
        for step in range(steps):
            go_on(writer, step, step + 1)
            writer.flush()
            disk.acknowledged = step
        writer.close()
        disk.acknowledged = "closed"
    return disk


def check_recorded(path: Path, acknowledged: Any) -> None:
    """All that was acknowledged is there, and whole."""
    if acknowledged is None and not (path / "zarr.json").exists():
        return
    last = rows(path)
    assert last >= (2 if acknowledged == "closed" else -1 if acknowledged is None else acknowledged)
    if acknowledged == "closed":
        assert tracer.open(path).state == "complete"


def test_recording(tmp_path: Path, most: int) -> None:
    assert cut(record(tmp_path / "disk"), tmp_path, most, check_recorded) > 100


def no_folders_before_the_root(patch: pytest.MonkeyPatch) -> None:
    sync = Directory._sync_folders
    in_the_middle = lambda self: (self.path / PARTIAL).exists()  # noqa: E731
    patch.setattr(Directory, "_sync_folders", lambda self: None if in_the_middle(self) else sync(self))


def no_folders_after_the_root(patch: pytest.MonkeyPatch) -> None:
    sync = Directory._sync_folders
    in_the_middle = lambda self: (self.path / PARTIAL).exists()  # noqa: E731
    patch.setattr(Directory, "_sync_folders", lambda self: sync(self) if in_the_middle(self) else None)


def no_folder_around_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "sync", lambda place: None)


def no_files(patch: pytest.MonkeyPatch) -> None:
    sync = os.fsync
    patch.setattr(os, "fsync", lambda fd: sync(fd) if stat.S_ISDIR(os.fstat(fd).st_mode) else None)


@pytest.mark.parametrize(
    "mutant", [no_folders_before_the_root, no_folders_after_the_root, no_folder_around_it, no_files]
)
def test_a_sync_that_is_left_out_is_told(
    mutant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sync of the protocol is needed: without it one of the states looked at by default is not as promised."""
    mutant(monkeypatch)
    disk = record(tmp_path / "disk", steps=2)
    with pytest.raises((AssertionError, ArchiveError, FileNotFoundError)):
        cut(disk, tmp_path, 0, check_recorded)


def test_taking_up_again_and_dropping_steps(small: Path, tmp_path: Path, most: int) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    copied(small, base / "run.zarr")
    disk = Disk(base)
    disk.acknowledged = ("old", 5)
    with disk.watching():
        writer = resume(base / "run.zarr", step=3, durability="power")
        disk.acknowledged = ("new", 3)
        go_on(writer, 4, 7, factor=2.0)
        writer.flush()
        disk.acknowledged = ("new", 6)
        writer.close()

    def check(path: Path, acknowledged: tuple[str, int]) -> None:
        with tracer.open(path) as archive:
            dropped = bool(archive.attributes["tracer"]["resumes"])
        assert dropped or acknowledged[0] == "old"
        assert rows(path, 2.0, 3 if dropped else 9) >= (acknowledged[1] if acknowledged[0] == "new" else 3)
        if not dropped:
            assert rows(path) == 5

    assert cut(disk, tmp_path, most, check) > 50


def test_packing_in_place(small: Path, tmp_path: Path, most: int) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    copied(small, base / "run.zarr")
    disk = Disk(base)
    with disk.watching():
        pack(base / "run.zarr")
        disk.acknowledged = "packed"

    def check(path: Path, acknowledged: Any) -> None:
        assert rows(path) == 5
        with tracer.open(path) as archive:
            assert acknowledged is None or "packed" in archive.card

    assert cut(disk, tmp_path, most, check) > 50


def test_repairing(small: Path, tmp_path: Path, most: int) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    path = copied(small, base / "run.zarr")
    victim = path / "weights" / "float32" / "c.1.0"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    disk = Disk(base)
    with disk.watching():
        repair(path)
        disk.acknowledged = "repaired"

    def check(path: Path, acknowledged: Any) -> None:
        if acknowledged is None:
            repair(path)
        assert rows(path) == 1

    assert cut(disk, tmp_path, most, check) > 20


def test_setting_attributes(small: Path, tmp_path: Path, most: int) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    copied(small, base / "run.zarr")
    disk = Disk(base)
    with disk.watching():
        set_attributes(base / "run.zarr", {"licence": "CC0-1.0"})
        disk.acknowledged = "set"

    def check(path: Path, acknowledged: Any) -> None:
        assert rows(path) == 5
        said = tracer.open(path).attributes.get("provenance", {})
        assert said in ({}, {"licence": "CC0-1.0"}) and (said or acknowledged is None)

    cut(disk, tmp_path, most, check)


def test_the_disk_itself_loses_what_was_not_synced(tmp_path: Path) -> None:
    disk = Disk(tmp_path)

    def last() -> list[State]:
        return disk.crashes[-1].states

    with disk.watching():
        fd = os.open(tmp_path / "a", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"12")
        assert last()[NONE] == {} and last()[ALL] == {"a": b""}
        os.fsync(fd)
        assert last()[ALL] == {"a": b"12"} and last()[NONE] == {}
        os.close(fd)
        folder = os.open(tmp_path, os.O_RDONLY)
        os.fsync(folder)
        assert last()[NONE] == {"a": b"12"}
        (tmp_path / "a").rename(tmp_path / "b")
        assert last()[NONE] == {"a": b"12"} and last()[ALL] == {"b": b"12"}
        os.fsync(folder)
        os.close(folder)
        assert last()[NONE] == {"b": b"12"}
        (tmp_path / "c").mkdir()
        (tmp_path / "b").rename(tmp_path / "c" / "d")
        assert last()[ALL] == {"c": None, "c/d": b"12"} and last()[LAST] == {}
        (tmp_path / "c" / "d").rename(tmp_path / "b")
        (tmp_path / "c").rmdir()
        (tmp_path / "b").unlink()
        assert last()[NONE] == {"b": b"12"} and last()[ALL] == {}
