"""Servers made to harm: bodies that never end, or are not what was asked for, are one sentence, soon and cheaply."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tracer
from tests.attacks.hostile import bounded, look_at
from tests.attacks.servers import Answer, Server, serving
from tests.damage import copied, files_of
from tests.synthetic import write_archive
from tracer.errors import ArchiveError
from tracer.share.packs import pack
from tracer.share.remote import pull
from tracer.store import fetch
from tracer.verify import verify

pytest.importorskip("aiohttp", reason="pip install tracer-nn[test]")
OBJECT = "gram/gram/c.0.0.0.0"
TAIL = "steps/loss/c.0"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    write_archive(folder / "run.zarr", steps=(0, 1), probes={"train": 6})
    pack(folder / "run.zarr", folder / "run.zip", zip=True)
    return folder


@pytest.fixture
def url(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_PATIENCE", 5.0)
    monkeypatch.setattr(fetch, "LARGEST_BODY", 1 << 22)
    with serving(shelf) as place:
        yield place


# ---- a plain server ----


@pytest.mark.parametrize(
    ("form", "ranges"),
    [
        *[("run.zarr", True), ("run.zip", True), ("run.zip", False)],
        pytest.param("run.zarr", False, marks=pytest.mark.slow),  # whose objects are asked for whole
    ],
)
def test_a_plain_server_is_enough(url: str, shelf: Path, tmp_path: Path, form: str, ranges: bool) -> None:
    Server.ranges = ranges
    report = verify(f"{url}/{form}", full=True)
    assert report.findings == []
    assert report.counts == verify(shelf / form, full=True).counts
    with tracer.open(f"{url}/{form}") as there, tracer.open(shelf / form) as here:
        assert np.array_equal(there.gram(1), here.gram(1))
        assert np.array_equal(there.probes["train"].bits(1), here.probes["train"].bits(1))
    pull(f"{url}/{form}", tmp_path / form)
    if form == "run.zip":
        assert (tmp_path / form).read_bytes() == (shelf / form).read_bytes()
    else:
        assert verify(tmp_path / form, full=True).findings == []


def test_what_is_lost_or_damaged_there_is_found(shelf: Path, tmp_path: Path, url: str) -> None:
    Server.folder = tmp_path
    path = copied(shelf / "run.zarr", tmp_path / "run.zarr")
    (path / OBJECT).unlink()
    data = bytearray((path / TAIL).read_bytes())
    data[3] ^= 1
    (path / TAIL).write_bytes(data)
    found = {(one.kind, one.where) for one in verify(f"{url}/run.zarr").findings}
    assert {("missing", OBJECT), ("damaged", TAIL)} <= found


@pytest.mark.parametrize("name", [OBJECT, TAIL, "manifest/objects/c.0.0"])
@pytest.mark.parametrize("form", ["run.zarr", "run.zip"])
def test_pull_checks_every_object(shelf: Path, tmp_path: Path, url: str, form: str, name: str) -> None:
    """One bit of an object, of a tail or of the manifest; in a zip file, wherever it lies in it."""
    Server.folder = tmp_path
    path = copied(shelf / "run.zarr", tmp_path / "run.zarr")
    if form == "run.zip":
        path = pack(path, tmp_path / "run.zip", zip=True)
        data = bytearray(path.read_bytes())
        data[data.index(name.split("/c.")[0].encode() + b"/c") + 60] ^= 4
        path.write_bytes(data)
    else:
        data = bytearray((path / name).read_bytes())
        data[2] ^= 4
        (path / name).write_bytes(data)
    with pytest.raises(ArchiveError) as caught:
        pull(f"{url}/{form}", tmp_path / "back")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()


def test_a_header_of_a_zip_file_is_checked_by_pull(shelf: Path, tmp_path: Path, url: str) -> None:
    Server.folder = tmp_path
    data = bytearray((shelf / "run.zip").read_bytes())
    data[data.rindex(b"PK\x01\x02") + 38] ^= 1  # the mode of the last member
    (tmp_path / "run.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match="is damaged"):
        pull(f"{url}/run.zip", tmp_path / "back.zip")


# ---- servers made to harm ----


def endless(server: Server, _: bytes) -> None:
    server.say(200)
    while server.command == "GET" and not server.stop.is_set():
        server.wfile.write(bytes(1 << 16))


def endless_chunks(server: Server, _: bytes) -> None:
    server.protocol_version = "HTTP/1.1"
    server.say(200, Transfer_Encoding="chunked")
    while server.command == "GET" and not server.stop.is_set():
        server.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def endless_part(server: Server, _: bytes) -> None:
    asked = re.search(r"bytes=(\d+)-(\d+)", server.headers.get("Range", "bytes=0-9"))
    assert asked is not None
    server.say(206, Content_Range=f"bytes {asked[1]}-{asked[2]}/{1 << 50}")
    while server.command == "GET" and not server.stop.is_set():
        server.wfile.write(bytes(1 << 16))


def silent(server: Server, data: bytes) -> None:
    server.say(200, Content_Length=len(data) or 100)
    server.stop.wait(20)


def short(server: Server, data: bytes) -> None:
    server.say(200, data[: len(data) // 2], Content_Length=len(data))


def cut(server: Server, data: bytes) -> None:
    server.say(200, data[: len(data) // 2], Content_Length=len(data) // 2)


def longer(server: Server, data: bytes) -> None:
    server.say(200, data + bytes(1 << 16), Content_Length=len(data) + (1 << 16))


def huge(server: Server, data: bytes) -> None:
    server.say(200, data, Content_Length=1 << 60)


def elsewhere(server: Server, data: bytes) -> None:
    server.say(
        206, data[1:], Content_Length=len(data) - 1, Content_Range=f"bytes 1-{len(data) - 1}/{len(data)}"
    )


def nowhere(server: Server, data: bytes) -> None:
    server.say(206, data[::-1], Content_Length=len(data), Content_Range="\x1b[2J none")


def around(server: Server, _: bytes) -> None:
    server.say(302, Location=server.path)


def to_a_file(server: Server, _: bytes) -> None:
    server.say(302, Location="file:///etc/passwd")


def broken(server: Server, _: bytes) -> None:
    server.say(500)


def bomb(server: Server, _: bytes) -> None:
    import zlib

    packer = zlib.compressobj(9, wbits=31)
    data = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(16)), packer.flush()])
    server.say(200, data, Content_Length=len(data), Content_Encoding="gzip")


TRICKS: list[Answer] = [endless, endless_chunks, endless_part, short, cut, longer, huge, elsewhere, nowhere]
TRICKS += [around, to_a_file, broken, bomb]


# What unpacks to very much is so for all that is read alike, and takes a third of the time of all tricks.
TRIED = [
    pytest.param(of, trick, marks=[pytest.mark.slow] * (trick.__name__ == "bomb" and of != "objects"))
    for of in ("root", "objects", "zip")
    for trick in TRICKS
]


@pytest.mark.parametrize(("of", "trick"), TRIED, ids=lambda one: getattr(one, "__name__", one))
def test_tricks_of_a_server(url: str, tmp_path: Path, trick: Answer, of: str) -> None:
    place = f"{url}/run.zip" if of == "zip" else f"{url}/run.zarr"
    pattern = {"root": r"run\.zarr/zarr\.json", "objects": r"/c\.", "zip": r"\.zip"}[of]
    Server.trick, Server.tricked = trick, re.compile(pattern)
    read = of == "zip" and trick is longer  # bytes after its end mean nothing to whoever reads a zip file
    for act in (*([] if read else [lambda: look_at_url(place)]), lambda: pull(place, tmp_path / "back")):
        with bounded(1 << 28), pytest.raises(ArchiveError) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
        assert files_of(tmp_path) == [] or of == "objects"
        assert not (tmp_path / "back").exists()
    if of != "objects" or trick in (endless, longer):
        with bounded(1 << 28):
            assert not verify(place, full=True).ok


def look_at_url(url: str) -> None:
    look_at(url)  # type: ignore[arg-type]


def test_a_server_that_falls_silent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_PATIENCE", 0.3)
    monkeypatch.setattr(fetch, "_SLOWEST", 1 << 30)
    Server.trick, Server.tricked = silent, re.compile(r"zarr\.json")
    with bounded(), pytest.raises(ArchiveError, match="cannot read"):
        tracer.open(f"{url}/run.zarr")


def dripping(server: Server, data: bytes) -> None:
    server.say(200, Content_Length=len(data))
    for _ in range(100):
        server.wfile.write(b"{")
        server.wfile.flush()
        if server.stop.wait(0.05):
            return


def test_a_server_that_drips(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that may come would have hours; what does come is far behind that from the beginning."""
    monkeypatch.setattr(fetch, "_PATIENCE", 0.3)
    Server.trick, Server.tricked = dripping, re.compile(r"zarr\.json")
    with bounded(), pytest.raises(ArchiveError, match=r"sends less than 16\.0 KiB a second"):
        tracer.open(f"{url}/run.zarr")
