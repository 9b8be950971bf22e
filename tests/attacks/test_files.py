"""Files made to harm: links, devices, zip files with tricks, and few bytes that would become very many."""

import io
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest

import tracer
from tests.attacks.hostile import bounded, change_root, look_at, nodes
from tests.damage import copied, files_of
from tests.recording import put_row
from tests.synthetic import write_archive
from tracer.archive import source
from tracer.errors import ArchiveError
from tracer.recovery.repair import repair
from tracer.recovery.resume import resume
from tracer.verify import verify
from tracer.writer import Writer

INPUTS = "probes/train/inputs"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attacks") / "run.zarr"
    write_archive(path, steps=(0, 1))
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "run.zarr")


# ---- links and devices ----


@pytest.fixture(params=["object", "folder", "root", "device", "pipe"])
def linked(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> Path:
    """An archive that is partly elsewhere: what is there has the right bytes, so only the link tells."""
    outside = tmp_path / "outside"
    outside.mkdir()
    name = {"folder": INPUTS, "root": "zarr.json"}.get(request.param, f"{INPUTS}/c.0.0")
    target = path / name
    target.rename(outside / "moved")
    match request.param:
        case "device":
            target.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(target)
        case _:
            target.symlink_to(outside / "moved")
    return path


def test_nothing_behind_a_link_is_read_or_waited_for(linked: Path) -> None:
    with bounded(), pytest.raises(ArchiveError, match=r"link|ordinary file|restore"):
        look_at(linked)


def test_nothing_behind_a_link_is_changed(linked: Path, tmp_path: Path) -> None:
    before = {name: (tmp_path / "outside" / name).read_bytes() for name in files_of(tmp_path / "outside")}
    with bounded(), pytest.raises(ArchiveError):
        resume(linked)
    with bounded(), pytest.raises(ArchiveError):
        repair(linked)
    assert {n: (tmp_path / "outside" / n).read_bytes() for n in files_of(tmp_path / "outside")} == before


def test_a_link_beside_the_arrays_is_moved_away_by_repair_and_not_followed(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "c.9").write_text("precious")
    (path / "weights" / "linked").symlink_to(tmp_path / "mine")
    done = repair(path)
    assert done.cut is not None
    assert (done.cut / "weights" / "linked").is_symlink()
    assert (tmp_path / "mine" / "c.9").read_text() == "precious"
    assert verify(path, full=True).ok


def test_a_recording_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "run.zarr").symlink_to(tmp_path / "precious")
    with pytest.raises(ArchiveError, match="exists already"):
        Writer(tmp_path / "run.zarr", attributes={})
    assert list((tmp_path / "precious").iterdir()) == []


# ---- zip files ----


def zipped(path: Path, target: Path, method: int = zipfile.ZIP_STORED) -> zipfile.ZipFile:
    file = zipfile.ZipFile(target, "w", method)
    for name in files_of(path):
        file.write(path / name, name)
    return file


def test_names_of_members_lead_nowhere(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run.zip"
    target.parent.mkdir()
    names = ["../escaped", "/tmp/escaped-by-a-zip-file", "a/../../escaped", "..\\escaped", "\x1b[2J"]
    with zipped(path, target) as file:
        for name in names:
            file.writestr(name, b"")
    before = files_of(tmp_path)
    look_at(target)
    report = verify(target)
    assert len(report.findings) == len(names)
    assert files_of(tmp_path) == before
    assert not Path("/tmp/escaped-by-a-zip-file").exists()


def test_a_member_twice_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "run.zip"
    with zipped(path, target) as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("zarr.json", b"{}")
    with pytest.raises(ArchiveError, match=r"holds 'zarr\.json' twice"):
        tracer.open(target)


def test_members_that_unpack_to_very_much_are_refused(path: Path, tmp_path: Path) -> None:
    (path / "zarr.json").rename(tmp_path / "root")
    with zipped(path, tmp_path / "root.zip", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zarr.json", bytes(80 << 20))
    assert (tmp_path / "root.zip").stat().st_size < 1 << 20
    with bounded(), pytest.raises(ArchiveError, match="unpacks to 83886080 bytes"):
        look_at(tmp_path / "root.zip")
    (tmp_path / "root").rename(path / "zarr.json")
    name, target = f"{INPUTS}/c.0.0", tmp_path / "object.zip"
    zipped(path, target, zipfile.ZIP_DEFLATED).close()
    data = bytearray(target.read_bytes())
    entry = data.rindex(name.encode()) - 46  # in the list of members
    data[entry + 24 : entry + 28] = (1 << 31).to_bytes(4, "little")
    target.write_bytes(data)
    with bounded(), pytest.raises(ArchiveError, match=f"unpacks to {1 << 31} bytes"):
        look_at(target)


def damaged_zips(data: bytes, every: bool) -> Iterator[bytes]:
    """The end, the list of members and the heads of members, each byte changed in turn in three ways, or in one."""
    start = data.rindex(b"PK\x05\x06")
    listing = int.from_bytes(data[start + 16 : start + 20], "little")
    for at in [*range(start, len(data)), *range(listing, listing + 60), *range(30)]:
        values = (0x00, 0xFF, 0x7F)
        for value in values if every else [values[at % 3]]:
            yield data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
def test_damaged_zip_files_are_refused_or_read_rightly(path: Path, tmp_path: Path, every: bool) -> None:
    target = tmp_path / "run.zip"
    zipped(path, target).close()
    data = target.read_bytes()
    read = refused = 0
    with bounded():
        for changed in damaged_zips(data, every):
            target.write_bytes(changed)
            try:
                with tracer.open(target) as archive:
                    archive.weights(0)
                read += 1
            except ArchiveError as error:
                assert "\n" not in str(error)
                refused += 1
    assert read > 20
    assert refused > 20


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x80\x04K\x01.", bytes(100)])
def test_other_files_are_no_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArchiveError):
        tracer.open(tmp_path / "file")


# ---- bytes that become many ----


def compressed(path: Path, compressor: str, data: bytes, chunk: int = 96) -> None:
    """Let the inputs of a probe be compressed, and be these bytes."""

    def change(root: dict[str, object]) -> None:
        node = nodes(root)[INPUTS]
        settings = {
            "zstd": {"level": 1, "checksum": False},
            "gzip": {"level": 1},
            "blosc": {"cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "typesize": 4, "blocksize": 0},
        }[compressor]
        node["codecs"] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": compressor, "configuration": settings},
            {"name": "crc32c"},
        ]

    change_root(path, change)
    crc = google_crc32c.value(data).to_bytes(4, "little")
    (path / INPUTS / "c.0.0").write_bytes(data + crc)


def bomb(compressor: str, size: int) -> bytes:
    match compressor:
        case "gzip":
            packer = zlib.compressobj(1, wbits=31)
            return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])
        case "zstd":
            return bytes(numcodecs.Zstd(level=1).encode(np.zeros(size, np.uint8)))
        case _:
            return bytes(numcodecs.Blosc(cname="lz4", clevel=1, shuffle=0).encode(np.zeros(size, np.uint8)))


@pytest.mark.parametrize("compressor", ["zstd", "gzip", "blosc"])
def test_compressed_values_are_read(path: Path, compressor: str) -> None:
    values = tracer.open(path).probes["train"].inputs
    assert values is not None
    raw = values.tobytes()
    packer = zlib.compressobj(wbits=31)
    packed = {
        "gzip": lambda: packer.compress(raw) + packer.flush(),
        "zstd": lambda: bytes(numcodecs.Zstd(level=1).encode(raw)),
        "blosc": lambda: bytes(numcodecs.Blosc(cname="zstd", clevel=1, shuffle=0).encode(raw)),
    }[compressor]()
    compressed(path, compressor, packed)
    assert np.array_equal(tracer.open(path).probes["train"].inputs, values)


@pytest.mark.parametrize("compressor", ["zstd", "gzip", "blosc"])
def test_bombs_are_refused_unexploded(path: Path, compressor: str) -> None:
    compressed(path, compressor, bomb(compressor, 1 << 28))
    with tracer.open(path) as archive, bounded(1 << 27), pytest.raises(ArchiveError):
        _ = archive.probes["train"].inputs
    with bounded(1 << 27):
        assert not verify(path, full=True).ok


@pytest.mark.parametrize("lie", [0, 1, 383, 385, 1 << 60])
def test_a_frame_that_lies_about_its_size_is_refused(path: Path, lie: int) -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xC0, 0x00]) + lie.to_bytes(8, "little") + b"\x03\x00\x00A"
    compressed(path, "zstd", frame)
    with tracer.open(path) as archive, bounded(), pytest.raises(ArchiveError):
        _ = archive.probes["train"].inputs


@pytest.mark.parametrize("read", ["snapshots", "epoch_ends", "rows"])
def test_columns_of_many_streams_that_unpack_to_very_much_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """Each alone may be read whatever its file is; those that are kept together may not."""
    n, streams = 1 << 20, 6
    monkeypatch.setattr(source, "_FREE", 9 * n)
    content = bomb("zstd", 8 * n)
    content += google_crc32c.value(content).to_bytes(4, "little")

    def change(root: dict[str, Any]) -> None:
        column = nodes(root)["steps/step"] | {
            "shape": [n],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [n]}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
                {"name": "crc32c"},
            ],
        }
        flags = column | {"data_type": "bool"}
        made = {"steps/step": column}
        for k in range(streams):
            group = f"probes/train/made{k}"
            nodes(root)[group] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
            root["attributes"]["tracer"]["rows"][group] = n
            made |= {f"{group}/step": column, f"{group}/epoch_end": flags}
        nodes(root).update(made)
        for name in made:
            (path / name).mkdir(parents=True, exist_ok=True)
            (path / name / "c.0").write_bytes(content)
        root["attributes"]["tracer"]["rows"]["steps"] = n
        for name, one in nodes(root).items():
            if name.startswith("steps/") and one["dimension_names"][0] == "step":
                one["shape"] = [n, *one["shape"][1:]]

    change_root(path, change)
    with (
        tracer.open(path) as archive,
        bounded(8 * n * streams),
        pytest.raises(ArchiveError, match="other columns"),
    ):
        getattr(archive, read)


# ---- no code ----


class Owned:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_pickles_are_never_loaded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """In place of both kinds of documents, and of so many of the objects and documents of a probe."""
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps(Owned())
    inside = [name for name in files_of(path) if "probes/train" in name][::every]
    assert any("/c." in name for name in inside) and any(name.endswith("zarr.json") for name in inside)
    for name in ["zarr.json", "steps/zarr.json", *inside]:
        data = (path / name).read_bytes()
        (path / name).write_bytes(payload)
        with pytest.raises(ArchiveError):
            look_at(path)
            verified = verify(path, full=True)
            raise ArchiveError(str(verified)) if not verified.ok else AssertionError(name)
        (path / name).write_bytes(data)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Owned()], object), allow_pickle=True)
    (tmp_path / "array.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ArchiveError):
        tracer.open(tmp_path / "array.npy")
    assert not (tmp_path / "owned").exists()


def test_the_source_loads_no_pickles_and_runs_no_text() -> None:
    words = (
        "import pickle",
        "torch.load(",
        "torch.export.load(",
        "allow_pickle=True",
        "eval(",
        "exec(",
        "marshal",
    )
    for file in (Path(__file__).parents[2] / "tracer").rglob("*.py"):
        code = "\n".join(line for line in file.read_text().splitlines() if "weights_only=True" not in line)
        if file.parent.name == "apart":  # calls to a process of its own, never what an archive holds
            code = code.replace("import pickle", "")
        assert not [word for word in words if word in code.replace(".eval()", "")], file


# ---- numbers that run over ----


def test_numbers_at_the_edge_of_an_integer_are_kept_or_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    for step in range(2):
        put_row(writer, step, ids=np.array([2**63 - 1, -(2**63)]))
    writer.close()
    with tracer.open(writer.path) as archive:
        assert archive.ids(1).tolist() == [2**63 - 1, -(2**63)]
    counts = writer._tree._columns["steps/n_ids"][0]
    counts.tail[:2] = 2**31 - 1
    with (writer.path / "steps" / "n_ids" / "c.0").open("wb") as file:
        counts.write_tail(file.fileno())
    refused = pytest.raises(ArchiveError, match=r"does not fit|cannot")
    with tracer.open(writer.path) as archive, bounded(), refused:
        archive.ids(1)
    assert {finding.where for finding in verify(writer.path).findings} >= {"steps/n_ids/c.0", "steps/ids"}
