"""A power cut after any system call: with durability="power" all that was acknowledged is there, and whole."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.damage import copied, go_on, weights, write_small
from tests.power import Disk, State, write_state
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.share import pack, set_attributes
from tracer.verify import verify
from tracer.writer import Writer, worker

Check = Callable[[Path, Any], None]


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits happen where the test says, so that the same calls are made each time."""
    monkeypatch.setattr(worker, "_INTERVAL", 1e6)


@pytest.fixture(params=[12, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "all"])
def most(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("power") / "run.zarr"
    write_small(path)
    return path


def cut(disk: Disk, scratch: Path, most: int, check: Check) -> int:
    """Check the different states that the disk may have been in, or some of them; returns how many there are."""
    found = {
        (crash.acknowledged, *((name, hash(data)) for name, data in sorted(state.items()))): (number, kind)
        for number, crash in enumerate(disk.crashes)
        for kind, state in enumerate(crash.states)
    }
    chosen = list(found.values())
    for number, kind in sorted(random.Random(0).sample(chosen, min(most, len(chosen)))):
        crash, place = disk.crashes[number], scratch / f"{number}-{kind}"
        write_state(crash.states[kind], place)
        try:
            check(place / "run.zarr", crash.acknowledged)
        except BaseException as error:
            error.add_note(f"power cut after call {number} ({crash.after}), state {kind}")
            raise
        shutil.rmtree(place)
    return len(found)


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


def test_recording(tmp_path: Path, most: int) -> None:
    base = tmp_path / "disk"
    base.mkdir()
    disk = Disk(base)
    with disk.watching():
        writer = Writer(base / "run.zarr", attributes={}, durability="power")
        disk.acknowledged = -1
        writer.static("probes/p", {"id": np.arange(4)}, {"id": ("example",)}, {"split": "train"})
        writer.stream("weights", {"float32": ("float32", (300_000,), ("float32_element",))})
        writer.stream("probes/p/outputs", {"loss": ("float32", (4,), ("outputs_example",))})
        for step in range(3):
            go_on(writer, step, step + 1)
            writer.flush()
            disk.acknowledged = step
        writer.close()
        disk.acknowledged = "closed"

    def check(path: Path, acknowledged: Any) -> None:
        if acknowledged is None and not (path / "zarr.json").exists():
            return
        last = rows(path)
        assert last >= (2 if acknowledged == "closed" else -1 if acknowledged is None else acknowledged)
        if acknowledged == "closed":
            assert tracer.open(path).state == "complete"

    assert cut(disk, tmp_path, most, check) > 100


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
        assert last()[0] == {} and last()[1] == {"a": b""}
        os.fsync(fd)
        assert last()[1] == {"a": b"12"} and last()[0] == {}
        os.close(fd)
        folder = os.open(tmp_path, os.O_RDONLY)
        os.fsync(folder)
        assert last()[0] == {"a": b"12"}
        (tmp_path / "a").rename(tmp_path / "b")
        assert last()[0] == {"a": b"12"} and last()[1] == {"b": b"12"}
        os.fsync(folder)
        os.close(folder)
        assert last()[0] == {"b": b"12"}
        (tmp_path / "b").unlink()
        assert last()[0] == {"b": b"12"} and last()[1] == {}
