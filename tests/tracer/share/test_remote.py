"""Push and pull: what arrives is what was sent, breaks are made up for, and the root document comes last."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import tracer
from tests.damage import objects_of
from tests.recording import declare, put, put_row
from tests.synthetic import write_archive
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share import parts, sending
from tracer.share.content import ArchiveContent, difference
from tracer.share.packs import pack
from tracer.share.remote import Moved, pull, push
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote") / "run.zarr"
    with objects_of(1):
        write_archive(path)
    return path


# Into a folder test_commands.py pushes by default, and pulls from there.
@pytest.fixture(params=["memory", pytest.param("file", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield "memory://pushed/run.zarr" if request.param == "memory" else f"file://{tmp_path}/shelf/run.zarr"
    memory = fsspec.filesystem("memory")
    for place in ("/pushed", "/elsewhere"):
        if memory.exists(place):
            memory.rm(place, recursive=True)


def listed(url: str) -> set[str]:
    filesystem, base = fsspec.core.url_to_fs(url)
    return {name.removeprefix(base).strip("/") for name in filesystem.find(base)}


def same(one: Any, other: Any) -> bool:
    sources = Source(one), Source(other)
    found = difference(*map(ArchiveContent, sources))
    for source in sources:
        source.close()
    return found is None


def test_there_in_place_and_back(run: Path, url: str, tmp_path: Path) -> None:
    moved = push(run, url, jobs=3)
    assert (moved.kept, moved.sent > 50) == (0, True)
    assert listed(url) == {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    assert verify(url, full=True).findings == []
    with tracer.open(url) as archive, tracer.open(run) as before:
        assert archive.digest == before.digest
        assert np.array_equal(archive.gram(4), before.gram(4))
    assert same(url, run)
    back = pull(url, tmp_path / "back.zarr", jobs=3)
    assert (back.sent, back.kept) == (moved.sent, 0)
    assert (tmp_path / "back.zarr" / "zarr.json").read_bytes() == (run / "zarr.json").read_bytes()
    assert verify(tmp_path / "back.zarr", full=True).findings == []
    assert same(tmp_path / "back.zarr", run)


def test_packed_archives_and_zip_files_travel_too(run: Path, url: str, tmp_path: Path) -> None:
    packed = pack(run, tmp_path / "packed.zarr")
    push(packed, url)
    assert same(url, run)
    zipped, there = pack(run, tmp_path / "run.zip", zip=True), url.replace(".zarr", ".zip")
    assert push(zipped, there) == Moved(1, 0, zipped.stat().st_size)
    with pytest.raises(ArchiveError, match="exists already"):
        push(zipped, there)
    push(zipped, there, overwrite=True)
    pull(there, tmp_path / "back.zip")
    assert (tmp_path / "back.zip").read_bytes() == zipped.read_bytes()


# ---- order and breaks ----


class Broken(Exception):
    """The line was cut."""


def cut(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Let so many objects through, then none."""
    passed: list[str] = []
    lock, send = threading.Lock(), sending.Sending._send_sealed

    def limited(self: Any, key: str) -> None:
        with lock:
            if len(passed) >= after:
                raise Broken
            passed.append(key)
        send(self, key)

    monkeypatch.setattr(sending.Sending, "_send_sealed", limited)
    return passed


def test_the_root_comes_last(run: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    put, send = sending.Sending._put, sending.Sending._send_sealed

    def noted(self: Any, key: str, *data: bytes) -> None:
        order.append(key)
        (put if data else send)(self, key, *data)

    monkeypatch.setattr(sending.Sending, "_put", noted)
    monkeypatch.setattr(sending.Sending, "_send_sealed", noted)
    push(run, url)
    assert order[-1] == "zarr.json"
    assert order.count("zarr.json") == 1


def test_a_break_costs_at_most_a_batch(
    run: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_BATCH", 10)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        cut(patch, after=25)
        push(run, url, jobs=1)
    with pytest.raises(ArchiveError, match=r"no archive at|not an archive"):
        tracer.open(url)
    moved = push(run, url)
    assert moved.kept == 20
    assert same(url, run)
    assert "manifest/objects/pushed" not in listed(url)
    assert push(run, url).sent == 0


def test_what_is_there_with_another_size_or_checksum_is_sent_again(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_BATCH", 10)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        passed = cut(patch, after=25)
        push(run, url, jobs=1)
    filesystem, base = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(f"{base}/{passed[0]}", b"short")
    journal = f"{base}/manifest/objects/pushed"
    text = filesystem.cat_file(journal).decode()
    crc = Source(run).read("manifest/objects")[:, 4]
    known = next(str(value) for value in crc if f", {value}]" in text and f'"{passed[0]}": [' in text)
    filesystem.pipe_file(journal, text.replace(f", {known}]", f", {int(known) ^ 1}]", 1).encode())
    assert push(run, url).kept in (18, 19)
    assert verify(url, full=True).findings == []


def test_a_run_that_goes_on_is_brought_up_to_date(url: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    size = 1_200_000  # smaller ones would share a file, which is sent again
    declare(writer, size)
    for step in range(3):
        put(writer, step, size=size)
        put_row(writer, step)
    writer.flush()
    assert push(writer.path, url).sent == 3
    put(writer, 3, size=size)
    put_row(writer, 3)
    writer.close()
    moved = push(writer.path, url)
    assert (moved.sent, moved.kept) == (1, 3)
    with tracer.open(url) as archive:
        assert (archive.state, archive.snapshots.tolist()) == ("complete", [0, 1, 2, 3])


def test_another_archive_is_only_replaced_on_demand(run: Path, url: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "other.zarr", steps=(0, 1))
    push(tmp_path / "other.zarr", url)
    with pytest.raises(ArchiveError, match=r"another run is at .*overwrite=True"):
        push(run, url)
    push(run, url, overwrite=True)
    assert verify(url, full=True).findings == []
    with pytest.raises(ArchiveError, match="this run in another form or state is at"):
        push(pack(run, tmp_path / "packed.zarr"), url)


def test_something_else_is_never_touched(run: Path, url: str) -> None:
    filesystem, base = fsspec.core.url_to_fs(url)
    filesystem.makedirs(base, exist_ok=True)
    filesystem.pipe_file(f"{base}/zarr.json", b'{"zarr_format":3}')
    with pytest.raises(ArchiveError, match="something else is at"):
        push(run, url, overwrite=True)
    assert filesystem.cat_file(f"{base}/zarr.json") == b'{"zarr_format":3}'


def test_a_damaged_archive_is_not_published(run: Path, url: str, tmp_path: Path) -> None:
    path = Path(shutil.copytree(run, tmp_path / "damaged.zarr"))
    file = path / "gram" / "gram" / "c.2.0.0.0"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArchiveError, match=r"'gram/gram/c.2.0.0.0' is damaged or lost here"):
        push(path, url)
    with pytest.raises(ArchiveError):
        tracer.open(url)


def test_pull_goes_on_after_a_break_and_checks_what_arrives(run: Path, url: str, tmp_path: Path) -> None:
    push(run, url)
    filesystem, base = fsspec.core.url_to_fs(url)
    place = f"{base}/gram/gram/c.2.0.0.0"
    whole = filesystem.cat_file(place)
    filesystem.pipe_file(place, whole[:-1] + b"\0")
    with pytest.raises(ArchiveError, match=r"'gram/gram/c.2.0.0.0' of .* is damaged"):
        pull(url, tmp_path / "back.zarr", jobs=1)
    assert not (tmp_path / "back.zarr").exists()
    filesystem.pipe_file(place, whole)
    some = tmp_path / "back.zarr.part" / "network" / "table_0" / "c.0"
    some.write_bytes(b"damaged here")
    moved = pull(url, tmp_path / "back.zarr")
    assert moved.sent >= 2
    assert same(tmp_path / "back.zarr", run)
    assert not (tmp_path / "back.zarr.part").exists()
    with pytest.raises(ArchiveError, match="exists already"):
        pull(url, tmp_path / "back.zarr")


def test_nothing_there(url: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive at"):
        pull(url, tmp_path / "back.zarr")
    with pytest.raises(ArchiveError, match="no file at"):
        pull(url + ".zip", tmp_path / "back.zip")
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_here_is_pushed(run: Path, url: str) -> None:
    push(run, "memory://elsewhere/run.zarr")
    assert tracer.open("memory://elsewhere/run.zarr").state == "complete"
    with pytest.raises(ArchiveError, match="is not on this machine"):
        push("memory://elsewhere/run.zarr", url)
