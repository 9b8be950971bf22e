"""What lies beside an archive belongs to whoever put it there: only names of our own are cleared away."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.recording import declare, put, put_row
from tracer.share import export_hdf5, import_hdf5, pack, unpack
from tracer.store.files import Lock
from tracer.verify import verify
from tracer.writer import Writer, place
from tracer.writer.place import fresh, settled


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    writer = Writer(tmp_path_factory.mktemp("place") / "run.zarr", attributes={})
    declare(writer)
    for step in range(3):
        put(writer, step)
        put_row(writer, step)
    writer.close()
    return writer.path


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (shutil.copytree, pack),
        (shutil.copytree, unpack),
        (lambda run, to: pack(run, to, zip=True), unpack),
        (shutil.copytree, export_hdf5),
        (export_hdf5, import_hdf5),
    ],
    ids=["pack", "unpack", "unzip", "export", "import"],
)
def test_a_source_that_is_called_part_stays(
    small: Path, tmp_path: Path, make: Callable[[Path, Path], object], command: Callable[[Path, Path], object]
) -> None:
    source = tmp_path / "a.part"
    make(small, source)
    command(source, tmp_path / "a")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "a.part"]
    if command is not export_hdf5:
        assert verify(tmp_path / "a", full=True).ok


def test_what_others_put_beside_a_target_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system can: exchange two names at once, or not."""
    theirs = ["a.part", "a.original", ".a.part", ".a.original", ".ab.01234567.part", ".a.mine.part"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "note").write_text("mine")
    assert settled(tmp_path / "a") == tmp_path / "a"  # and no original of that name is taken for ours
    for unable in (False, True):
        if unable:
            monkeypatch.setattr(place, "_renameat2", lambda *_: False)
        for content in ("old", "new"):
            with fresh(tmp_path / "a", replace=True) as part:
                part.mkdir()
                (part / "text").write_text(content)
        assert (tmp_path / "a" / "text").read_text() == "new"
        assert sorted(item.name for item in tmp_path.iterdir()) == sorted(["a", *theirs])
        assert all((tmp_path / name / "note").read_text() == "mine" for name in theirs)


def test_an_exchange_that_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system exchanges no two names at once: the old is there, or the new, after each of the renames."""
    monkeypatch.setattr(place, "_renameat2", lambda *_: False)
    rename = Path.rename
    for number, left in enumerate(["old", "old", "new"]):
        folder = tmp_path / str(number)
        for name, text in (("a", "old"), ("b", "new")):
            (folder / name).mkdir(parents=True)
            (folder / name / "text").write_text(text)
        renames = iter(range(number))

        def cut_off(one: Path, other: Path, renames: Iterator[int] = renames) -> Path:
            if next(renames, None) is None:
                raise KeyboardInterrupt
            return rename(one, other)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "rename", cut_off)
            place.exchange(folder / "b", folder / "a")
        assert (settled(folder / "a") / "text").read_text() == left
        with fresh(folder / "a", replace=True):
            pass
        assert {item.name for item in folder.iterdir()} <= {"a", "b"}


def test_a_file_that_is_no_lock_of_ours_stays(tmp_path: Path) -> None:
    pins = tmp_path / "poetry.lock"
    pins.write_text("all my pins")
    lock = Lock(tmp_path / "poetry")
    lock.release()
    assert pins.read_text() == "all my pins"
    pins.write_text("")
    lock = Lock(tmp_path / "poetry")
    pins.unlink()
    pins.touch()  # by someone else
    lock.release()
    assert pins.exists()
