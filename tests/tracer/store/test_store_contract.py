"""What every store holds to: directory, zip file, URL, and the one that the guide adds."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import tests
import tracer
from tests.damage import files_of, objects_of
from tests.synthetic import write_archive
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.content import ArchiveContent, difference
from tracer.share.hdf5 import export_hdf5
from tracer.share.packs import pack
from tracer.store.store import ROOT, Store
from tracer.store.stores import KINDS, DirectoryStore, connect
from tracer.store.urls import UrlStore
from tracer.store.zip_writer import write_zip
from tracer.store.zipped import ZipStore
from tracer.verify import verify

GUIDE = tests.ROOT / "docs" / "add-a-store.md"
Place = Callable[[dict[str, bytes]], str]  # keeps these files as an archive and says where
KIND = {"directory": DirectoryStore, "zip": ZipStore, "url": UrlStore}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contract") / "run.zarr"
    with objects_of(1):
        write_archive(path, steps=(0, 1), probes={"train": 6})
    return path


@pytest.fixture(scope="module")
def whole(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in files_of(run)}


@pytest.fixture(scope="module")
def guide() -> Iterator[dict[str, Any]]:
    """What the first piece of code of the guide defines."""
    code = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[
        0
    ]
    names: dict[str, Any] = {}
    exec(compile(code, str(GUIDE), "exec"), names)
    yield names
    KINDS.remove(names["MemoryStore"])


@pytest.fixture(params=["directory", "zip", "url", "guide"])
def place(request: pytest.FixtureRequest, tmp_path: Path, guide: dict[str, Any]) -> Iterator[Place]:
    def directory(files: dict[str, bytes]) -> str:
        for name, data in files.items():
            (tmp_path / "run.zarr" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "run.zarr" / name).write_bytes(data)
        return str(tmp_path / "run.zarr")

    def zipped(files: dict[str, bytes]) -> str:
        write_zip(Path(directory(files)), tmp_path / "run.zip")
        return str(tmp_path / "run.zip")

    def url(files: dict[str, bytes]) -> str:
        for name, data in files.items():
            fsspec.filesystem("memory").pipe_file(f"/contract/run.zarr/{name}", data)
        return "memory://contract/run.zarr"

    def held(files: dict[str, bytes]) -> str:
        guide["MemoryStore"].held["run"] = files
        return "held:run"

    yield {"directory": directory, "zip": zipped, "url": url, "guide": held}[request.param]
    guide["MemoryStore"].held.clear()
    if fsspec.filesystem("memory").exists("/contract"):
        fsspec.filesystem("memory").rm("/contract", recursive=True)


@pytest.fixture
def store(place: Place, whole: dict[str, bytes]) -> Iterator[Store]:
    opened = connect(place(whole))
    yield opened
    opened.close()


def test_parts_are_those_of_a_slice(store: Store, whole: dict[str, bytes]) -> None:
    for key in ("gram/gram/c.0.0.0.0", "steps/zarr.json", ROOT):
        data, n = whole[key], len(whole[key])
        for start, stop in (
            (0, None),
            (0, 5),
            (3, 9),
            (n - 4, None),
            (-7, None),
            (0, n + 50),
            (n, n + 1),
            (5, 5),
        ):
            assert store.read(key, start, stop) == data[start:stop], (key, start, stop)


def test_it_lists_what_is_there(store: Store, whole: dict[str, bytes]) -> None:
    listing = store.files()
    assert listing is not None
    assert listing.sizes == {key: len(data) for key, data in whole.items()}
    assert listing.odd == []
    assert list(store.faults(full=True)) == []
    asked = ["steps/loss/c.0", "steps/nothing", "weights"]
    assert store.present(asked) == {"steps/loss/c.0": len(whole["steps/loss/c.0"])}
    assert [store.size(key) for key in asked[:2]] == [len(whole["steps/loss/c.0"]), None]
    assert store.stored_size("steps/nothing") == 0


def test_what_is_lost_is_said(store: Store) -> None:
    for key in ("steps/nothing", "nothing/c.0", "../zarr.json"):
        with pytest.raises((FileNotFoundError, ArchiveError)):
            store.read(key)


def test_copying_is_bounded(store: Store, whole: dict[str, bytes]) -> None:
    pieces: list[bytes] = []
    store.copy("steps/loss/c.0", 1 << 20, pieces.append)
    assert b"".join(pieces) == whole["steps/loss/c.0"]
    with pytest.raises(ArchiveError, match="more than the 10"):
        store.copy("steps/loss/c.0", 10, pieces.append)
    with pytest.raises(FileNotFoundError):
        store.copy("steps/nothing", 10, pieces.append)


def test_the_root_is_that_of_the_time_of_opening(store: Store, whole: dict[str, bytes]) -> None:
    assert store.root == store.root_now() == whole[ROOT]
    assert store.stamp() == store.stamp()


def test_an_archive_within_an_archive(place: Place, whole: dict[str, bytes]) -> None:
    inner = {f"ranks/1/{name}": data for name, data in whole.items() if name.startswith("steps/")}
    store = connect(place(whole | inner | {f"ranks/1/{ROOT}": b"{}"}), "ranks/1")
    assert store.root == b"{}"
    assert store.read("steps/loss/c.0") == whole["steps/loss/c.0"]
    listing = store.files()
    assert listing is not None
    assert listing.sizes.keys() == {name for name in whole if name.startswith("steps/")} | {ROOT}
    store.close()


# In a directory every other test has it.
@pytest.mark.parametrize(
    "place", ["zip", "url", "guide", pytest.param("directory", marks=pytest.mark.slow)], indirect=True
)
def test_everything_else_works_on_it(
    place: Place, whole: dict[str, bytes], run: Path, tmp_path: Path
) -> None:
    where = place(whole)
    report = verify(where, full=True)
    assert report.findings == []
    assert report.counts == verify(run, full=True).counts
    with tracer.open(where) as there, tracer.open(run) as here:
        assert np.array_equal(there.gram(1), here.gram(1))
        assert there.to_xarray().identical(here.to_xarray())
    pack(where, tmp_path / "packed.zip", zip=True)
    source, original = Source(tmp_path / "packed.zip"), Source(run)
    assert difference(ArchiveContent(source), ArchiveContent(original)) is None
    source.close()
    assert export_hdf5(where, tmp_path / "run.h5").is_file()


@pytest.mark.parametrize("damage", ["lost", "extra", "flipped", "root"])
def test_damage_is_found_in_it(place: Place, whole: dict[str, bytes], damage: str) -> None:
    files, key = dict(whole), "gram/gram/c.1.0.0.0"
    match damage:
        case "lost":
            del files[key]
        case "extra":
            files["weights/more"] = b"x"
        case "flipped":
            files[key] = files[key][:9] + bytes([files[key][9] ^ 1]) + files[key][10:]
        case "root":
            files[ROOT] = files[ROOT].replace(b'"title":"synthetic"', b'"title":"Synthetic"')
    found = {(one.kind, one.where) for one in verify(place(files), full=True).findings}
    expected = {"lost": ("missing", key), "extra": ("extra", "weights/more"), "flipped": ("damaged", key)}
    assert expected.get(damage, ("root", ROOT)) in found


@pytest.mark.parametrize("files", [{}, {"zarr.json": b""}, {"zarr.json": b"[]"}, {"steps/zarr.json": b"{}"}])
def test_what_is_no_archive_is_one_sentence(place: Place, files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(ArchiveError) as caught:
        tracer.open(place(files))
    assert "\n" not in str(caught.value)


def test_each_location_has_one_kind(run: Path, tmp_path: Path) -> None:
    write_zip(run, tmp_path / "run.zip")
    for location, kind in (
        (str(run), "directory"), (f"file://{run}", "directory"), (str(tmp_path / "run.zip"), "zip"),
        ("https://example.org/run.zip", "zip"), ("s3://bucket/run.zarr", "url"), ("https://example.org/run/", "url"),
    ):  # fmt: skip
        assert [one for one in KINDS if one.takes(location)] == [KIND[kind]]
    with pytest.raises(ArchiveError, match="there is no archive at"):
        connect(tmp_path / "nothing")


def test_the_guide_runs(
    guide: dict[str, Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[
        1
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlp.zarr").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(GUIDE), "exec"), guide)
    assert guide["archive"].state == "complete"
