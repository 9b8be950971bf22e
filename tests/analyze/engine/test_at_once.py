"""Two at once at one place, one that was killed, and places where nothing can be written: one sentence each."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import analyze
import cli
from tests.damage import copied, files_of
from tests.synthetic import write_archive
from tracer.errors import ArchiveError
from tracer.recorder.place import clear
from tracer.recovery.repair import repair
from tracer.share import pack, set_attributes, unpack
from tracer.store import files
from tracer.store.files import Lock, claimed, write_whole
from tracer.verify import verify

pytestmark = pytest.mark.usefixtures("undrawn")
METRICS = ["generalization", "margin"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("once") / "run.zarr"
    write_archive(path, steps=(0, 1, 2))
    return path


@pytest.fixture
def run(small: Path, tmp_path: Path) -> Path:
    return copied(small, tmp_path / "run.zarr")


def said(*arguments: str) -> str:
    """What the command line says of a refusal: one sentence, and no traceback."""
    done = CliRunner().invoke(cli.main, list(arguments))
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output and len(done.output.strip().splitlines()) == 1, done.output
    return done.output


# ---- two at once ----

COMMANDS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "analysis": ("run.analysis", lambda run, to: analyze.run(run, METRICS, output=to)),
    "saved results": ("run.analysis", lambda run, to: analyze.run(run, METRICS).save(to)),
    "pack in place": ("run.zarr", lambda run, to: pack(run)),
    "pack elsewhere": ("other.zarr", lambda run, to: pack(run, to)),
    "packing one that is being written": ("run.zarr", lambda run, to: pack(run, to.with_name("other.zarr"))),
    "zip": ("run.zip", lambda run, to: pack(run, to, zip=True)),
    "unpack": ("other.zarr", lambda run, to: unpack(run, to)),
    "attributes": ("run.zarr", lambda run, to: set_attributes(run, {"licence": "CC0-1.0"})),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_of_two_is_refused_and_leaves_nothing(run: Path, name: str) -> None:
    place, command = COMMANDS[name]
    target = run.with_name(place)
    other = Lock(target)  # as another process holds it
    before = files_of(run.parent)
    with pytest.raises(
        ArchiveError, match=r"another process is writing '[^']*'; wait for it to end or choose"
    ):
        command(run, target)
    assert files_of(run.parent) == before
    other.release()
    command(run, target)
    assert not target.with_name(f"{place}.lock").exists()
    assert verify(run, full=True).ok


def test_a_second_comparison_is_refused_and_leaves_the_first(run: Path, tmp_path: Path) -> None:
    copied(run, tmp_path / "more.zarr")
    comparison = analyze.compare([run, tmp_path / "more.zarr"], measures=["generalization"], bootstrap=0)
    folder = comparison.save(tmp_path / "compared")
    before = {name: (folder / name).read_bytes() for name in files_of(folder)}
    other = Lock(folder)
    with pytest.raises(ArchiveError, match="another process is writing"):
        comparison.save(folder)
    other.release()
    analysis = Lock(run.with_suffix(".analysis"))
    with pytest.raises(ArchiveError, match="another process is writing"):
        analyze.compare([run, tmp_path / "more.zarr"], measures=["margin"], bootstrap=0)
    analysis.release()
    assert {name: (folder / name).read_bytes() for name in files_of(folder)} == before


def test_the_command_line_says_so_in_one_sentence(run: Path) -> None:
    for place, arguments in (
        ("run.analysis", ("analyze", str(run), "-m", "generalization")),
        ("run.zarr", ("pack", str(run))),
        ("run.zarr", ("info", str(run), "--set", "licence=CC0-1.0")),
        ("run.zarr", ("verify", str(run), "--repair")),
    ):
        other = Lock(run.with_name(place))
        assert "another process is writing" in said(*arguments)
        other.release()


def test_claims_of_one_thread_are_one(tmp_path: Path) -> None:
    with claimed(tmp_path / "a"), claimed(tmp_path / "b"), claimed(tmp_path / "a"):
        assert (tmp_path / "a.lock").exists()
    assert list(tmp_path.iterdir()) == []
    with claimed(None):
        pass


# ---- one that was killed ----


def test_a_process_that_was_killed_holds_nothing(run: Path, tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with claimed(tmp_path / "run.analysis"):
            Lock(run)
            os.write(tell, b"!")
            signal.pause()
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(ArchiveError, match="another process"), claimed(tmp_path / "run.analysis"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    analyze.run(run, METRICS, output=tmp_path / "run.analysis")
    set_attributes(run, {"licence": "CC0-1.0"})


def test_what_it_left_is_cleared_away(run: Path, tmp_path: Path) -> None:
    """Beside targets of packs, and among the results of an analysis."""
    (tmp_path / ".other.zarr.01234567.part" / "steps").mkdir(parents=True)
    (tmp_path / ".other.zarr.01234567.part" / "steps" / "stray").touch()
    (tmp_path / ".other.zip.89abcdef.part").touch()
    (tmp_path / ".other.zip.89abcdef.part.part").mkdir()
    pack(run, tmp_path / "other.zarr")
    pack(run, tmp_path / "other.zip", zip=True)
    assert {item.name for item in tmp_path.iterdir()} == {"run.zarr", "other.zarr", "other.zip"}
    assert verify(tmp_path / "other.zarr", full=True).ok
    (tmp_path / ".page.html.new").write_text("half")
    write_whole(tmp_path / "page.html", "whole")
    assert (tmp_path / "page.html").read_text() == "whole" and not (tmp_path / ".page.html.new").exists()


def test_a_file_is_as_it_was_until_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "page.html", "old")

    def full(fd: int, buffers: Any) -> int:
        os.write(fd, b"ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "old"


# ---- places where nothing can be written ----


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A folder below which nothing can be made: what `open` and `mkdir` say on a read-only disk."""
    opened, made, folders = os.open, os.mkdir, list[Path]()

    def refused(path: Any, dir_fd: int | None) -> bool:
        where = Path(os.fsdecode(path))
        base = Path.cwd() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        return any((base / where).is_relative_to(folder) for folder in folders)

    def opening(path: Any, flags: int, *rest: Any, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and refused(path, dir_fd):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, dir_fd=dir_fd)

    def making(path: Any, *rest: Any, dir_fd: int | None = None) -> None:
        if refused(path, dir_fd) and not Path(path).exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        made(path, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(files.os, "open", opening)
    monkeypatch.setattr(files.os, "mkdir", making)
    return folders.append


def test_a_read_only_place_is_one_sentence(
    run: Path, tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    results = analyze.run(run, METRICS)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    kept = copied(run, shelf / "run.zarr")
    read_only(shelf)
    before = files_of(tmp_path)
    for refused in (
        lambda: results.save(shelf / "run.analysis"),
        lambda: analyze.run(run, METRICS, output=shelf / "run.analysis"),
        lambda: pack(run, shelf / "packed.zarr"),
        lambda: pack(kept),
        lambda: set_attributes(kept, {"licence": "CC0-1.0"}),
        lambda: repair(kept),
        lambda: clear(kept),
    ):
        with pytest.raises(ArchiveError, match=r"cannot write .*: Read-only file system"):
            refused()
    assert "what was recorded is as it was" in said("verify", str(kept), "--repair")
    assert "Read-only file system" in said("analyze", str(kept), "-m", "generalization")
    assert files_of(tmp_path) == before
    pack(kept, tmp_path / "packed.zarr")  # to read there is enough
    assert verify(tmp_path / "packed.zarr", full=True).ok
