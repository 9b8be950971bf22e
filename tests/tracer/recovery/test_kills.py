"""kill -9 after any call that changes a file: what is left opens, is sound, can be recorded on and be repaired."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tracer
from tests.damage import copied, objects_of
from tests.loops import blobs, mlp
from tests.power import Disk, write_state
from tests.recording import put_row
from tracer.errors import ArchiveError
from tracer.materialize import materialize
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.share import pack, set_attributes, unpack
from tracer.store.files import PARTIAL
from tracer.verify import verify
from tracer.writer import Writer, worker

Check = Callable[[Path, Any], None]
REPAIRED = 5  # every so many states are repaired too
LOSS = {"loss": ("float64", (), ())}


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits happen where the test says, the first and the last with the documents of all arrays."""
    monkeypatch.setattr(worker, "_INTERVAL", 1e6)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a process that is killed needs none


def declare(writer: Writer) -> None:
    writer.static("probes/p", {"id": np.arange(4)}, {"id": ("example",)}, {"split": "train"})
    writer.stream("weights", {"float32": ("float32", (5,), ("float32_element",))})
    writer.stream("probes/p/outputs", {"loss": ("float32", (4,), ("outputs_example",))})
    writer.ragged("minibatch", LOSS, {"mode": "train", "captured": ["loss"]})


def go_on(writer: Writer, first: int, steps: int, factor: float = 1.0) -> None:
    """Further updates, a snapshot of each, and after every second commit the news that an epoch had ended."""
    for step in range(first, steps):
        ids = np.arange(step % 3 + 1)
        late = {"late": float(step)} if step > 0 else {}
        rates = [0.1] * (1 + (step > 1))
        examples = {"minibatch/loss": ids * 0.5}
        put_row(writer, step, ids=ids, loss=step * factor, lr=rates, scalars=late, examples=examples)
        writer.append("weights", step, False, {"float32": np.full(5, step * factor, np.float32)})
        writer.append("probes/p/outputs", step, False, {"loss": np.full(4, step, np.float32)})
        writer.flush()
        if step % 2:
            writer.mark_epoch_end(step)


def recorded(path: Path, steps: int = 4) -> Path:
    writer = Writer(path, attributes={})
    declare(writer)
    go_on(writer, 0, steps)
    writer.close()
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with objects_of(1):
        return recorded(tmp_path_factory.mktemp("kills") / "run.zarr")


def sound(path: Path) -> None:
    report = verify(path, full=True)
    assert report.ok, str(report)


def holds(path: Path, resumed: int = 99, factor: float = 1.0) -> int:
    """The last step, of an archive that is whole and has what was recorded; after `resumed` with a factor."""
    sound(path)
    with tracer.open(path) as archive:
        n = len(archive.rows["step"])
        expected = [step * (factor if step > resumed else 1.0) for step in range(n)]
        assert archive.rows["loss"].tolist() == expected
        if n:
            assert archive.steps("weights").tolist() == archive.steps("outputs").tolist() == list(range(n))
            assert np.array_equal(archive._source.read("weights/float32")[:, 0], np.float32(expected))
            assert {int(step) for step in archive.epoch_ends} <= set(range(1, n, 2))
            assert set(range(1, n - 1, 2)) <= {int(step) for step in archive.epoch_ends}
    return n - 1


def goes_on(path: Path) -> None:
    """It can be recorded on."""
    writer = resume(path)
    put_row(writer, writer._last_row + 1, ids=np.arange(2))
    writer.close()
    sound(path)


@pytest.fixture(params=[0.12, pytest.param(1.0, marks=pytest.mark.slow)], ids=["some", "all"])
def share(request: pytest.FixtureRequest) -> float:
    """Of the states that are checked: what happens in them happens in each of several commits."""
    return float(request.param)


def killed(disk: Disk, scratch: Path, check: Check, share: float = 1.0) -> int:
    """Check the different states that the archive was in, or a share of them; returns how many there are.

    What is in the one file that has no name yet makes no difference, nor what is in folders beside the archive.
    """
    seen: set[Any] = set()
    dice, checked = random.Random(len(disk.crashes)), 0
    for number, crash in enumerate(disk.crashes):
        named = {
            name: data
            for name, data in crash.killed.items()
            if (name.startswith("run.zarr/") and not name.endswith(PARTIAL)) or "/" not in name
        }
        mark = crash.acknowledged, frozenset((name, hash(data)) for name, data in named.items())
        if mark in seen:
            continue
        seen.add(mark)
        if dice.random() > share:
            continue
        checked += 1
        place = scratch / str(number)
        try:
            write_state(crash.killed, place)
            check(place / "run.zarr", crash.acknowledged)
            if checked % REPAIRED == 0 and "run.zarr/zarr.json" in named:
                write_state(crash.killed, place.with_name("repaired"))
                is_repaired(place.with_name("repaired") / "run.zarr")
        except BaseException as error:
            error.add_note(f"killed after call {number} ({crash.after})")
            raise
        for folder in scratch.glob(f"{number}*"), scratch.glob("repaired*"):
            for old in folder:
                shutil.rmtree(old)
    return len(seen)


def changed(disk: Disk) -> int:
    """How many files of the archive are there at the end that were not at the beginning, or were other ones.

    Each is changed by a call of its own, so there are more states than that. A file that is written again as it
    was makes none.
    """
    first, last = disk.crashes[0].killed, disk.crashes[-1].killed
    return sum(name.startswith("run.zarr/") and first.get(name) != data for name, data in last.items())


def is_repaired(path: Path) -> None:
    try:
        repair(path)
    except ArchiveError as error:
        assert "unpack it first" in str(error)
    else:
        sound(path)
        assert tracer.open(path).state != "recording"


def test_recording(tmp_path: Path, share: float) -> None:
    (base := tmp_path / "disk").mkdir()
    disk = Disk(base, power=False)
    with disk.watching(), objects_of(2):  # the third snapshot begins another object
        writer = Writer(base / "run.zarr", attributes={})
        disk.acknowledged = -1
        declare(writer)
        for step in range(3):
            go_on(writer, step, step + 1)
            disk.acknowledged = step
        writer.close()

    def check(path: Path, acknowledged: Any) -> None:
        if acknowledged is None and not (path / "zarr.json").exists():
            assert not path.exists() or not any(file.name != "partial" for file in path.rglob("*.*"))
            return
        assert holds(path) >= (-1 if acknowledged is None else acknowledged)
        goes_on(path)

    assert killed(disk, tmp_path, check, share) > 40


@pytest.mark.parametrize("n", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_taking_up_again(tmp_path: Path, share: float, n: int) -> None:
    (base := tmp_path / "disk").mkdir()
    with objects_of(n):
        recorded(base / "run.zarr", 5)
    disk = Disk(base, power=False)
    disk.acknowledged = 4
    with disk.watching():
        writer = resume(base / "run.zarr", step=2)  # an object that was full is open again
        disk.acknowledged = 2
        go_on(writer, 3, 5, factor=2.0)
        writer.close()

    def check(path: Path, acknowledged: int) -> None:
        with tracer.open(path) as archive:
            dropped = bool(archive.attributes["tracer"]["resumes"])
        assert holds(path, 2 if dropped else 99, 2.0) >= (2 if dropped else 4)
        goes_on(path)

    assert killed(disk, tmp_path, check, share) > 40


def test_packing_and_unpacking(small: Path, tmp_path: Path) -> None:
    (base := tmp_path / "disk").mkdir()
    copied(small, base / "run.zarr")
    disk = Disk(base, power=False)
    with disk.watching():
        pack(base / "run.zarr")
        unpack(base / "run.zarr")

    def check(path: Path, acknowledged: Any) -> None:
        assert holds(path) == 3
        with tracer.open(path) as archive:
            packed = "packed" in archive.card
        if not packed:
            goes_on(path)
        else:
            unpack(path)  # whatever was left beside it
            assert {item.name for item in path.parent.iterdir()} == {"run.zarr"}

    assert killed(disk, tmp_path, check) > 4


def test_setting_attributes(small: Path, tmp_path: Path) -> None:
    (base := tmp_path / "disk").mkdir()
    copied(small, base / "run.zarr")
    disk = Disk(base, power=False)
    with disk.watching():
        set_attributes(base / "run.zarr", {"licence": "CC0-1.0"})

    def check(path: Path, acknowledged: Any) -> None:
        assert holds(path) == 3
        assert tracer.open(path).attributes.get("provenance", {}) in ({}, {"licence": "CC0-1.0"})
        goes_on(path)

    assert killed(disk, tmp_path, check) >= 3


@pytest.mark.parametrize("name", ["weights/float32/c.2.0", "manifest/objects/c.0.0", "steps/loss/zarr.json"])
def test_repairing(small: Path, tmp_path: Path, name: str, share: float) -> None:
    (base := tmp_path / "disk").mkdir()
    path = copied(small, base / "run.zarr")
    (path / name).write_bytes((path / name).read_bytes()[:-1] + b"?")
    last = 1 if name.startswith("weights") else 3
    disk = Disk(base, power=False)
    with disk.watching():
        repair(path)

    def check(path: Path, acknowledged: Any) -> None:
        repair(path)
        assert holds(path) == last
        goes_on(path)

    # The root, and what was damaged or is left out: other files are written anew as they were.
    assert killed(disk, tmp_path, check, share) > changed(disk) >= 2


def test_materializing(tmp_path: Path) -> None:
    (base := tmp_path / "disk").mkdir()
    model, (x, y) = mlp(), blobs(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(
        base / "run.zarr",
        model,
        optimizer,
        loss=F.cross_entropy,
        probes={"train": (x, y)},
        snapshots={"default": tracer.at([1]), "weights": tracer.every(1)},
        gradients="none",
    ):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    disk = Disk(base, power=False)
    with disk.watching():
        materialize(base / "run.zarr", activations=2)

    def check(path: Path, acknowledged: Any) -> None:
        sound(path)
        with tracer.open(path) as archive:
            assert archive.rows["step"].tolist() == [0, 1]
        resume(path).close()
        sound(path)

    assert killed(disk, tmp_path, check) > 2
