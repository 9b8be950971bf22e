"""After every single commit, whatever it sealed, dropped or took up, an archive is sound and has what was given."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tracer
from tests.loops import blobs, mlp
from tests.recording import declare, put, put_row, short_columns
from tracer.recovery.resume import resume
from tracer.share import pack, set_attributes, unpack
from tracer.store import grid
from tracer.store.files import write_all
from tracer.store.layout import ArrayLayout
from tracer.verify import verify
from tracer.writer import Writer, worker
from tracer.writer.committer import Committer

WRITEV = os.writev


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_INTERVAL", 1e6)


def sound(path: Path, rows: int) -> None:
    report = verify(path, full=True)
    assert report.ok, str(report)
    with tracer.open(path) as archive:
        assert archive.rows["loss"].tolist() == list(range(rows))


@pytest.fixture
def full() -> Iterator[int]:
    """Rows that an object of `steps` holds."""
    with short_columns() as rows:
        yield rows


def rows(writer: Writer, first: int, stop: int) -> None:
    for step in range(first, stop):
        late = {"late": float(step)} if step > 1023 else {}
        lr = [0.1] * (1 + (step > 1025))
        put_row(writer, step, loss=float(step), ids=np.arange(step % 40), scalars=late, lr=lr)


# ---- a system that writes less than it was told to ----


def half(fd: int, buffers: Sequence[Any]) -> int:
    """Write a half of it, at least one byte, now and then ending within a buffer."""
    data = b"".join(bytes(buffer) for buffer in buffers)
    return WRITEV(fd, [data[: max(1, len(data) // 2)]])


def one_buffer(fd: int, buffers: Sequence[Any]) -> int:
    return WRITEV(fd, buffers[:1])


def seven(fd: int, buffers: Sequence[Any]) -> int:
    return WRITEV(fd, [b"".join(bytes(buffer) for buffer in buffers)[:7]])


@pytest.mark.parametrize("short", [half, one_buffer])
def test_short_writes_lose_nothing(
    tmp_path: Path, short: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "writev", short)
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer, 700_000)
    for step in range(3):
        put(writer, step, size=700_000)
        put_row(writer, step, loss=float(step))
        writer.flush()
        sound(writer.path, step + 1)
    writer.close()
    with tracer.open(writer.path) as archive:
        for row in range(3):
            assert (archive._source.read("weights/float32", row) == row).all()


@pytest.mark.parametrize("short", [half, one_buffer, seven])
def test_every_byte_is_written_and_counted(
    tmp_path: Path, short: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "writev", short)
    buffers = [np.arange(n, dtype=np.uint8) for n in (0, 1, 100, 0, 37, 256)] + [b"", b"end"]
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    assert write_all(fd, buffers) == 1 + 100 + 37 + 256 + 3
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"".join(bytes(buffer) for buffer in buffers)


# ---- every commit there is ----


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Commit whenever a step is whole, and look at every commit before anything else is written: its number of rows."""
    seen: list[int] = []
    commit, amend = Committer.commit, Committer.amend

    def look(committer: Committer) -> None:
        report = verify(committer.path, full=True)
        assert report.ok, str(report)
        with tracer.open(committer.path) as archive:
            rows = archive.rows["step"].tolist()
            for group in archive._source.streams():
                assert set(archive._source.steps(group).tolist()) <= set(rows)
        seen.append(len(rows))

    def committed(self: Committer, *given: Any) -> dict[str, Any]:
        record = commit(self, *given)
        look(self)
        return record

    def amended(self: Committer, *given: Any) -> None:
        amend(self, *given)
        look(self)

    monkeypatch.setattr(Committer, "commit", committed)
    monkeypatch.setattr(Committer, "amend", amended)
    monkeypatch.setattr(worker, "_INTERVAL", 0.0)
    monkeypatch.setattr(worker, "_SHARE", 1e9)
    monkeypatch.setattr(worker, "_LONGEST", 0.0)
    return seen


def test_of_a_training_that_is_taken_up_again(tmp_path: Path, looked_at: list[int]) -> None:
    path, state = tmp_path / "run.zarr", {}
    x, y = blobs()

    def train(first: int, last: int) -> None:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if first:
            model.load_state_dict(state)
        probes = {"train": (x[:12], y[:12])}
        # At the end of an epoch further streams are taken of a step whose row is still open.
        taken = {"default": tracer.every(2) | tracer.epochs(), "outputs": tracer.every(1)}
        options: dict[str, Any] = {"snapshots": taken, "resume": True}
        with tracer.record(path, model, optimizer, loss=F.cross_entropy, probes=probes, **options) as run:
            for epoch in range(first, last):
                for batch in torch.randperm(24, generator=torch.Generator().manual_seed(epoch)).split(8):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
                    run.step(ids=batch)
                run.flush()  # before the epoch is known to have ended
                run.end_epoch()
                state.update({name: value.clone() for name, value in model.state_dict().items()})

    train(0, 2)
    train(2, 3)
    assert len(looked_at) > 10 and looked_at[-1] == 10
    set_attributes(path, {"licence": "CC0-1.0"})
    pack(path)
    unpack(path)
    with tracer.open(path) as archive:
        assert archive.epoch_ends.tolist() == [3, 6, 9]


def test_of_jobs_that_were_sent_ahead(
    tmp_path: Path, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still while step after step is given, half of one too; then it goes on."""
    gate = threading.Event()
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    writer.flush()
    writer._worker.send(gate.wait)
    for step in range(6):
        put(writer, step)
        put_row(writer, step)
        writer.commit()
    put(writer, 6)
    writer._worker.send(gate.wait)  # the row of this one is to come
    gate.set()
    (done := threading.Event()).clear()
    writer._worker.send(lambda: None, done.set)
    done.wait()
    assert len(looked_at) > 6 and looked_at == sorted(looked_at) and looked_at[-1] == 6
    put_row(writer, 6)
    writer.close()
    assert looked_at[-1] == 7


# ---- commits that seal objects ----


def test_columns_that_become_full_are_in_the_manifest_of_the_same_commit(tmp_path: Path, full: int) -> None:
    """The one commit that seals the first object of every column, and others around it."""
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    at = 0
    for stop in (1, full - 1, full, full + 1, full + 3):
        rows(writer, at, stop)
        put(writer, stop - 1)
        writer.flush()
        sound(writer.path, at := stop)
    writer.close()
    sound(writer.path, at)


def test_taking_up_again_is_sound_after_every_commit(tmp_path: Path, full: int) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    rows(writer, 0, full + 10)
    put(writer, full + 9)
    writer.close()
    for resumed in (full + 8, full, full - 1, 3):
        writer = resume(writer.path, step=resumed)
        sound(writer.path, resumed + 1)
        for step in range(resumed + 1, resumed + 4):
            rows(writer, step, step + 1)
            put(writer, step)
            writer.flush()
            sound(writer.path, step + 1)
        writer.close()
        sound(writer.path, resumed + 4)


def raw(path: Path, column: str, number: int) -> np.ndarray:
    """Rows that an object of a column holds, committed or not."""
    source = tracer.open(path)._source
    cut = ArrayLayout.of(column, source.nodes[column])
    file = path / cut.key((number,))
    data = file.read_bytes()
    return grid.values(lambda start, stop: data[start:stop], len(data), cut)


def test_after_taking_up_again_columns_hold_nothing_of_what_was_dropped(tmp_path: Path, full: int) -> None:
    """A reader of the bare files sees fill values there, and not rows of steps that never were."""
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    for step in range(10):
        put(writer, step)
    rows(writer, 0, full + 10)
    writer.close()
    assert raw(writer.path, "steps/loss", 0)[5:9].tolist() == [5, 6, 7, 8]
    resume(writer.path, step=4).close()
    sound(writer.path, 5)
    assert np.isnan(raw(writer.path, "steps/loss", 0)[5:]).all()
    assert (raw(writer.path, "steps/step", 0)[5:] == -1).all()
    assert (raw(writer.path, "steps/ids", 0)[1 + 2 + 3 + 4 :] == -1).all()
    assert (raw(writer.path, "weights/step", 0)[5:] == -1).all()
    assert not (writer.path / "steps" / "loss" / "c.1").exists()
    record = tracer.open(writer.path)._source.record
    loss = raw(writer.path, "steps/loss", 0)[:5]
    assert record["tails"]["steps/loss/c.0"] == google_crc32c.value(loss.astype("<f8").tobytes())
