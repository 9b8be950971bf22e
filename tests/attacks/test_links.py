"""Links, second names and pipes planted anywhere in an archive: whatever changes it touches nothing outside."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.damage import below, copied
from tests.recording import declare, put, put_row
from tracer.errors import ArchiveError, RecordError
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.share import export_hdf5, import_hdf5, pack, pull, set_attributes, unpack
from tracer.store.files import Directory, Lock
from tracer.writer import Writer

Command = Callable[[Path], object]
Plant = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("links") / "run.zarr"
    writer = Writer(path, attributes={})
    writer.static("probes/p", {"id": np.arange(4)}, {"id": ("example",)}, {"split": "train"})
    declare(writer)
    for step in range(3):
        put(writer, step)
        put_row(writer, step)
    writer.close()
    (path / "manifest" / "objects" / "partial").touch()
    return path


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder."""
    found: dict[str, bytes | str] = {}
    for name, entry in below(folder):
        if entry.is_symlink():
            found[name] = f"link to {Path(entry).readlink()}"
        elif entry.is_file():
            found[name] = Path(entry).read_bytes()
        else:
            found[name] = "folder" if entry.is_dir() else "no file"
    return found


def go_on(path: Path) -> None:
    writer = resume(path, step=1)
    put(writer, 2)
    put_row(writer, 2)
    writer.mark_epoch_end(2)
    writer.close()


def record_over(path: Path) -> None:
    Writer(path, attributes={}).close()


def pack_and_unpack(path: Path) -> None:
    pack(path)
    unpack(path)


COMMANDS: list[Command] = [
    go_on,
    record_over,
    repair,
    pack_and_unpack,
    lambda path: set_attributes(path, {"licence": "CC0-1.0"}),
]


def link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def second_name(place: Path, victim: Path) -> None:
    os.link(victim, place)


def pipe(place: Path, victim: Path) -> None:
    os.mkfifo(place)


PLANTS = [link, second_name, pipe]
BESIDE = [f"run.zarr.{ending}" for ending in ("lock", "part", "cut-1")]
BESIDE += [f".run.zarr.01234567.{ending}" for ending in ("part", "original")]


@pytest.fixture
def other(small: Path, tmp_path: Path) -> Path:
    """A folder with another archive, and what may lie beside one."""
    folder = copied(small, tmp_path / "other" / "run.zarr").parent
    for name in BESIDE:
        if name.endswith(("part", "original")):
            shutil.copytree(small, folder / name)
        else:
            (folder / name).write_text("mine")
    return folder


def planted(small: Path, scratch: Path, other: Path, plant: Plant, every: int) -> Iterator[tuple[str, Path]]:
    """(what, archive): components of the archive in turn replaced by what leads to the other archive.

    All beside it, and one of so many inside, others for each kind of plant.
    """
    inside = [f"run.zarr/{file.relative_to(small)}" for file in sorted(small.rglob("*"))]
    for number, name in enumerate([*BESIDE, *inside[PLANTS.index(plant) :: every]]):
        victim = other / name
        if plant is not link and not victim.is_file():
            continue
        place = scratch / str(number)
        copied(small, place / "run.zarr")
        target = place / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        plant(target, victim)
        yield name, place / "run.zarr"
        shutil.rmtree(place)


@pytest.mark.parametrize("command", COMMANDS, ids=["resume", "record", "repair", "pack", "attributes"])
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_nothing_outside_is_touched(
    small: Path, other: Path, tmp_path: Path, command: Command, plant: Plant, every: int
) -> None:
    before, n = contents(other), 0
    for name, path in planted(small, tmp_path, other, plant, every):
        with suppress(ArchiveError):  # one sentence, or it is done without following
            command(path)
        assert contents(other) == before, name
        n += 1
    assert n > 10 // every + 2


def test_a_link_to_a_file_that_is_not_there_makes_none(small: Path, tmp_path: Path) -> None:
    path = copied(small, tmp_path / "run.zarr")
    for name in ("run.zarr.lock", "run.zarr/manifest/objects/partial"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
        for command in COMMANDS:
            with suppress(ArchiveError):
                command(path)
            assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "new.zarr").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match="exists already"):
        record_over(tmp_path / "new.zarr")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("pairs", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["some", "all"])
def test_targets_of_copies(small: Path, tmp_path: Path, pairs: bool) -> None:
    """What was planted where a new archive or file is first written loses its name, or the command refuses.

    By default each command meets each place, and each kind of target each command and each place.
    """
    h5 = export_hdf5(small, tmp_path / "run.h5")
    packed = pack(small, tmp_path / "run.zip", zip=True)
    victim = tmp_path / "victim"
    commands: list[tuple[str, Command]] = [
        ("a.zarr", lambda to: pack(small, to)),
        ("b.zarr", lambda to: unpack(packed, to)),
        ("c.zarr", lambda to: pull(f"file://{small}", to)),
        ("d.zip", lambda to: pack(small, to, zip=True)),
        ("e.h5", lambda to: export_hdf5(small, to)),
        ("f.zarr", lambda to: import_hdf5(h5, to)),
    ]
    for k, (name, command) in enumerate(commands):
        hidden = f".{name}.01234567.part"
        places = (f"{name}.part", hidden, f"{hidden}.part", f"{name}.lock", name)
        for place_number, planted_at in enumerate(places):
            for number, kind in enumerate(("folder", "file", "nothing")):
                if pairs and (k + place_number) % 3 != number:
                    continue
                place = tmp_path / "out"
                shutil.rmtree(place, ignore_errors=True)
                shutil.rmtree(victim, ignore_errors=True)
                place.mkdir()
                victim.mkdir()
                (victim / "file").write_text("mine")
                goal = {"folder": victim, "file": victim / "file", "nothing": victim / "none"}[kind]
                (place / planted_at).symlink_to(goal)
                with suppress(ArchiveError):
                    command(place / name)
                assert contents(victim) == {"file": b"mine"}, (name, planted_at, kind)


def test_a_rank_s_archive_behind_a_link_is_not_written(small: Path, tmp_path: Path) -> None:
    run, other = copied(small, tmp_path / "run.zarr"), copied(small, tmp_path / "other.zarr")
    copied(small, other / "ranks" / "1")
    (run / "ranks").symlink_to(other / "ranks")
    before = contents(other)
    for command in COMMANDS:
        for rank in (1, 2):
            with pytest.raises((ArchiveError, RecordError)):
                command(run / "ranks" / str(rank))
    assert contents(other) == before


def test_a_lock_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.lock")
    (tmp_path / "b.lock").symlink_to(tmp_path / "none")
    (tmp_path / "c.lock").mkdir()
    for name in "abc":
        with pytest.raises(ArchiveError, match="is a link or no ordinary file; remove it"):
            Lock(tmp_path / name)


def test_a_link_to_the_archive_itself_is_the_archive(small: Path, tmp_path: Path) -> None:
    """Under either name there is one lock, so two never write at once; the link stays what it is."""
    path = copied(small, tmp_path / "run.zarr")
    (tmp_path / "latest.zarr").symlink_to(path)
    set_attributes(tmp_path / "latest.zarr", {"licence": "CC0-1.0"})
    writer = resume(tmp_path / "latest.zarr")
    for name in ("run.zarr", "latest.zarr"):
        with pytest.raises(ArchiveError, match="another process is writing"):
            set_attributes(tmp_path / name, {"licence": "none"})
    writer.close()
    pack(tmp_path / "latest.zarr")
    assert (tmp_path / "latest.zarr").is_symlink() and path.is_dir()
    assert {item.name for item in tmp_path.iterdir()} == {"run.zarr", "latest.zarr"}


def test_files_of_a_directory_are_new_each_time(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "a")
    directory.publish_text("x/y", "1")
    os.link(tmp_path / "a" / "x" / "y", tmp_path / "held")
    directory.publish_text("x/y", "2")
    assert (tmp_path / "held").read_text() == "1" and (tmp_path / "a" / "x" / "y").read_text() == "2"
    assert stat.S_ISREG((tmp_path / "a" / "x" / "y").lstat().st_mode)
