"""Push and pull where something is there already, or nothing can be: no mixtures, nothing lost, one sentence."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

import tracer
from tests.recording import declare, put, put_row
from tests.synthetic import write_archive
from tests.tracer.share.test_remote import Broken, listed, run, same, url
from tracer.archive.listing import archives_and_links
from tracer.errors import ArchiveError
from tracer.recovery.resume import resume
from tracer.share import sending
from tracer.share.packs import pack
from tracer.share.remote import pull, push
from tracer.verify import verify
from tracer.writer import Writer

__all__ = ["run", "url"]  # fixtures


# ---- a root never stands for other numbers ----


def small(path: Path, steps: range, **options: Any) -> Path:
    """A run all of whose objects may still change."""
    writer = Writer(path, attributes={}, **options)
    declare(writer, 4)
    for step in steps:
        put(writer, step, size=4)
        put_row(writer, step)
    writer.close()
    return path


def resumed(path: Path, step: int) -> None:
    """Go on after a step, with other numbers."""
    writer = resume(path, step=step)
    for later in (step + 1, step + 2):
        put(writer, later + 100, size=4)
        put_row(writer, later + 100)
    writer.close()


def root_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything through but the root."""
    put_ = sending.Sending._put

    def limited(self: Any, key: str, data: bytes) -> None:
        if key == "zarr.json":
            raise Broken
        put_(self, key, data)

    monkeypatch.setattr(sending.Sending, "_put", limited)


def test_a_resumed_run_is_never_seen_under_its_old_root(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "run.zarr", range(4))
    push(path, url)
    resumed(path, 1)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        root_cut(patch)
        push(path, url)
    with pytest.raises(ArchiveError, match=r"no archive at|not an archive"):
        tracer.open(url)
    push(path, url)
    assert verify(url, full=True).findings == []
    assert same(url, path)


def test_a_run_that_went_on_stays_readable_meanwhile(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "run.zarr", range(4))
    push(path, url)
    resumed(path, 3)  # nothing of what was pushed is dropped
    with monkeypatch.context() as patch, pytest.raises(Broken):
        root_cut(patch)
        push(path, url)
    with tracer.open(url) as archive:
        assert archive.snapshots.tolist() == [0, 1, 2, 3]
    push(path, url)
    assert verify(url, full=True).findings == []


def test_an_older_state_or_another_form_replaces_nothing_unasked(url: str, tmp_path: Path) -> None:
    path = small(tmp_path / "run.zarr", range(4))
    older = Path(shutil.copytree(path, tmp_path / "older.zarr"))
    resumed(path, 3)
    push(path, url)
    for other in (older, pack(path, tmp_path / "packed.zarr")):
        with pytest.raises(ArchiveError, match="this run in another form or state is at"):
            push(other, url)
    assert same(url, path)
    push(older, url, overwrite=True)
    assert verify(url, full=True).findings == []
    assert same(url, older)


def test_damage_of_what_may_still_change_is_not_published(url: str, tmp_path: Path) -> None:
    path = small(tmp_path / "run.zarr", range(4))
    push(path, url)
    damaged = Path(shutil.copytree(path, tmp_path / "damaged.zarr"))
    file = damaged / "steps" / "loss" / "c.0"
    file.write_bytes(file.read_bytes()[:3] + b"?" + file.read_bytes()[4:])
    for overwrite in (False, True):
        with pytest.raises(ArchiveError, match=r"'steps/loss/c.0' is damaged here"):
            push(damaged, url, overwrite=overwrite)
    assert same(url, path)


# ---- what is left of a break ----


def test_what_is_left_of_a_push_of_another_run_is_no_part_of_this(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = small(tmp_path / "one.zarr", range(4)), tmp_path / "two.zarr"
    write_archive(two)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        root_cut(patch)
        push(two, url)
    with pytest.raises(ArchiveError, match=r"what is left of a push of another run is at .*overwrite=True"):
        push(one, url)
    push(one, url, overwrite=True)
    assert verify(url, full=True).findings == []
    assert listed(url) == {str(file.relative_to(one)) for file in one.rglob("*") if file.is_file()}


def test_what_a_push_that_broke_off_sent_too_much_goes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.zarr"
    write_archive(path)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        root_cut(patch)
        push(path, url)
    part = pack(path, tmp_path / "part.zarr", probes=["test"])
    push(part, url)
    assert verify(url, full=True).findings == []
    assert same(url, part)


def test_a_place_with_something_in_it_is_left_alone(run: Path, url: str) -> None:
    filesystem, base = fsspec.core.url_to_fs(url)
    filesystem.makedirs(base, exist_ok=True)
    filesystem.pipe_file(f"{base}/thesis.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(ArchiveError, match="something else is at"):
            push(run, url, overwrite=overwrite)
    assert listed(url) == {"thesis.txt"}


def test_of_a_place_with_very_much_in_it_the_first_is_enough(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "notes.txt").touch()
    looked: list[str] = []
    filesystem = type(fsspec.core.url_to_fs("file://x")[0])
    inside = filesystem.ls
    monkeypatch.setattr(
        filesystem, "ls", lambda self, path, **how: looked.append(path) or inside(self, path, **how)
    )
    with pytest.raises(ArchiveError, match="something else is at"):
        push(run, str(tmp_path / "home"))
    assert looked and not any("deep" in path for path in looked)


def test_a_journal_that_cannot_be_read_is_a_sentence(run: Path, url: str) -> None:
    filesystem, base = fsspec.core.url_to_fs(url)
    filesystem.makedirs(f"{base}/manifest/objects", exist_ok=True)
    filesystem.pipe_file(f"{base}/manifest/objects/pushed", b"{")
    with pytest.raises(ArchiveError, match="what is left of a push of another run"):
        push(run, url)
    push(run, url, overwrite=True)
    assert verify(url).findings == []


def half_pulled(archive: Path, target: Path) -> Path:
    part = target.with_name(f"{target.name}.part")
    shutil.copytree(archive, part)
    (part / "zarr.json").unlink()
    return part


def test_what_is_left_of_a_pull_of_another_archive_goes(run: Path, tmp_path: Path) -> None:
    other, target = small(tmp_path / "other.zarr", range(4)), tmp_path / "back.zarr"
    half_pulled(run, target)
    pull(str(other), target)
    assert verify(target, full=True).findings == []
    assert same(target, other)


@pytest.mark.parametrize("left", ["file", "foreign", "archive"])
def test_what_no_pull_left_is_not_touched(left: str, run: Path, tmp_path: Path) -> None:
    target = tmp_path / "back.zarr"
    place = part = tmp_path / "back.zarr.part"
    if left == "file":
        part.write_text("mine")
    elif left == "foreign":
        place = half_pulled(run, target) / "thesis.txt"
        place.write_text("mine")
    else:
        place = small(part, range(2)) / "zarr.json"
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(ArchiveError, match=rf"{place}' is in the way .* move it away"):
        pull(str(run), target)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


# ---- places that are none ----


@pytest.mark.parametrize("url", ["", "/", "file://", "memory:///"])
def test_a_url_that_names_no_place(
    url: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchiveError, match="names no place"):
        push(run, url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["foo://x", "github://x"])
def test_a_url_that_nothing_takes(url: str, run: Path) -> None:
    for call in (lambda: push(run, url), lambda: tracer.open(url), lambda: archives_and_links(url)):
        with pytest.raises(ArchiveError, match=f"cannot read '{url}"):
            call()


def test_what_a_file_system_refuses_is_a_sentence(
    run: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, url)
    filesystem = fsspec.core.url_to_fs(url)[0]

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Unable to locate\ncredentials")

    for name in ("exists", "find", "cat_file"):
        monkeypatch.setattr(type(filesystem), name, refuse)
    calls = [lambda: push(run, url)]
    if url.startswith("memory"):
        calls.append(lambda: archives_and_links(url))
    for call in calls:
        with pytest.raises(ArchiveError, match=r"^cannot (list|read) '.*': Unable to locate credentials$"):
            call()


def test_a_full_disk_is_a_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sending, "write_all", full)
    with pytest.raises(
        ArchiveError, match=r"cannot write to '.*there.zarr': No space left on device; push again"
    ):
        push(run, str(tmp_path / "there.zarr"))


def test_an_archive_is_not_pushed_onto_or_into_itself(run: Path, tmp_path: Path) -> None:
    outer = Path(shutil.copytree(run, tmp_path / "outer.zarr"))
    inner = Path(shutil.copytree(run, outer / "inner.zarr"))
    zipped = pack(run, tmp_path / "run.zip", zip=True)
    for local, place in ((outer, outer), (outer, outer / "other.zarr"), (inner, outer), (zipped, zipped)):
        with pytest.raises(ArchiveError, match="is the archive itself, or one lies in the other"):
            push(local, str(place), overwrite=True)
    assert same(inner, run)


def test_an_unknown_protocol_is_no_damage(run: Path) -> None:
    for act in (tracer.open, verify, lambda url: push(run, url)):
        with pytest.raises(ArchiveError, match="nothing here reads nowhere://, but for instance https://"):
            act("nowhere://there/run.zarr")
