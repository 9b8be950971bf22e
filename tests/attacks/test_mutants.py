"""HDF5 and zip files with bytes exchanged at random: each is read rightly, or refused in one sentence."""

import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import tracer
from tests.attacks.hostile import bounded, look_at
from tests.damage import files_of
from tests.synthetic import write_archive
from tracer.errors import ArchiveError, MissingTraceError
from tracer.share import hdf5_content
from tracer.share.hdf5 import export_hdf5, import_hdf5
from tracer.store.zip_writer import write_zip
from tracer.verify import verify

MANY = [
    pytest.param(12, id="some"),
    pytest.param(20_000, id="very many", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutants")
    write_archive(folder / "run.zarr", steps=(0, 1), probes={"train": 6}, gram=False)
    export_hdf5(folder / "run.zarr", folder / "run.h5")
    write_zip(folder / "run.zarr", folder / "run.zip")
    return folder


def mutant(data: bytes, rng: random.Random, near: int) -> bytes:
    """A few bytes changed, half of them within the last ``near``, or anywhere."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(made)) if rng.random() < 0.5 else len(made) - 1 - rng.randrange(near)
        n = rng.choice([1, 1, 2, 4, 8])
        match rng.randrange(4):
            case 0:
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                made[at : at + n] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * n
            case 2:
                made[at : at + n] = rng.randbytes(n)
            case 3:
                del made[at : at + n]
    return bytes(made)


# ---- zip files ----


@pytest.mark.parametrize("n", MANY)
def test_zip_files(made: Path, tmp_path: Path, n: int) -> None:
    data, rng = (made / "run.zip").read_bytes(), random.Random(7)
    with zipfile.ZipFile(made / "run.zip") as file:
        near = len(data) - file.start_dir
    with tracer.open(made / "run.zip") as sound:
        wanted = sound.weights(1)
    target, seen = tmp_path / "run.zip", Counter[str]()
    for _ in range(n):
        target.write_bytes(mutant(data, rng, near))
        with bounded():
            try:
                with tracer.open(target) as archive:
                    weights = archive.weights(1)
                assert all(np.array_equal(weights[name], values) for name, values in wanted.items())
                seen["read"] += 1
            except (ArchiveError, MissingTraceError) as error:
                assert "\n" not in str(error)
                seen["refused"] += 1
            assert not verify(target, full=True).ok or target.read_bytes() == data
    assert seen["refused"] > n // 4
    assert files_of(tmp_path) == ["run.zip"]


def crafted(made: Path, target: Path, change: Callable[[zipfile.ZipFile, bytearray], bytes | None]) -> Path:
    data = bytearray((made / "run.zip").read_bytes())
    with zipfile.ZipFile(made / "run.zip") as file:
        target.write_bytes(change(file, data) or data)
    return target


def entry(data: bytearray, name: str) -> int:
    """Where the list of members has this one."""
    return data.rindex(name.encode()) - 46


OBJECT = "probes/train/inputs/c.0.0"


def put(data: bytearray, at: int, value: int, n: int) -> None:
    data[at : at + n] = value.to_bytes(n, "little")


ZIPS: dict[str, Callable[[zipfile.ZipFile, bytearray], bytes | None]] = {
    "a size in the list": lambda _, d: put(d, entry(d, OBJECT) + 24, 1 << 30, 4),
    "both sizes in the list": lambda _, d: put(d, entry(d, OBJECT) + 20, 5000 << 32 | 5000, 8),
    "a size in the header": lambda f, d: put(d, f.getinfo(OBJECT).header_offset + 18, 9, 4),
    "a checksum in the list": lambda _, d: put(d, entry(d, OBJECT) + 16, 1, 4),
    "a name in the header": lambda f, d: put(d, f.getinfo(OBJECT).header_offset + 30, 0x2F2E2E, 3),
    "encryption in the list": lambda _, d: put(d, entry(d, OBJECT) + 8, 1, 2),
    "encryption in the header": lambda f, d: put(d, f.getinfo(OBJECT).header_offset + 6, 1, 2),
    "bzip2": lambda _, d: put(d, entry(d, OBJECT) + 10, 12, 2),
    "lzma": lambda _, d: put(d, entry(d, OBJECT) + 10, 14, 2),
    "deflate where nothing is": lambda _, d: put(d, entry(d, OBJECT) + 10, 8, 2),
    "a member within another": lambda f, d: put(d, entry(d, OBJECT) + 42, f.getinfo("zarr.json").header_offset + 8, 4),
    "a member beyond the end": lambda _, d: put(d, entry(d, OBJECT) + 42, len(d) - 40, 4),
    "a wide size that is not there": lambda _, d: put(d, entry(d, OBJECT) + 24, 0xFFFFFFFF, 4),
    "members beyond counting": lambda _, d: put(d, len(d) - 14, 0xFFFF, 2),
    "a list beyond the end": lambda _, d: put(d, len(d) - 10, 0xFFFFFFF0, 4),
    "another disk": lambda _, d: put(d, len(d) - 18, 7, 2),
    "bytes before it": lambda _, d: b"#!/bin/sh\n" + bytes(d),
    "bytes after it": lambda _, d: bytes(d) + b"more",
}  # fmt: skip


@pytest.mark.parametrize("how", ZIPS)
def test_headers_made_to_harm(made: Path, tmp_path: Path, how: str) -> None:
    path = crafted(made, tmp_path / "run.zip", ZIPS[how])
    with bounded(1 << 28):
        try:
            look_at(path)
        except (ArchiveError, MissingTraceError) as error:
            assert "\n" not in str(error)
        assert not verify(path, full=True).ok
    assert files_of(tmp_path) == ["run.zip"]


# ---- HDF5 ----

CHILD = """
import json, os, random, resource, shutil, sys
from pathlib import Path
from tests.attacks.test_mutants import mutant
from tracer.errors import ArchiveError
from tracer.share.confined import limit
from tracer.share.hdf5 import write_archive
source, folder, n = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
data, rng, seen = source.read_bytes(), random.Random(11), {}
for number in range(n):
    (folder / "mutant.h5").write_bytes(mutant(data, rng, len(data) // 2))
    child = os.fork()
    if child == 0:
        limit(10)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            (folder / "out.zarr").mkdir()
            write_archive(str(folder / "mutant.h5"), str(folder / "out.zarr"))
            end = 0
        except ArchiveError as error:
            end = 1 if chr(10) not in str(error) else 3
        except BaseException:
            end = 2
        os._exit(end)
    status = os.waitpid(child, 0)[1]
    end = "died" if os.WIFSIGNALED(status) else ["read", "refused", "raised", "two lines"][os.WEXITSTATUS(status)]
    seen[end] = seen.get(end, 0) + 1
    shutil.rmtree(folder / "out.zarr", ignore_errors=True)
print(json.dumps(seen))
"""


@pytest.mark.parametrize("n", MANY)
def test_hdf5_files(made: Path, tmp_path: Path, n: int) -> None:
    """Each in a process of its own, as `import_hdf5` has it: the library that reads HDF5 dies of some."""
    arguments = [sys.executable, "-c", CHILD, str(made / "run.h5"), str(tmp_path), str(n)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    seen = json.loads(done.stdout)
    assert seen.keys() <= {"read", "refused", "died"}
    assert seen["refused"] > n // 2


# The least time that the system takes away is a second.
@pytest.mark.parametrize("fate", ["abort", pytest.param("endless", marks=pytest.mark.slow)])
def test_a_process_that_dies_is_one_sentence(
    fate: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.attacks import victims
    from tracer.share import hdf5

    monkeypatch.setattr(hdf5, "write_archive", getattr(victims, fate))
    monkeypatch.setattr(hdf5, "_SECONDS", 0.0)  # to which a second is added
    with pytest.raises(ArchiveError, match=r"(ended the process|took longer).*nothing was kept") as caught:
        import_hdf5(made / "run.h5", tmp_path / "out.zarr")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def changed(made: Path, tmp_path: Path, change: Callable[[h5py.File], object]) -> Path:
    path = Path(shutil.copyfile(made / "run.h5", tmp_path / "run.h5"))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def loop(file: h5py.File) -> None:
    file["probes/train/back"] = file["/"]


def twice(file: h5py.File) -> None:
    file["probes/train/again"] = file["weights/float32"]


def soft(file: h5py.File) -> None:
    file["probes/train/soft"] = h5py.SoftLink("/weights/float32")


def deep(file: h5py.File) -> None:
    file.create_group("/".join("abcdefghijklmnopqrst"))


def replaced(name: str, *shape: int, **options: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        labels = [dim.label for dim in file[name].dims]
        del file[name]
        made = file.create_dataset(name, shape, "f4", **options)
        for dim, label in zip(made.dims, labels, strict=True):
            dim.label = label

    return change


def compressed_much(file: h5py.File) -> None:
    """One chunk of a mebibyte whose bytes unpack to 64."""
    import zlib

    replaced("weights/float32", 2, 1 << 18, chunks=(1, 1 << 18), compression="gzip")(file)
    packer = zlib.compressobj(9)
    data = b"".join([*(packer.compress(bytes(1 << 24)) for _ in range(4)), packer.flush()])
    for row in range(2):
        file["weights/float32"].id.write_direct_chunk((row, 0), data)


def many_attributes(file: h5py.File) -> None:
    file["steps"].attrs["long"] = np.zeros(1 << 16)


def deep_json(file: h5py.File) -> None:
    file.attrs["sites"] = "[" * 100_000 + "]" * 100_000


def no_rows(file: h5py.File) -> None:
    file.attrs["tracer"] = json.dumps({"format": "tracer", "rows": 3})


FILES: dict[str, Callable[[h5py.File], object]] = {
    "a group that is its own parent": loop,
    "one array under two names": twice,
    "a soft link": soft,
    "groups within groups": deep,
    "a grid beyond counting": replaced("weights/float32", 2, 1 << 45, chunks=(1, 1 << 10)),
    "values that are nowhere": replaced("weights/float32", 2, 59, chunks=(1, 59)),
    "values that are nowhere, in one": replaced("weights/float32", 2, 59),
    "chunks beyond memory": replaced("weights/float32", 2, 1 << 28, chunks=(1, 1 << 28)),
    "another filter": replaced("weights/float32", 2, 59, chunks=(1, 59), compression="lzf"),
    "rows beyond counting": replaced("weights/float32", 1 << 40, 0),
    "bytes that unpack to very much": compressed_much,
    "an attribute that is an array": many_attributes,
    "JSON that is nested too deep": deep_json,
    "a commit record without rows": no_rows,
    "a rank that is none": lambda file: file["ranks"].create_group("999999999999999999999"),
    "a rank in other digits": lambda file: file["ranks"].create_group("\N{ARABIC-INDIC DIGIT ONE}"),
    "a type with a name": lambda file: file.__setitem__("steps/kind", np.dtype("f8")),
}


@pytest.mark.parametrize("how", FILES)
def test_hdf5_made_to_harm(made: Path, tmp_path: Path, how: str) -> None:
    path = changed(made, tmp_path, FILES[how])
    with bounded(1 << 28), h5py.File(path) as file, pytest.raises(ArchiveError) as caught:
        hdf5_content.contents_of(file, path)
    assert "\n" not in str(caught.value)
