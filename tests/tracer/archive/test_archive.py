"""Reading an archive: every accessor against what was written, from a directory, a zip file and a URL."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from zarr.abc.store import Store

import tracer
from tests.damage import objects_of
from tests.recording import declare, put
from tests.synthetic import LAYERS, Truth, write_archive
from tracer.archive import Archive
from tracer.errors import ArchiveError, MissingTraceError
from tracer.store.zarr_view import ZarrView
from tracer.writer import Writer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    path = tmp_path_factory.mktemp("archive") / "run.zarr"
    return path, write_archive(path)


def zipped(path: Path, target: Path, compression: int = zipfile.ZIP_STORED, folder: str = "") -> Path:
    with zipfile.ZipFile(target, "w", compression) as file:
        for member in sorted(path.rglob("*")):
            if member.is_file():
                file.write(member, folder + str(member.relative_to(path)))
    return target


@pytest.fixture(scope="module", params=["directory", "zip", "zip in a folder", "deflated zip", "url"])
def archive(
    request: pytest.FixtureRequest, written: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory
) -> Archive:
    path, target = written[0], tmp_path_factory.mktemp("other") / "run.zip"
    match request.param:
        case "directory":
            return tracer.open(path)
        case "zip":
            return tracer.open(zipped(path, target))
        case "zip in a folder":
            return tracer.open(zipped(path, target, folder="run.zarr/"))
        case "deflated zip":
            return tracer.open(zipped(path, target, zipfile.ZIP_DEFLATED))
    memory = fsspec.filesystem("memory")
    for file in path.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/shelf/run.zarr/{file.relative_to(path)}", file.read_bytes())
    return tracer.open("memory://shelf/run.zarr")


def test_updates(archive: Archive, written: tuple[Path, Truth]) -> None:
    truth = written[1]
    assert archive.snapshots.tolist() == truth.steps
    assert archive.steps("gradients").tolist() == truth.steps
    assert archive.steps("masks", "test").tolist() == truth.steps
    assert archive.epoch_ends.tolist() == [4, 8]
    assert [archive.epoch_of(step) for step in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
    assert archive.milestones.tolist() == [5]
    assert archive.rows["step"].tolist() == list(range(9))
    assert np.array_equal(archive.rows["loss"][1:], list(truth.losses.values()))
    assert np.isnan(archive.rows["accuracy"][:2]).all()
    assert archive.ids(0).size == 0
    for step, ids in truth.ids.items():
        assert np.array_equal(archive.ids(step), ids)


def test_names(archive: Archive) -> None:
    assert (archive.state, archive.attributes["title"]) == ("complete", "synthetic")
    assert archive.layers == list(LAYERS)
    assert archive.sites == ["relu", "tanh"]
    assert archive.calls == list(LAYERS)
    assert list(archive.probes) == ["train", "test"]
    assert archive.gram_probes == [("train", 6), ("test", 6)]
    assert len(archive.digest) == 64
    assert archive.card["optimizer"] == "SGD"


def test_weights_and_network(archive: Archive, written: tuple[Path, Truth]) -> None:
    for step, expected in written[1].weights.items():
        found = archive.weights(step)
        assert list(found) == list(expected)
        for name, values in expected.items():
            assert found[name].dtype == values.dtype
            assert np.array_equal(found[name], values)
    table, constants = archive.network(4)
    assert json.loads(table) == {"rows": []}
    assert constants["scale"] == np.float32(0.5)


def test_probes(archive: Archive, written: tuple[Path, Truth]) -> None:
    truth = written[1]
    for name, probe in archive.probes.items():
        given, group = truth.probes[name], f"probes/{name}"
        assert (probe.split, probe.n, probe.n_masks, probe.capture["gradients"]) == (
            name,
            *[len(given["id"])] * 2,
            6,
        )
        assert np.array_equal(probe.ids, given["id"])
        assert probe.inputs is not None
        assert np.array_equal(probe.inputs, given["inputs"])
        assert probe.true_targets is None
        for step in truth.steps:
            seen = truth.snapshots[step]
            assert np.array_equal(probe.outputs(step), seen[f"{group}/outputs", "outputs"])
            assert np.array_equal(probe.losses(step), seen[f"{group}/outputs", "loss"])
            assert np.array_equal(probe.bits(step), seen[f"{group}/masks", "bits"])
            pre, post = probe.sums(step)
            assert np.array_equal(pre, seen[f"{group}/sums", "pre"])
            assert np.array_equal(post, seen[f"{group}/sums", "post"])
            assert np.array_equal(probe.masks("relu", step), probe.activations("relu", step) > 0)
            assert np.array_equal(
                probe.activations("tanh", step), seen[f"{group}/activations", "values"][:, 8:]
            )


def test_gradients_and_gram(archive: Archive, written: tuple[Path, Truth]) -> None:
    truth = written[1]
    for step in truth.steps:
        rows = []
        for name, probe in archive.probes.items():
            found = {tensor: probe.gradients(tensor, step) for tensor in truth.gradients[name, step]}
            for tensor, values in truth.gradients[name, step].items():
                np.testing.assert_allclose(found[tensor], values, rtol=1e-6)
            rows.append(found)
        for layer, gram in zip(archive.layers, archive.gram(step), strict=True):
            flat = [
                np.concatenate([found[f"{layer}.weight"].reshape(6, -1), found[f"{layer}.bias"]], axis=1)
                for found in rows
            ]
            joint = np.concatenate(flat).astype("f8")
            np.testing.assert_allclose(gram, joint @ joint.T, rtol=1e-5, atol=1e-9)


def test_xarray(archive: Archive, written: tuple[Path, Truth]) -> None:
    tree = archive.to_xarray()
    expected = written[1].snapshots[4]["probes/test/outputs", "loss"]
    assert np.array_equal(tree["probes/test/outputs"].ds["loss"].sel(step=4), expected)


def test_any_array(archive: Archive, written: tuple[Path, Truth]) -> None:
    truth = written[1]
    for (group, name), values in truth.snapshots[4].items():
        assert np.array_equal(archive.array(group, name, 4), values)
    steps = list(truth.snapshots)
    whole = np.stack([truth.snapshots[step]["probes/test/outputs", "loss"] for step in steps])
    assert np.array_equal(archive.array("probes/test/outputs", "loss"), whole)
    assert np.array_equal(archive.array("probes/test", "id"), truth.probes["test"]["id"])
    with pytest.raises(MissingTraceError, match="holds no array 'probes/test/outputs/los'; did you mean"):
        archive.array("probes/test/outputs", "los", 4)
    with pytest.raises(MissingTraceError, match="step 3 is not recorded in 'gram'"):
        archive.array("gram", "gram", 3)


# ---- what opening and showing cost ----


class Watched:
    """Keys read through a store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[str] = []
        get = ZarrView.get

        async def watched(store: ZarrView, key: str, *arguments: Any, **options: Any) -> Any:
            self.keys.append(key)
            return await get(store, key, *arguments, **options)

        monkeypatch.setattr(ZarrView, "get", watched)

    @property
    def objects(self) -> list[str]:
        return [key for key in self.keys if key.rpartition("/")[2].startswith("c")]


def test_showing_reads_no_array(written: tuple[Path, Truth], monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    with tracer.open(written[0]) as archive:
        shown = archive._repr_html_()
    assert "complete" in shown
    assert "train (16, train)" in shown
    assert "119" in repr(archive)
    assert watched.objects == []


def test_to_xarray_reads_indexes_only(written: tuple[Path, Truth], monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    with tracer.open(written[0]) as archive:
        repr(archive.to_xarray())
    assert {key.split("/")[-2] for key in watched.objects} <= {
        "step",
        "time",
    }  # xarray decodes the first time


def test_reading_a_snapshot_needs_no_other_object(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with objects_of(1):
        write_archive(path)
    for file in (path / "probes" / "train" / "gradients" / "values").glob("c.*"):
        if file.name != "c.3.0":
            file.unlink()
    with tracer.open(path) as archive:
        assert archive.probes["train"].gradients("fc2.bias", 4).shape == (6, 5)
        with pytest.raises(ArchiveError, match="is lost"):
            archive.probes["train"].gradients("fc2.bias", 2)


def test_opening_imports_neither_torch_nor_zarr(written: tuple[Path, Truth]) -> None:
    code = (
        "import sys, tracer; a = tracer.open(sys.argv[1]); a.weights(4); a.probes['train'].masks('relu', 4); "
        "assert not {'torch', 'zarr'} & sys.modules.keys(), 'what most readers do not need was imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(written[0])], check=True)


def test_html_of_a_foreign_archive_is_escaped(tmp_path: Path) -> None:
    Writer(tmp_path / "run.zarr", attributes={"title": "<script>"}).close()
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert "<script>" not in archive._repr_html_()


def test_live_archive_stays_at_the_commit_it_was_opened_at(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    declare(writer)
    put(writer, 0)
    writer.flush()
    old = tracer.open(writer.path)
    tree = old.to_xarray()
    put(writer, 1)
    writer.close()
    assert old.steps("weights").tolist() == [0]
    assert tree["weights"].sizes["step"] == 1
    assert tracer.open(writer.path).steps("weights").tolist() == [0, 1]


def test_to_xarray_equals_plain_xarray(written: tuple[Path, Truth]) -> None:
    with tracer.open(written[0]) as archive:
        assert archive.to_xarray().identical(xr.open_datatree(written[0], engine="zarr"))
        assert isinstance(archive._source.as_zarr(), Store)


def test_missing_names_say_what_to_do(written: tuple[Path, Truth], tmp_path: Path) -> None:
    with tracer.open(written[0]) as archive:
        probe = archive.probes["train"]
        for call, sentence in (
            (lambda: archive.weights(3), "step 3 is not recorded in 'weights'; the nearest are 2 and 4"),
            (lambda: archive.probes["trian"], "no probe 'trian'; did you mean 'train'"),
            (lambda: probe.masks("rely", 4), "no site 'rely'; did you mean 'relu'"),
            (lambda: probe.masks("tanh", 4), "has no on/off pattern; read its activations"),
            (lambda: probe.gradients("fc2.weigth", 4), "did you mean 'fc2.weight'"),
            (lambda: archive.steps("grads"), "stream 'grads' was not recorded"),
            (lambda: archive.ids(99), "step 99 is not recorded in 'steps'"),
        ):
            with pytest.raises(MissingTraceError, match=sentence):
                call()
    Writer(tmp_path / "bare.zarr", attributes={}).close()
    with tracer.open(tmp_path / "bare.zarr") as bare:
        with pytest.raises(MissingTraceError, match="holds no gram; record with gradients="):
            bare.gram(0)
        with pytest.raises(MissingTraceError, match="holds no network"):
            bare.network()
        assert bare.milestones.size == 0
        assert "updates 0" in repr(bare)


def test_stream_that_a_probe_lacks_says_how_to_record_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    writer.static("probes/p", {"id": np.arange(3)}, {"id": ("example",)}, {"split": "train"})
    writer.close()
    with (
        tracer.open(writer.path) as archive,
        pytest.raises(MissingTraceError, match=r"capture={'activations': n}"),
    ):
        archive.probes["p"].activations("relu", 0)
