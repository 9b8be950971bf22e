"""One zip file at a URL is opened, analyzed and verified where it is; only the parts asked for are fetched."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import analyze
import tracer
from tests.synthetic import write_archive
from tracer.errors import ArchiveError
from tracer.share.packs import pack
from tracer.share.remote import pull, push
from tracer.store import fetch
from tracer.store.zipped import RemoteFile
from tracer.verify import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zipped") / "run.zarr"
    write_archive(path, steps=range(12), probes={"train": 64, "test": 32}, n_gradients=24)
    pack(path, zip=True)
    return path


class Shelf(BaseHTTPRequestHandler):
    """Serves one file, in parts where `ranges` says so, and counts what it sends."""

    data = b""
    ranges = True
    sent: list[int] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if not self.path.endswith("run.zip"):
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.ranges else None
        part = self.data[int(asked[1]) : int(asked[2]) + 1] if asked else self.data
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            end = int(asked[1]) + len(part) - 1
            self.send_header("Content-Range", f"bytes {asked[1]}-{end}/{len(self.data)}")
        self.end_headers()
        if body:
            self.sent.append(len(part))
            self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="pip install tracer-nn[test]")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    Shelf.data, Shelf.ranges, Shelf.sent = run.with_suffix(".zip").read_bytes(), True, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/shelf/run.zip"
    filesystem = fsspec.filesystem("http")
    if filesystem._session is not None:
        fsspec.asyn.sync(filesystem.loop, filesystem._session.close)
    filesystem.clear_instance_cache()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow  # test_servers.py reads both forms from a plain server
def test_over_http_in_place(served: str, run: Path) -> None:
    whole = len(Shelf.data)
    with tracer.open(served) as there, tracer.open(run) as here:
        assert there.run_id == here.run_id
        assert np.array_equal(there.probes["train"].outputs(2), here.probes["train"].outputs(2))
    assert sum(Shelf.sent) < 0.5 * whole
    opened, Shelf.sent = len(Shelf.sent), []
    assert opened < 12
    results = analyze.run(served, metrics=["generalization"])["generalization"]
    local = analyze.run(run, metrics=["generalization"])["generalization"]
    assert np.array_equal(results["loss"], local["loss"], equal_nan=True)
    assert sum(Shelf.sent) < 0.5 * whole
    assert verify(served, full=True).findings == []


def test_a_server_without_ranges(served: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is small is read whole, once; what is large is a sentence."""
    Shelf.ranges = False
    with tracer.open(served) as there, tracer.open(run) as here:
        assert np.array_equal(there.probes["train"].outputs(2), here.probes["train"].outputs(2))
    assert Shelf.sent == [len(Shelf.data)]
    monkeypatch.setattr(fetch, "LARGEST_BODY", len(Shelf.data) - 1)
    with pytest.raises(ArchiveError, match="sends whole files only; pull it first"):
        tracer.open(served)
    with pytest.raises(ArchiveError, match=r"there is no file at .*; check the URL"):
        tracer.open(served.replace("run.zip", "other.zip"))


def test_in_memory_and_back(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    get = RemoteFile._get
    monkeypatch.setattr(RemoteFile, "_get", lambda self, a, b: fetched.append(b - a) or get(self, a, b))
    url = "memory://shelf/run.zip"
    push(run.with_suffix(".zip"), url)
    with tracer.open(url) as there, tracer.open(run) as here:
        assert np.array_equal(there.probes["train"].bits(2), here.probes["train"].bits(2))
        assert there.to_xarray()["steps/loss"].shape == here.to_xarray()["steps/loss"].shape
    assert sum(fetched) < run.with_suffix(".zip").stat().st_size
    assert verify(url, full=True).findings == []
    pull(url, tmp_path / "back.zip")
    assert (tmp_path / "back.zip").read_bytes() == run.with_suffix(".zip").read_bytes()


@pytest.mark.parametrize("damage", ["cut", "flip", "none", "empty"])
def test_damage_at_a_url_is_found(run: Path, damage: str) -> None:
    data = bytearray(run.with_suffix(".zip").read_bytes())
    memory = fsspec.filesystem("memory")
    if damage == "flip":
        data[len(data) // 2] ^= 16
    content = {"cut": bytes(data[:-5]), "flip": bytes(data), "none": b"no zip file at all", "empty": b""}[
        damage
    ]
    memory.pipe_file("/shelf/bad.zip", content)
    if damage == "flip":
        assert not verify("memory://shelf/bad.zip", full=True).ok
    else:
        with pytest.raises(ArchiveError, match="neither an archive directory nor a zip file of one"):
            tracer.open("memory://shelf/bad.zip")
