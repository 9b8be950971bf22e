"""Archives of earlier releases open for ever, with the numbers they had when they were made."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import tracer
from tests import ROOT
from tests.archives.make import N_GRADIENTS, STEPS
from tracer import spec
from tracer.errors import ArchiveError
from tracer.network import read
from tracer.recovery.resume import resume
from tracer.share import unpack
from tracer.store.documents import document_digest
from tracer.verify import verify

ARCHIVES = ROOT / "tests" / "archives"
VERSIONS = sorted(folder for folder in ARCHIVES.iterdir() if (folder / "numbers.npz").is_file())
MADE = [version / name for version in VERSIONS for name in ("run.zarr", "run.zip")]
pytestmark = pytest.mark.parametrize("path", MADE, ids=lambda path: f"{path.parent.name}-{path.suffix[1:]}")


@pytest.fixture
def numbers(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.parent / "numbers.npz") as file:
        return dict(file)


def test_it_is_whole_and_small(path: Path) -> None:
    assert verify(path, full=True).findings == []
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 320_000


def test_weights_and_updates(path: Path, numbers: dict[str, np.ndarray]) -> None:
    with tracer.open(path) as archive:
        assert (archive.state, archive.attributes["title"]) == ("complete", "frozen")
        assert archive.snapshots.tolist() == list(STEPS)
        assert archive.layers == ["0", "3", "4", "6"]
        for step in STEPS:
            for name, values in archive.weights(step).items():
                assert np.array_equal(values, numbers[f"weights/{step}/{name}"])
        assert np.array_equal(np.concatenate([archive.ids(step) for step in range(7)]), numbers["ids"])
        assert np.array_equal(archive.rows["loss"][1:], numbers["losses"])
        assert np.array_equal(archive.rows["twice"][1:], 2 * numbers["losses"])
        assert archive.rows["epoch"].tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_probes(path: Path, numbers: dict[str, np.ndarray]) -> None:
    with tracer.open(path) as archive:
        for name, probe in archive.probes.items():
            assert np.array_equal(probe.targets, np.arange(probe.n) % 3)
            for step in STEPS:
                for site in archive.sites:
                    assert np.array_equal(probe.masks(site, step), numbers[f"masks/{name}/{step}/{site}"])
                    if name == "train":
                        shown = probe.activations(site, step) > 0
                        assert np.array_equal(shown, probe.masks(site, step)[:3])
                close = {"rtol": 1e-5, "atol": 1e-6}
                np.testing.assert_allclose(probe.outputs(step), numbers[f"outputs/{name}/{step}"], **close)
                np.testing.assert_allclose(probe.losses(step), numbers[f"loss/{name}/{step}"], **close)
                for tensor in archive.weights(step):
                    found = probe.gradients(tensor, step)
                    np.testing.assert_allclose(found, numbers[f"gradients/{name}/{step}/{tensor}"], **close)


def test_gram(path: Path, numbers: dict[str, np.ndarray]) -> None:
    with tracer.open(path) as archive:
        assert archive.gram_probes == [("train", N_GRADIENTS), ("test", N_GRADIENTS)]
        for step in STEPS:
            np.testing.assert_allclose(
                archive.gram(step).sum(0), numbers[f"gram/{step}"], rtol=1e-4, atol=1e-9
            )


def test_training_minibatches(path: Path, numbers: dict[str, np.ndarray]) -> None:
    with tracer.open(path) as archive:
        source = archive._source
        assert source.has("minibatch") == source.has("data") == (path.suffix == ".zip")
        if source.has("minibatch"):
            losses = source.read("minibatch/loss")
            ends = np.cumsum(archive.rows["n_ids"])
            means = [losses[start:stop].mean() for start, stop in pairwise(ends)]
            np.testing.assert_allclose(means, numbers["losses"], rtol=1e-6)
            assert np.array_equal(source.read("data/label"), np.arange(10) % 3)


def test_the_network_can_be_run(path: Path, numbers: dict[str, np.ndarray]) -> None:
    import torch

    with tracer.open(path) as archive:
        table, constants = archive.network()
        network = read(table, {name: torch.from_numpy(v) for name, v in constants.items()})
        for step in STEPS:
            weights = {
                name: torch.from_numpy(values.copy()) for name, values in archive.weights(step).items()
            }
            probe = archive.probes["test"]
            assert probe.inputs is not None
            outputs, _ = network.run(weights, torch.from_numpy(probe.inputs), torch.from_numpy(probe.targets))
            np.testing.assert_allclose(outputs, numbers[f"outputs/test/{step}"], rtol=1e-5, atol=1e-6)


def test_plain_xarray_opens_it(path: Path, numbers: dict[str, np.ndarray]) -> None:
    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path
    tree = xr.open_datatree(store, engine="zarr")
    loss = tree["probes/test/outputs"].ds["loss"].sel(step=3)
    np.testing.assert_allclose(loss, numbers["loss/test/3"], rtol=1e-5, atol=1e-6)


def test_it_can_be_recorded_on(path: Path, numbers: dict[str, np.ndarray], tmp_path: Path) -> None:
    place = tmp_path / "run.zarr"
    if path.suffix == ".zip":
        unpack(path, place)
    else:
        shutil.copytree(path, place)
    resume(place, step=3).close()
    assert verify(place, full=True).findings == []
    with tracer.open(place) as archive:
        assert archive.attributes["tracer"]["format_version"] == spec.FORMAT_VERSION
        assert archive.snapshots.tolist() == [0, 3]
        for name, values in archive.weights(3).items():
            assert np.array_equal(values, numbers[f"weights/3/{name}"])


@pytest.mark.parametrize("version", ["1.7", "2.0"])
def test_a_later_version_of_it_is_warned_of_or_refused(path: Path, version: str, tmp_path: Path) -> None:
    if path.suffix == ".zip":
        shutil.unpack_archive(path, tmp_path / "run.zarr")
    else:
        shutil.copytree(path, tmp_path / "run.zarr")
    root = tmp_path / "run.zarr" / "zarr.json"
    document = json.loads(root.read_text())
    record = document["attributes"]["tracer"]
    record |= {"format_version": version, "digest": "0" * 64, "later": 1}
    text = json.dumps(document, separators=(",", ":"))
    root.write_text(text.replace("0" * 64, document_digest(text.encode()), 1))
    if version == "2.0":
        with pytest.raises(ArchiveError, match=r"has format 2\.0, this release reads 1\.x"):
            tracer.open(root.parent)
    else:
        with pytest.warns(UserWarning, match=re.escape(f"has format 1.7, newer than {spec.FORMAT_VERSION}:")):
            assert tracer.open(root.parent).snapshots.tolist() == list(STEPS)
