"""The writer refuses what it could not read back, and says so when the disk fails; archives stay whole."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import tracer
from tests.recording import declare, put, put_row
from tracer.errors import ArchiveError, RecordError
from tracer.store.files import Directory
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def test_existing_path_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ArchiveError, match="exists already; choose a new path"):
        Writer(path, attributes={})
    path.rmdir()
    Writer(path, attributes={}).close()


def test_second_writer_is_refused(path: Path) -> None:
    writer = Writer(path, attributes={})
    with pytest.raises(ArchiveError, match="another process is writing"):
        Writer(path, attributes={})
    writer.close()
    with pytest.raises(ArchiveError, match="exists already"):
        Writer(path, attributes={})
    assert not path.with_name("run.zarr.lock").exists()


def test_unusable_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match=r"cannot record into .*; choose a writable path"):
        Writer(tmp_path / "file" / "run.zarr", attributes={})
    with pytest.raises(ArchiveError, match="record into a directory of this machine and push it"):
        Writer("s3://bucket/run.zarr", attributes={})


def test_disk_full_at_creation_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", fail)
    with pytest.raises(ArchiveError, match=r"cannot record into .*: No space left"):
        Writer(path, attributes={})
    assert list(path.parent.iterdir()) == []


def test_a_creation_that_is_broken_off_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "writev", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Writer(path, attributes={})
    assert list(path.parent.iterdir()) == []


def test_wrong_snapshots_are_refused(path: Path) -> None:
    writer = Writer(path, attributes={})
    declare(writer)
    with pytest.raises(RecordError, match="did you mean 'weights'"):
        writer.append("weight", 0, False, {})
    with pytest.raises(RecordError, match=r"takes the arrays \['float32'\]"):
        writer.append("weights", 0, False, {})
    with pytest.raises(RecordError, match=r"should be float32 \(3,\), got float64"):
        writer.append("weights", 0, False, {"float32": np.zeros(3)})
    put(writer, 5)
    with pytest.raises(RecordError, match="step 5 came after step 5"):
        put(writer, 5)
    put_row(writer, 2)
    with pytest.raises(RecordError, match="step 2 came after step 2"):
        put_row(writer, 2)
    writer.close()
    with pytest.raises(ArchiveError, match="was closed"):
        put(writer, 6)
    with tracer.open(path) as archive:
        assert archive.steps("weights").tolist() == [5]


@pytest.mark.parametrize(
    ("arrays", "dims", "sentence"),
    [
        ({"x": np.zeros((2, 2))}, {"x": ("a", "a")}, "2 different dimension names"),
        ({"x": np.zeros(2)}, {}, "1 different dimension names"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, {"x": ("a",), "y": ("a",)}, "has size 3, but 2 in 'g'"),
        ({"x": np.array(["text"])}, {"x": ("a",)}, "which archives do not hold"),
        ({"a/b": np.zeros(2)}, {"a/b": ("a",)}, "cannot be the path of an array"),
        ({"x": np.zeros(2)}, {"x": ("step",)}, "does not change"),
    ],
)
def test_wrong_declarations_are_refused(
    path: Path, arrays: dict[str, np.ndarray], dims: dict[str, tuple[str, ...]], sentence: str
) -> None:
    writer = Writer(path, attributes={})
    with pytest.raises(RecordError, match=sentence):
        writer.static("g", arrays, dims)
    writer.close()
    xr.open_datatree(path, engine="zarr")


def test_declarations_that_xarray_could_not_align_are_refused(path: Path) -> None:
    writer = Writer(path, attributes={})
    writer.static("probes/train", {"id": np.arange(5)}, {"id": ("example",)})
    with pytest.raises(RecordError, match="dimension 'example' of 'probes/train/outputs/loss' has size 4"):
        writer.stream("probes/train/outputs", {"loss": ("float32", (4,), ("example",))})
    declare(writer)
    with pytest.raises(RecordError, match="declared twice"):
        declare(writer)
    with pytest.raises(RecordError, match="commit record"):
        writer.attributes("", {"tracer": {}})
    writer.close()


def test_scalars_that_would_collide_are_refused(path: Path) -> None:
    writer = Writer(path, attributes={})
    with pytest.raises(RecordError, match="'loss' is a column of every archive"):
        put_row(writer, 0, scalars={"loss": 1.0})
    put_row(writer, 0, scalars={"a/b": 1.0})
    with pytest.raises(RecordError, match=r"'a.b' and 'a/b' would be stored in one place"):
        put_row(writer, 1, scalars={"a.b": 1.0})
    writer.close()


# ---- trouble ----


def fail(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_surfaces_in_the_next_call_and_keeps_the_last_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(path, attributes={})
    declare(writer)
    put(writer, 0)
    writer.flush()
    monkeypatch.setattr(os, "writev", fail)
    put(writer, 1)
    with pytest.raises(ArchiveError, match=r"OSError: .*No space left on device.*make room") as caught:
        writer.flush()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ArchiveError, match="make room"):
        put_row(writer, 0)
    with pytest.raises(ArchiveError, match="make room"):
        writer.close()
    writer.close()
    monkeypatch.undo()
    with tracer.open(path) as archive:
        assert archive.steps("weights").tolist() == [0]
    assert not path.with_name("run.zarr.lock").exists()


def test_what_was_whole_before_a_failure_is_committed_when_the_disk_recovers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(path, attributes={})
    size = 1_200_000  # larger snapshots are written as they come
    declare(writer, size)
    put(writer, 0, size=size)
    put_row(writer, 0)
    writer.commit()
    put(writer, 1, size=size)  # and its row is to come
    written = threading.Event()
    writer._worker.send(lambda: None, written.set)
    written.wait()
    monkeypatch.setattr(os, "writev", fail)
    put(writer, 2, size=size)
    with pytest.raises(ArchiveError, match="make room"):
        writer.flush()
    monkeypatch.undo()
    with pytest.raises(ArchiveError, match="make room"):
        writer.close()
    assert verify(path, full=True).ok
    with tracer.open(path) as archive:
        assert archive.state == "interrupted"
        assert archive.steps("weights").tolist() == archive.rows["step"].tolist() == [0]
        assert not np.asarray(archive._source.read("weights/float32")).any()


def test_failing_commit_leaves_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(path, attributes={})
    declare(writer)
    put(writer, 0)
    writer.flush()
    publish = Directory.publish

    def publish_no_root(self: Directory, key: str, fill: Any, *, last: bool = False) -> Any:
        return fail() if last else publish(self, key, fill)

    monkeypatch.setattr(Directory, "publish", publish_no_root)
    put(writer, 1)
    with pytest.raises(ArchiveError, match="No space left"):
        writer.close()
    with tracer.open(path) as archive:
        assert archive.steps("weights").tolist() == [0]
    assert xr.open_datatree(path, engine="zarr")["weights/float32"].values.tolist() == [[0, 0, 0]]


def test_on_error_warn_warns_once_and_lets_training_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(path, attributes={}, on_error="warn", queue_bytes=64)
    declare(writer)
    writer.flush()
    monkeypatch.setattr(os, "writev", fail)
    put(writer, 1)
    with pytest.warns(RuntimeWarning, match="No space left"):
        writer.flush()
    for step in range(2, 20):  # more than the queue holds: nothing blocks
        put(writer, step)
        put_row(writer, step)
    writer.close()
    monkeypatch.undo()
    with tracer.open(path) as archive:
        assert archive.steps("weights").size == 0


def test_power_durability_syncs_data_before_the_root_is_renamed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        events.append("sync")
        fsync(fd)

    def renamed(source: str, target: str, **folders: int) -> None:
        events.append(Path(target).name)
        rename(source, target, **folders)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    writer = Writer(path, attributes={}, durability="power")
    declare(writer)
    put(writer, 0)
    writer.flush()
    root = len(events) - 1 - events[::-1].index("zarr.json")
    assert events[root - 1] == "sync"
    assert events[root + 1 :] == ["sync"]
    assert events[events.index("c.0.0") - 1] == "sync"
    writer.close()


def test_forked_child_cannot_write_and_does_not_hold_the_lock(path: Path) -> None:
    writer = Writer(path, attributes={})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            writer.close()  # nothing to do here
            put_row(writer, 0)
        except ArchiveError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    put_row(writer, 0)
    writer.close()
    with tracer.open(path) as archive:
        assert archive.state == "complete"
        assert archive.rows["step"].tolist() == [0]
