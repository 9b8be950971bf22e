"""A recording taken up again holds what one without a break would, and no instant of it is without a whole state."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import tracer
from tests import ROOT
from tests.damage import SIZE, copied, files_of, go_on, weights, write_small
from tests.recording import declare, put, put_row, short_columns
from tests.synthetic import write_archive
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.recovery.resume import resume
from tracer.store.files import Directory
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume") / "run.zarr"
    write_small(path)
    return path


@pytest.fixture
def path(small: Path, tmp_path: Path) -> Path:
    return copied(small, tmp_path / "run.zarr")


def check(path: Path, last: int, resumed: int, factor: float = 1.0) -> None:
    """Every row and snapshot up to `last`; those after `resumed` recorded with another factor."""
    report = verify(path, full=True)
    assert report.ok, str(report)
    with tracer.open(path) as archive:
        assert archive.rows["step"].tolist() == list(range(last + 1))
        expected = [step * (factor if step > resumed else 1.0) for step in range(last + 1)]
        assert archive.rows["loss"].tolist() == expected
        assert [len(archive.ids(step)) for step in range(last + 1)] == [s % 3 + 1 for s in range(last + 1)]
        for row, step in enumerate(archive.steps("weights")):
            values = weights(int(step), factor if step > resumed else 1.0)
            assert np.array_equal(archive._source.read("weights/float32", row), values)
        assert archive.steps("outputs").tolist() == list(range(0, last + 1, 2))
    with xr.open_datatree(path, engine="zarr", consolidated=False) as tree:
        assert tree["steps"].sizes["step"] <= last + 1  # the documents of single arrays


def test_going_on_where_it_ended(path: Path) -> None:
    run_id = tracer.open(path).run_id
    writer = resume(path)
    assert writer.run_id == run_id
    go_on(writer, 6, 9, factor=2.0)
    writer.close()
    check(path, 8, 5, 2.0)
    with tracer.open(path) as archive:
        assert (archive.run_id, archive.state) == (run_id, "complete")


# Of the two streams one has a snapshot at each step, the other at every second.
@pytest.mark.parametrize("step", [0, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_overlapping_steps_are_dropped_in_one_commit(path: Path, step: int) -> None:
    before = tracer.open(path).attributes["tracer"]
    writer = resume(path, step=step)
    record = json.loads((path / "zarr.json").read_text())["attributes"]["tracer"]
    assert record["commit"] == before["commit"] + 1
    assert record["state"] == "recording"
    (entry,) = record["resumes"]
    assert (entry["step"], entry["dropped"], entry["commit"]) == (step, 5, record["commit"])
    check(path, step, step)
    go_on(writer, step + 1, 8, factor=3.0)
    writer.close()
    check(path, 7, step, 3.0)


def test_nothing_at_all_may_be_kept(path: Path) -> None:
    writer = resume(path, step=-1)
    with tracer.open(path) as archive:
        assert archive.rows["step"].size == 0
        assert archive.attributes["tracer"]["resumes"][0]["step"] is None
    go_on(writer, 0, 3)
    writer.close()
    check(path, 2, -1)


def test_a_killed_recording_loses_its_leftovers(path: Path) -> None:
    writer = resume(path, step=3)
    go_on(writer, 4, 6)
    writer._worker._inbox.put(None)  # as if it had been killed
    writer._worker.join()
    writer._lock.release()
    (path / "manifest" / "objects" / "partial").write_bytes(b"half")
    (path / "weights" / "float32" / "c.2.0").write_bytes(b"half")
    assert verify(path).notes
    writer = resume(path)
    assert not (path / "manifest" / "objects" / "partial").exists()
    assert not (path / "weights" / "float32" / "c.2.0").exists()
    go_on(writer, 4, 7)
    writer.close()
    check(path, 6, 3)


@pytest.fixture
def full() -> Iterator[int]:
    """How many updates fill an object, which are few."""
    with short_columns() as rows:
        yield rows


def test_many_objects_on_both_sides_of_the_seam(tmp_path: Path, full: int) -> None:
    end = 2 * full + 800
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)

    def go(writer: Writer, first: int, last: int) -> None:
        for step in range(first, last):
            late = {"late": float(step)} if step > full + 500 else {}
            put_row(writer, step, ids=np.arange(step % 20), scalars=late, lr=[0.1] * (1 + (step > 100)))
            if step % 2 == 0 and (step < 60 or step % 8 == 0):
                put(writer, step)
            if step % 700 == 0:
                writer.flush()

    go(writer, 0, end)
    writer.close()
    for resumed in (2 * full, full - 1, 60):
        writer = resume(writer.path, step=resumed)
        assert verify(writer.path, full=True).ok
        go(writer, resumed + 1, end)
        writer.close()
        report = verify(writer.path, full=True)
        assert report.ok, str(report)
        with tracer.open(writer.path) as archive:
            assert archive.rows["step"].tolist() == list(range(end))
            assert archive.steps("weights").tolist() == [*range(0, 60, 2), *range(64, end, 8)]
            assert np.array_equal(archive.rows["late"][full + 501 :], np.arange(full + 501, end))
            assert all(len(archive.ids(step)) == step % 20 for step in range(0, end, 411))
    assert [entry["step"] for entry in archive.attributes["tracer"]["resumes"]] == [2 * full, full - 1, 60]


def test_taken_up_twice_with_nothing_in_between(tmp_path: Path, full: int) -> None:
    path = tmp_path / "run.zarr"
    writer = Writer(path, attributes={})
    declare(writer)
    for step in range(full + 100):  # the first object of each column is full
        put_row(writer, step, ids=np.arange(2), loss=float(step))
        if step in (10, full + 90):
            put(writer, step)
    writer.close()
    for again in range(3):
        writer = resume(path, step=full + 50)
        assert verify(path, full=True).ok
        writer._worker._inbox.put(None)  # as if it had been killed
        writer._worker.join()
        writer._lock.release()
        report = verify(path, full=True)
        assert report.ok, (again, str(report))
    resume(path).close()
    with tracer.open(path) as archive:
        assert archive.rows["loss"].tolist() == list(range(full + 51))


def test_every_stream_and_the_minibatches_are_dropped_alike(tmp_path: Path) -> None:
    truth = write_archive(tmp_path / "run.zarr")
    resume(tmp_path / "run.zarr", step=4).close("interrupted")
    report = verify(tmp_path / "run.zarr", full=True)
    assert report.ok, str(report)
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.snapshots.tolist() == [step for step in truth.steps if step <= 4]
        assert len(archive.minibatch.rows("loss")) == archive.rows["n_ids"].sum()
        assert all(
            np.array_equal(archive.weights(4)[name], truth.weights[4][name]) for name in archive.weights(4)
        )


def test_versions_of_the_network_from_later_steps_are_dropped(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    versions = []
    for step in range(4):
        put_row(writer, step)
        if step in (0, 3):
            versions.append({"version": len(versions), "from_step": step, "digest": "", "constants": {}})
            table = {f"table_{step}": np.frombuffer(b"{}", np.uint8)}
            dims = {f"table_{step}": (f"byte_{step}",)}
            writer.static("network", table, dims, {"versions": versions})
    writer.close()
    resume(tmp_path / "run.zarr", step=2).close()
    assert verify(tmp_path / "run.zarr", full=True).ok
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert [v["from_step"] for v in archive._source.group_attributes("network")["versions"]] == [0]


# ---- declaring again ----


def test_the_same_declarations_may_be_made_again_and_others_are_refused(path: Path) -> None:
    writer = resume(path)
    arrays, dims = {"id": np.arange(4)}, {"id": ("example",)}
    writer.static("probes/p", arrays, dims, {"split": "train"})
    writer.stream("weights", {"float32": ("float32", (SIZE,), ("float32_element",))})
    with pytest.raises(RecordError, match=r"'probes/p/id' has other values now than in the archive"):
        writer.static("probes/p", {"id": np.arange(1, 5)}, dims)
    with pytest.raises(
        RecordError, match=rf"'weights/float32' is float32 \(7,\) now and float32 \({SIZE},\)"
    ):
        writer.stream("weights", {"float32": ("float32", (7,), ("float32_element",))})
    with pytest.raises(RecordError, match="step 4 came after step 4; snapshots go forward"):
        writer.append("weights", 4, False, {"float32": weights(4)})
    with pytest.raises(RecordError, match="step 5 came after step 5"):
        put_row(writer, 5)
    gram = ("float64", (1, 2, 2), ("layer", "example", "example_2"))
    writer.stream("gram", {"gram": gram})  # new streams may begin here
    writer.append("gram", 6, False, {"gram": np.ones((1, 2, 2))})
    put_row(writer, 6, scalars={"new": 1.0})
    writer.close()
    assert verify(path, full=True).ok
    with tracer.open(path) as archive:
        assert archive.steps("gram").tolist() == [6]
        assert np.isnan(archive.rows["new"][:6]).all()


def test_what_cannot_be_taken_up_is_refused_and_left_as_it_is(path: Path, tmp_path: Path) -> None:
    before = {name: (path / name).read_bytes() for name in files_of(path)}
    with pytest.raises(
        MissingTraceError, match="cannot be resumed after step 9: it holds updates up to step 5"
    ):
        resume(path, step=9)
    with pytest.raises(ArchiveError, match="no archive directory at"):
        resume(tmp_path / "none")
    loss = path / "steps" / "loss" / "c.0"
    loss.write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"it is damaged \(steps/loss/c.0: .*--repair"):
        resume(path)
    loss.write_bytes(before["steps/loss/c.0"])
    assert {name: (path / name).read_bytes() for name in files_of(path)} == before
    writer = resume(path)
    with pytest.raises(ArchiveError, match="another process is writing"):
        resume(path)
    writer.close()


def test_a_reader_from_before_is_told_instead_of_given_other_values(path: Path) -> None:
    with tracer.open(path) as archive:
        assert np.array_equal(archive._source.read("weights/float32", 2), weights(4))
        writer = resume(path, step=3)
        go_on(writer, 4, 6, factor=9.0)
        writer.flush()
        with pytest.raises(
            ArchiveError, match="was resumed, filled in or replaced since it was opened here; open it again"
        ):
            archive._source.read("weights/float32", 1)
    writer.close()


def test_a_reader_of_a_live_recording_goes_on_reading(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    put(writer, 0)
    writer.flush()
    with tracer.open(writer.path) as archive:
        put(writer, 1)
        writer.flush()
        assert archive._source.read("weights/float32").tolist() == [[0, 0, 0]]
    writer.close()


# ---- killed while resuming ----


class Stopped(BaseException):
    """What a kill looks like to the code that is under way."""


@contextmanager
def stopped_after(operations: int) -> Iterator[None]:
    numbers = count(1)

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(numbers) > operations:
                raise Stopped
            return method(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Directory, "publish", counted(Directory.publish))
        patch.setattr(Directory, "discard", counted(Directory.discard))
        yield


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_stopped_after_any_file_of_a_resume(small: Path, tmp_path: Path, every: int) -> None:
    for number, operations in enumerate(range(0, 200, every)):
        path = copied(small, tmp_path / f"{operations}.zarr")
        try:
            with stopped_after(operations):
                writer = resume(path, step=3)
        except Stopped:
            state = verify(path, full=True)
            assert state.ok, str(state)
            with tracer.open(path) as archive:
                steps = archive.rows["step"].tolist()
            assert steps in ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5])
            if number % 8 == 0:  # others read it as any of these states is read
                with xr.open_datatree(path, engine="zarr") as tree:
                    assert tree["steps/loss"].values.tolist() == steps
            alone = zarr.open_array(path / "weights" / "float32", mode="r")
            assert np.array_equal(np.asarray(alone[0]), weights(0))
            continue
        writer.close()
        check(path, 3, 3)
        break
    assert 20 < operations < 200


@pytest.mark.parametrize(
    "files", [30, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 12, 24, 26, 36))]
)
def test_killed_while_resuming_and_resumed_again(small: Path, tmp_path: Path, files: int) -> None:
    path = copied(small, tmp_path / "run.zarr")
    command = [sys.executable, "-m", "tests.resume_writer", str(path), "3", str(files)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with tracer.open(path) as archive:
        last = int(archive.rows["step"][-1])
        assert archive.rows["loss"].tolist() == list(range(last + 1))
    writer = resume(path, step=min(3, last))
    go_on(writer, 4, 8)
    writer.close()
    check(path, 7, 3)
