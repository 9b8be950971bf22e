"""Commits hold whole steps; manifest and digests cover every byte; buffers are reused and bounded."""

import json
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

import tracer
from tests.recording import declare, put, put_row, short_columns
from tests.synthetic import write_archive
from tracer.store.documents import document_digest, object_key
from tracer.store.manifest import chain
from tracer.writer import Writer, columns
from tracer.writer.staging import Staging
from tracer.writer.worker import Worker


def root_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())


def manifest_of(path: Path) -> tuple[list[str], np.ndarray]:
    with tracer.open(path) as archive:
        source = archive._source
        return source.group_attributes("manifest")["arrays"], source.read("manifest/objects")


# ---- manifest ----


@pytest.fixture(scope="module")
def full() -> Iterator[int]:
    """Rows that an object of `steps` holds."""
    with short_columns() as rows:
        yield rows


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, full: int) -> Path:
    """An archive with sealed columns, shards and several commits."""
    path = tmp_path_factory.mktemp("commits") / "run.zarr"
    writer = Writer(path, attributes={})
    writer.stream("weights", {"float32": ("float32", (600_000,), ("float32_element",))})
    for step in range(full + 200):
        put_row(writer, step, ids=np.arange(20), lr=[0.1] * (1 + (step > 100)))
        if step in (0, 100, full + 50):
            put(writer, step, size=600_000)
            writer.flush()
    writer.close()
    return path


def test_every_object_is_in_the_manifest_or_in_the_tails(path: Path) -> None:
    arrays, rows = manifest_of(path)
    nodes = root_of(path)["consolidated_metadata"]["metadata"]
    sealed = {
        object_key(arrays[row[0]], *(row[1], row[2], 0, 0)[: len(nodes[arrays[row[0]]]["shape"])])
        for row in rows.tolist()
    }
    tails = set(root_of(path)["attributes"]["tracer"]["tails"])
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.name.startswith("c.")}
    assert sealed.isdisjoint(tails)
    assert sealed | tails == files
    assert any(key.startswith("steps/loss/c.0") for key in sealed)


def test_manifest_matches_the_files(path: Path) -> None:
    arrays, rows = manifest_of(path)
    for array, row, column, nbytes, crc, commit in rows.tolist():
        node = root_of(path)["consolidated_metadata"]["metadata"][arrays[array]]
        data = (path / object_key(arrays[array], *(row, column)[: len(node["shape"])])).read_bytes()
        assert len(data) == nbytes
        assert checksum(data, node) == crc
        assert 1 <= commit <= root_of(path)["attributes"]["tracer"]["commit"]


def checksum(data: bytes, node: dict[str, Any]) -> int:
    """As docs/format.md defines it, recomputed from the values."""
    configuration = node["codecs"][0].get("configuration", {})
    if "chunk_shape" not in configuration:
        return google_crc32c.value(data[:-4])
    outer, inner = node["chunk_grid"]["configuration"]["chunk_shape"], configuration["chunk_shape"]
    index = np.frombuffer(data[-4 - 16 * int(np.prod(np.array(outer) // inner)) : -4], "<u8").reshape(-1, 2)
    sums = [google_crc32c.value(data[start : start + size - 4]) for start, size in index.tolist()]
    return google_crc32c.value(b"".join(value.to_bytes(4, "little") for value in sums))


def test_digests_chain_to_the_root(path: Path) -> None:
    record = root_of(path)["attributes"]["tracer"]
    _, rows = manifest_of(path)
    digest = bytes(32)
    for row in rows:
        digest = chain(digest, row)
    assert record["manifest_rows"] == len(rows)
    assert record["manifest_digest"] == digest.hex()
    document = (path / "zarr.json").read_bytes()
    assert record["digest"] == document_digest(document, record["digest"])
    assert record["digest"] != document_digest(
        document.replace(b"interrupted", b"x") + b" ", record["digest"]
    )


def test_tails_cover_committed_rows(path: Path, full: int) -> None:
    record = root_of(path)["attributes"]["tracer"]
    with tracer.open(path) as archive:
        loss = archive.rows["loss"][full:]
        assert record["tails"]["steps/loss/c.1"] == google_crc32c.value(loss.astype("<f8").tobytes())
        second = np.full(len(loss), 0.1)
        assert record["tails"]["steps/lr/c.1.1"] == google_crc32c.value(second.tobytes())


def test_same_run_twice_has_different_digests(tmp_path: Path) -> None:
    for name in "ab":
        write_archive(tmp_path / name, steps=(0, 1))
    with tracer.open(tmp_path / "a") as a, tracer.open(tmp_path / "b") as b:
        assert a.run_id != b.run_id
        assert a.digest != b.digest


# ---- when a commit happens ----


def settled(worker: Worker) -> None:
    """Wait until the thread has handled everything sent so far."""
    done = threading.Event()
    worker.send(lambda: None, done.set)
    done.wait()


def steps_in(path: Path) -> tuple[list[int], list[int]]:
    with tracer.open(path) as archive:
        return archive.rows["step"].tolist(), archive.steps("weights").tolist()


def test_a_commit_ends_where_everything_was_whole(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    put(writer, 0)
    put_row(writer, 0)
    writer.flush()
    put_row(writer, 1)
    put(writer, 1)
    writer._worker._due = 0.0  # the interval is over
    writer.commit()
    put_row(writer, 2)  # half of step 2: its snapshot is to come
    settled(writer._worker)
    assert steps_in(writer.path) == ([0, 1], [0, 1])
    put(writer, 2)
    writer.close()
    assert steps_in(writer.path) == ([0, 1, 2], [0, 1, 2])


def test_an_idle_thread_commits_what_is_whole_and_only_that(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    writer.flush()
    put(writer, 0)
    put_row(writer, 0)
    writer.commit()
    settled(writer._worker)
    put(writer, 1)
    settled(writer._worker)
    writer._worker.send(writer._worker._commit_if_idle)
    settled(writer._worker)
    assert steps_in(writer.path) == ([], [])  # step 1 had begun
    put_row(writer, 1)
    writer.commit()
    # The job itself counts as sent: idle means that no job is under way.
    writer._worker._mark = (writer._worker._sent, writer._worker._given)
    writer._worker.send(writer._worker._commit_if_idle)
    settled(writer._worker)
    assert steps_in(writer.path) == ([0, 1], [0, 1])
    writer.close()


def test_nothing_new_is_no_commit(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    writer.flush()
    writer.flush()
    assert root_of(writer.path)["attributes"]["tracer"]["commit"] == 1
    writer.close()
    assert root_of(writer.path)["attributes"]["tracer"]["commit"] == 2


def test_single_documents_never_precede_the_root(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer, 1_200_000)
    put(writer, 0, size=1_200_000)
    settled(writer._worker)
    assert (writer.path / "weights" / "float32" / "c.0.0").exists()
    assert not (writer.path / "weights" / "float32" / "zarr.json").exists()
    writer.close()
    assert (writer.path / "weights" / "float32" / "zarr.json").exists()


# ---- columns and buffers ----


def test_last_row_of_a_full_object_can_still_be_amended() -> None:
    column = columns.Column(np.dtype("bool"), (), 4, 2)
    column.extend(np.zeros(4, bool))
    assert list(column.sealed()) == []
    column.amend_last(True)
    column.extend(np.zeros(1, bool))
    [(number, values)] = column.sealed()
    assert number == 0
    assert values.tolist() == [False, False, False, True]


def test_an_object_that_could_not_be_written_stays_to_be_written() -> None:
    column = columns.Column(np.dtype("int64"), (), 2, 1)
    column.extend(np.arange(5))
    with pytest.raises(OSError, match="full"):
        for _ in column.sealed():
            raise OSError("full")
    assert [number for number, _ in column.sealed()] == [0, 1]


def test_an_empty_column_takes_nothing_of_the_heap() -> None:
    tracemalloc.start()
    try:
        column = columns.Column(np.dtype("int64"), (2,), 1 << 16, 1 << 10)
        assert tracemalloc.get_traced_memory()[1] < column.tail.nbytes / 10
    finally:
        tracemalloc.stop()
    column.extend(np.arange(6).reshape(3, 2))
    assert column.tail[:4].tolist() == [[0, 1], [2, 3], [4, 5], [-1, -1]]


def test_buffers_are_reused() -> None:
    staging = Staging(1 << 20)
    first = staging.copy(np.arange(10))
    address = first.__array_interface__["data"][0]
    staging.give_back(first)
    again = staging.copy(np.arange(10, 20))
    assert again.__array_interface__["data"][0] == address
    assert again.tolist() == list(range(10, 20))
    assert staging.copy(np.zeros(10)).__array_interface__["data"][0] != address


def test_too_much_waiting_blocks_until_something_is_written() -> None:
    staging = Staging(100)
    big = staging.copy(np.zeros(20))  # larger than the limit, accepted alone
    took = threading.Event()

    def take() -> None:
        staging.copy(np.zeros(1))
        took.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not took.is_set()
    staging.give_back(big)
    thread.join()
    assert took.is_set()


def test_free_buffers_of_other_sizes_do_not_add_up() -> None:
    staging = Staging(1000)
    for size in range(1, 100):
        staging.give_back(staging.copy(np.zeros(size)))
        assert staging._held <= 1000
