"""Whatever fails under a recording: what was committed stays, training goes on or stops as chosen, never silence."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests import ROOT
from tests.damage import objects_of
from tests.loops import blobs, mlp, run_loop
from tests.recording import declare, put, put_row
from tracer.errors import ArchiveError
from tracer.verify import verify
from tracer.writer import Writer

FAULTS = {
    "disk full": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "input/output error": errno.EIO,
    "read-only": errno.EROFS,
    "no permission": errno.EACCES,
    "gone": errno.ESTALE,
}
CALLS = ["writev", "open", "rename"]


def failing(number: int) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def recorded(path: Path, on_error: str = "raise") -> Writer:
    writer = Writer(path, attributes={}, on_error=on_error)  # type: ignore[arg-type]
    declare(writer)
    for step in range(2):
        put(writer, step)
        put_row(writer, step)
    writer.flush()
    return writer


def still_there(path: Path) -> None:
    report = verify(path, full=True)
    assert report.ok, str(report)
    with tracer.open(path) as archive:
        assert archive.rows["step"].tolist() == archive.steps("weights").tolist() == [0, 1]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_disk_surfaces_in_the_next_call_and_at_close(
    tmp_path: Path, fault: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = recorded(tmp_path / "run.zarr")
    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing(FAULTS[fault]))
        put(writer, 2)
        put_row(writer, 2)
        with pytest.raises(ArchiveError, match=os.strerror(FAULTS[fault])):
            writer.flush()
        with pytest.raises(ArchiveError, match="make room or check the disk, then record again"):
            put(writer, 3)
        with pytest.raises(ArchiveError, match=os.strerror(FAULTS[fault])):
            writer.close()
    still_there(tmp_path / "run.zarr")
    assert not (tmp_path / "run.zarr.lock").exists()


@pytest.mark.parametrize("fault", ["disk full", pytest.param("quota", marks=pytest.mark.slow)])
def test_training_goes_on_if_that_was_chosen(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _, _ = run_loop(tmp_path / "whole.zarr")
    writes = os.writev
    left = iter(range(60))

    def full(fd: int, buffers: Any) -> int:
        return writes(fd, buffers) if next(left, None) is not None else failing(FAULTS[fault])()

    monkeypatch.setattr(os, "writev", full)
    with pytest.warns(RuntimeWarning, match=os.strerror(FAULTS[fault])):
        model, _, losses = run_loop(tmp_path / "run.zarr", on_error="warn")
    monkeypatch.undo()
    assert len(losses) == 6
    for mine, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert verify(tmp_path / "run.zarr", full=True).ok
    left = iter(range(60))
    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(ArchiveError, match="make room"):
        run_loop(tmp_path / "stopped.zarr")


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(errno.EACCES))
    with pytest.raises(ArchiveError, match=r"cannot record into .*Permission denied; choose a writable path"):
        Writer(tmp_path / "sub" / "run.zarr", attributes={})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="tries on as another user")
def test_a_read_only_directory_for_real(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent.stat().st_mode & 0o5 != 0o5:
            pytest.skip("another user does not get here")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            Writer(tmp_path / "shelf" / "run.zarr", attributes={})
        except ArchiveError as error:
            code = 0 if "Permission denied; choose a writable path" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_slow_disk_holds_training_up_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots come faster than they are written: the queue is bounded, and everything arrives."""
    gate, writes = threading.Event(), os.writev

    def slow(fd: int, buffers: Any) -> int:
        gate.wait()
        return writes(fd, buffers)

    writer = Writer(tmp_path / "run.zarr", attributes={}, queue_bytes=4 * 4000)
    with objects_of(1):  # small ones that share files are only written with a commit
        declare(writer, 1000)
        writer.flush()
    monkeypatch.setattr(os, "writev", slow)
    given: list[int] = []

    def give() -> None:
        for step in range(20):
            put(writer, step, size=1000)
            put_row(writer, step)
            given.append(step)
            gate.wait(0)

    thread = threading.Thread(target=give)
    thread.start()
    while len(given) < 4:
        pass
    assert len(given) <= 5  # the fifth waits for room
    gate.set()
    thread.join()
    writer.close()
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.steps("weights").tolist() == archive.rows["step"].tolist() == list(range(20))
    assert verify(tmp_path / "run.zarr", full=True).ok


@pytest.mark.parametrize("error", [MemoryError("none left"), SystemExit(1), ZeroDivisionError("a bug")])
def test_a_writing_thread_that_dies_is_heard_of(tmp_path: Path, error: BaseException) -> None:
    def die() -> None:
        raise error

    writer = recorded(tmp_path / "run.zarr")
    writer._worker.send(die)
    put(writer, 2)
    with pytest.raises(ArchiveError, match=type(error).__name__):
        writer.flush()
    with pytest.raises(ArchiveError, match=type(error).__name__):
        writer.close()
    still_there(tmp_path / "run.zarr")


def test_a_second_writer_in_another_process(tmp_path: Path) -> None:
    writer = recorded(tmp_path / "run.zarr")
    code = "import sys; from tracer.recovery.resume import resume; resume(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run.zarr")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "another process is writing" in done.stderr
    writer.close()
    still_there(tmp_path / "run.zarr")


def test_forked_loader_workers_leave_the_archive_alone(tmp_path: Path) -> None:
    x, y = blobs(32)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(
        TensorDataset(x, y),
        batch_size=8,
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    settings: dict[str, Any] = {
        "loss": torch.nn.functional.cross_entropy,
        "probes": {"train": (x[:8], y[:8])},
    }
    with tracer.record(tmp_path / "run.zarr", model, optimizer, **settings) as run:
        for _ in range(3):
            for inputs, targets in run.batches(loader):
                torch.nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            run.flush()
    del loader
    report = verify(tmp_path / "run.zarr", full=True)
    assert report.ok and report.state == "complete"
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.ids(12).tolist() == list(range(24, 32))


RECORD = """
import os, signal, sys
import tracer
from torch import nn  # without an optimizer, which takes another second to import
model, record = nn.Linear(2, 1), tracer.record
terminated = os.fork()  # of two trainings, one ends by itself and one is told to
code = os.waitpid(terminated, 0)[1] if terminated else 0
run = record(sys.argv[1 + bool(terminated)], model, None, probes={}).__enter__()
for _ in range(5):
    run.step()
if not terminated:
    os.kill(os.getpid(), signal.SIGTERM)
print(os.waitstatus_to_exitcode(code))
"""


def test_a_training_that_ends_without_closing(tmp_path: Path) -> None:
    """The row of the last update is still open then: what is whole is committed, and nobody is told otherwise."""
    paths = [tmp_path / "terminated.zarr", tmp_path / "ended.zarr"]
    done = subprocess.run(
        [sys.executable, "-c", RECORD, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(-signal.SIGTERM)]
    for path in paths:
        report = verify(path, full=True)
        assert report.ok and report.state == "interrupted"
        with tracer.open(path) as archive:
            steps = archive.rows["step"].tolist()
        assert steps == list(range(len(steps))) and 2 <= len(steps) <= 6
