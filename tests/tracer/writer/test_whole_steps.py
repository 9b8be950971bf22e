"""A commit holds whole steps or nothing, whatever fails and whenever; verify says where an archive does not."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.damage import copied
from tests.recording import put_row
from tracer.errors import ArchiveError
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.verify import verify
from tracer.writer import Writer, worker

STREAMS = ("weights", "probes/p/outputs", "probes/q/outputs", "probes/p/gradients", "gram")
CALLS = {"writev": os.writev, "rename": os.rename}


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_INTERVAL", 1e6)


def declare(writer: Writer) -> None:
    for name, split in {"p": "train", "q": "test"}.items():
        writer.static(f"probes/{name}", {"id": np.arange(3)}, {"id": ("example",)}, {"split": split})
    for number, group in enumerate(STREAMS):
        writer.stream(group, {"values": ("float32", (3,), (f"element_{number}",))})


def take(writer: Writer, step: int, streams: tuple[str, ...] = STREAMS) -> None:
    for group in streams:
        writer.append(group, step, False, {"values": np.full(3, step, np.float32)})


def record(path: Path, flushed: bool) -> None:
    """As a recorder does it: the snapshot of a step, then its row, then the word that all is whole."""
    writer = Writer(path, attributes={})
    try:
        declare(writer)
        for step in range(3):
            take(writer, step)
            put_row(writer, step, ids=np.arange(2), scalars={"late": 1.0} if step > 1 else {})
            writer.commit()
            if step == 1:
                writer.static("network", {"table_1": np.zeros(5, np.uint8)}, {"table_1": ("byte_1",)})
            if flushed:
                writer.flush()
    finally:
        writer.close()


def failing(call: str, first: int, last: int) -> tuple[Callable[..., Any], list[int]]:
    """A call of the system that fails from its n-th time on, until a later one."""
    counted = [0]

    def attempt(*arguments: Any, **options: Any) -> Any:
        counted[0] += 1
        if first <= counted[0] <= last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return CALLS[call](*arguments, **options)

    return attempt, counted


def whole(path: Path) -> list[int]:
    report = verify(path, full=True)
    assert report.ok, str(report)
    with tracer.open(path) as archive:
        steps = archive.rows["step"].tolist()
        for group in set(archive._source.streams()):
            assert archive._source.steps(group).tolist() == steps, group
    assert steps == list(range(len(steps)))
    return [int(step) for step in steps]


@pytest.mark.parametrize("every", [32, pytest.param(4, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "at the end"])
@pytest.mark.parametrize("lasting", [True, False], ids=["stays full", "recovers"])
@pytest.mark.parametrize("call", ["writev", "rename"])
def test_a_disk_that_is_full_at_any_call(
    tmp_path: Path, call: str, lasting: bool, flushed: bool, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first calls, which create the archive, one by one, of the others every so many.

    Where some are enough, of the first every other one recovers and the rest stay full.
    """
    attempt, counted = failing(call, 1 << 30, 0)
    with monkeypatch.context() as counting:
        counting.setattr(os, call, attempt)
        record(tmp_path / "all.zarr", flushed)
    kept = set()
    begun = range(1, 16) if every < 32 else range(1 + lasting, 16, 2)
    for first in (*begun, *range(16 + 2 * lasting + flushed, counted[0], every)):
        attempt, _ = failing(call, first, 1 << 30 if lasting else first)
        path = tmp_path / f"{first}.zarr"
        with monkeypatch.context() as broken:
            broken.setattr(os, call, attempt)
            with pytest.raises(ArchiveError, match="No space left"):
                record(path, flushed)
        if path.exists():  # it was created before the disk was full
            kept.add(len(whole(path)))
    assert 0 in kept and (kept >= {1, 2} if flushed else True)


def test_what_is_half_given_when_an_error_comes_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    for step in range(3):
        take(writer, step)
        put_row(writer, step)
        writer.commit()
    take(writer, 3, STREAMS[:2])  # no row yet
    for step in range(3, 10):
        put_row(writer, step)  # never said to be whole

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer._worker.send(fail)
    with pytest.raises(ArchiveError, match="No space left"):
        writer.close()
    assert whole(writer.path) == [0, 1, 2]
    with tracer.open(writer.path) as archive:
        assert archive.state == "interrupted"


def test_rows_that_could_not_be_entered_whole_are_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out between two columns: what is in memory then is no state that there ever was."""
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    take(writer, 0)
    put_row(writer, 0)
    writer.flush()
    extend, counted = writer._tree._extend, [0]

    def short(*arguments: Any) -> None:
        counted[0] += 1
        if counted[0] == 3:
            raise MemoryError("none left")
        extend(*arguments)

    monkeypatch.setattr(writer._tree, "_extend", short)
    take(writer, 1)
    put_row(writer, 1)
    with pytest.raises(ArchiveError, match="MemoryError"):
        writer.close()
    assert whole(writer.path) == [0]


# ---- what verify says of archives that are otherwise ----


def uneven(path: Path, more: dict[str, int], rows: int = 5) -> Path:
    """An archive whose streams end at different steps, as no recording leaves it."""
    writer = Writer(path, attributes={})
    declare(writer)
    for step in range(10):
        if step < rows:
            put_row(writer, step)
        take(writer, step, tuple(group for group in STREAMS if step < more.get(group, rows)))
    writer.close()
    return path


@pytest.mark.parametrize(
    ("more", "sentence", "last"),
    [
        ({"weights": 10}, "weights: has a snapshot of step 5, whose row is not in steps", 4),
        (
            {"probes/p/outputs": 3},
            "probes/p/outputs: lacks the snapshot of step 3 that 'probes/q/outputs' has",
            2,
        ),
        ({"gram": 2}, "gram: lacks the snapshot of step 2 that 'probes/p/gradients' has", 1),
    ],
)
def test_streams_that_do_not_fit_are_found_and_cut_back(
    tmp_path: Path, more: dict[str, int], sentence: str, last: int
) -> None:
    path = uneven(tmp_path / "run.zarr", more)
    report = verify(path)
    assert {finding.kind for finding in report.findings} == {"streams"}
    assert sentence in str(report)
    with pytest.raises(ArchiveError, match="repair it first"):
        resume(path)
    done = repair(path)
    assert done.step == last and sentence in str(done)
    assert [entry["step"] for entry in tracer.open(path).attributes["tracer"]["resumes"]] == [last]
    assert whole(path) == list(range(last + 1))


def test_different_schedules_and_what_was_filled_in_later_are_sound(tmp_path: Path) -> None:
    path = uneven(tmp_path / "run.zarr", {"weights": 2, "gram": 4})
    assert not verify(path).ok
    writer = Writer(tmp_path / "other.zarr", attributes={})
    declare(writer)
    for step in range(6):
        put_row(writer, step)
        take(writer, step, STREAMS if step % 2 else STREAMS[:1])
    writer.append("probes/q/outputs", 6, False, {"values": np.zeros(3, np.float32)})
    put_row(writer, 6)
    writer.attributes("probes/q/outputs", {"materialized": [6]})
    writer.close()
    assert verify(writer.path, full=True).ok


# ---- the end of an epoch that is known late ----


def test_the_end_of_an_epoch_may_be_known_after_the_commit(tmp_path: Path) -> None:
    """Its row is committed by then: until the next commit the file may be of either kind, and nothing else."""
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    take(writer, 0)
    put_row(writer, 0)
    writer.flush()
    root = (writer.path / "zarr.json").read_bytes()
    writer.mark_epoch_end(0)
    writer.flush()
    late = copied(writer.path, tmp_path / "late.zarr")
    (late / "zarr.json").write_bytes(root)  # killed before the root document
    writer.close("interrupted")
    assert verify(late, full=True).ok
    for name, act in {"resumed": lambda p: resume(p).close(), "repaired": repair}.items():
        path = copied(late, tmp_path / f"{name}.zarr")
        act(path)
        assert whole(path) == [0]
        assert tracer.open(path).epoch_ends.tolist() == [0]
    other = copied(late, tmp_path / "other.zarr")
    (other / "weights" / "epoch_end" / "c.0").write_bytes((other / "weights" / "step" / "c.0").read_bytes())
    assert not verify(other).ok
