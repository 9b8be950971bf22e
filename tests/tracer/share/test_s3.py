"""An object store as it is used: an S3-compatible server on the loopback interface, through s3fs."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from zarr.core.sync import sync

import analyze
import tracer
from tests.recording import declare, put, put_row
from tests.synthetic import write_archive
from tracer.share.packs import pack
from tracer.share.remote import pull, push
from tracer.store.fetch import Place
from tracer.store.zipped import RemoteFile
from tracer.verify import verify
from tracer.writer import Writer


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of a bucket, found by its environment variables alone, as users set them."""
    s3fs = pytest.importorskip("s3fs", reason="pip install tracer-nn[test]")
    server = pytest.importorskip("moto.server", reason="pip install tracer-nn[test]")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            patch.delenv(name, raising=False)
        s3fs.S3FileSystem.clear_instance_cache()
        filesystem = s3fs.S3FileSystem()
        filesystem.mkdir("shelf")
        yield "s3://shelf"
        for opened in list(s3fs.S3FileSystem._cache.values()):
            disconnect(opened)
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def disconnect(filesystem: Any) -> None:
    """End the connections of a file system: those that zarr uses belong to its own event loop."""
    client = filesystem._s3
    if client is not None and filesystem.asynchronous:
        sync(client.__aexit__(None, None, None))
    elif client is not None:
        fsspec.asyn.sync(filesystem.loop, client.__aexit__, None, None, None)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def shelf(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where many objects go: the server of a bucket takes ten times as long for each as the rest does."""
    if request.param == "s3":
        yield request.getfixturevalue("bucket")
    else:
        yield "memory://shelf"
        fsspec.filesystem("memory").rm("/shelf", recursive=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s3") / "run.zarr"
    write_archive(path, steps=(0, 2))
    return path


def test_push_open_verify_pull(bucket: str, tmp_path: Path) -> None:
    """Of few objects: each is some requests, which take the server ten times as long as the rest takes us."""
    run, url = tmp_path / "run.zarr", f"{bucket}/runs/live.zarr"
    with closing(Writer(run, attributes={})) as writer:
        declare(writer)
        for step in range(3):
            put(writer, step)
            put_row(writer, step)
    moved = push(run, url)
    assert push(run, url).kept == moved.sent
    assert verify(url).findings == []
    pull(url, tmp_path / "back.zarr")
    assert verify(tmp_path / "back.zarr", full=True).findings == []
    with tracer.open(run) as one, tracer.open(tmp_path / "back.zarr") as other, tracer.open(url) as there:
        assert one.digest == other.digest == there.digest
        assert there.rows["step"].tolist() == one.rows["step"].tolist() == [0, 1, 2]
        assert np.array_equal(there._source.read("weights/float32"), one._source.read("weights/float32"))


def test_analysis_in_place_reads_what_it_needs(
    shelf: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{shelf}/runs/packed.zarr"
    push(pack(run, tmp_path / "packed.zarr"), url)
    keys: list[str] = []
    ask = Place._ask

    def noted(self: Place, key: str, call: Any) -> Any:
        keys.append(f"/{key}")
        return ask(self, key, call)

    monkeypatch.setattr(Place, "_ask", noted)
    there = analyze.run(url, metrics=["stiffness"])["stiffness"]
    assert len(keys) == len(set(keys))  # each object by one request, that of its length included
    with tracer.open(run) as archive:
        streams = archive._source.streams()
    # What its snapshots hold, when they were taken, and what tables, examples and the run say.
    assert len([key for key in keys if key.endswith("/step/c.0")]) <= len(streams) + 1
    assert len([key for key in keys if "/step/" not in key]) <= 12
    here = analyze.run(run, metrics=["stiffness"])["stiffness"]
    assert np.array_equal(there["cosine"], here["cosine"], equal_nan=True)
    assert any("/gram/gram/" in key for key in keys)
    assert not any(
        "/gradients/values" in key or "/masks/bits" in key or "/weights/float32" in key for key in keys
    )


@pytest.mark.slow  # as over HTTP: test_zip_url.py
def test_a_zip_file_in_place(bucket: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.zarr"
    write_archive(large, steps=range(12), probes={"train": 64, "test": 32}, n_gradients=24)
    file = pack(large, zip=True)
    push(file, f"{bucket}/runs/large.zip")
    fetched: list[int] = []
    get = RemoteFile._get

    def noted(self: RemoteFile, start: int, stop: int) -> bytes:
        fetched.append(len(data := get(self, start, stop)))
        return data

    monkeypatch.setattr(RemoteFile, "_get", noted)
    there = analyze.run(f"{bucket}/runs/large.zip", metrics=["generalization"])["generalization"]
    here = analyze.run(large, metrics=["generalization"])["generalization"]
    assert np.array_equal(there["loss"], here["loss"], equal_nan=True)
    assert 0 < sum(fetched) < 0.5 * file.stat().st_size
