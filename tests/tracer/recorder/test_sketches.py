"""gradients="sketch": recorded, read, queried, taken up again, filled in, shared and verified as every stream is."""

import json
from pathlib import Path

import numpy as np
import pytest

import tracer
from tests.sketched import network, record
from tracer.archive.sketches import products
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.materialize import materialize
from tracer.share.hdf5 import export_hdf5, import_hdf5
from tracer.share.packs import pack
from tracer.verify import verify


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("sketched") / "run.zarr", "sketch")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("exact") / "run.zarr", "exact")


def joint(archive: tracer.Archive, step: int) -> np.ndarray:
    return np.concatenate([archive.probes[name].sketches(step) for name in ("train", "test")])


def test_sketches_stand_for_the_gradients(sketched: Path, exact: Path) -> None:
    with tracer.open(sketched) as archive, tracer.open(exact) as other:
        sketch = archive.probes["train"].sketch
        assert [(row["size"], row["buckets"]) for row in sketch["layers"]] == [(128, 16), (75, 0)]
        assert (sketch["blocks"], sketch["seed"], sketch["tolerance"]) == (8, 0, 0.1)
        assert archive.steps("sketches").tolist() == other.steps("gram").tolist() == [0, 1, 2, 3]
        assert archive.card["gradients"]["mode"] == "sketch" and not archive.gram_probes
        for step in (0, 3):
            both = joint(archive, step)
            hidden, last = products(both, both, sketch)
            expected = other.gram(step)
            assert np.allclose(last, expected[1], rtol=1e-5, atol=1e-9)
            length = np.sqrt(np.diagonal(expected[0]))
            gap = (hidden - expected[0]) / length / length[:, None]
            assert 0.01 < np.sqrt(np.mean(gap**2)) < 0.2
        values = archive.probes["test"].sketches(2)[:, 128:]
        with tracer.open(exact) as whole:
            weight = whole.probes["test"].gradients("3.weight", 2).reshape(6, -1)
        assert np.allclose(values[:, :72], weight, atol=1e-7)


def test_similar_examples(sketched: Path, exact: Path) -> None:
    with tracer.open(sketched) as archive, tracer.open(exact) as other:
        for by in ("influence", "cosine"):
            got, true = (one.similar("test", 2, by=by, top=None) for one in (archive, other))
            assert true.error.tolist() == [0.0] * 12 and true.rated
            assert set(got.probe) == {"train"} and sorted(got.id) == list(range(12))
            assert (np.diff(got.value) <= 0).all()
            order = np.argsort(true.id)
            gap = got.value[np.argsort(got.id)] - true.value[order]
            error = got.error[np.argsort(got.id)]
            assert 0.4 < np.sqrt(np.mean(gap**2) / np.mean(error**2)) < 2.5
        rates = other.rows["lr"][:, 0]
        grams = {int(step): other.gram(int(step)).sum(0) for step in other.steps("gram")}
        usable = [step for step in grams if np.isfinite(rates[step])]
        expected = sum(rates[step] * grams[step][14, 5] for step in usable)
        assert true.steps.tolist() == [0, 1, 2, 3]
        one = other.similar("test", 2, top=None)
        assert np.isclose(one.value[one.id == 5][0], expected)
        own = other.similar("train", 4, among="train", top=3)
        assert len(own.id) == 3 and 4 not in own.id
        at = other.similar("test", 2, steps=[3], by="cosine", top=1)
        cosine = grams[3][14, at.id[0]] / np.sqrt(grams[3][14, 14] * grams[3][at.id[0], at.id[0]])
        assert np.isclose(at.value[0], cosine)
        with pytest.raises(MissingTraceError, match="no gradient of example 77 of probe 'test'"):
            archive.similar("test", 77)
        with pytest.raises(ValueError, match="expected 'influence' or 'cosine'"):
            archive.similar("test", 2, by="nearness")  # type: ignore[arg-type]


def test_similar_without_gradients_says_how_to_have_them(tmp_path: Path) -> None:
    with (
        tracer.open(record(tmp_path / "run.zarr", "none", 1)) as archive,
        pytest.raises(MissingTraceError, match="gradients='sketch'"),
    ):
        archive.similar("test", 2)


def assert_same(path: Path, other: Path) -> None:
    with tracer.open(path) as one, tracer.open(other) as two:
        assert np.array_equal(joint(one, 2), joint(two, 2))
        assert one.probes["test"].sketch["layers"] == two.probes["test"].sketch["layers"]


def test_verified_and_packed(sketched: Path, tmp_path: Path) -> None:
    report = verify(sketched, replay=True)
    assert not report.findings and report.counts["replayed"] == 4
    assert_same(pack(sketched, tmp_path / "packed.zarr"), sketched)


@pytest.mark.slow  # as all arrays are, in `tests/tracer/share/test_hdf5.py`
def test_exported(sketched: Path, tmp_path: Path) -> None:
    export_hdf5(sketched, tmp_path / "run.h5")
    assert_same(import_hdf5(tmp_path / "run.h5", tmp_path / "back.zarr"), sketched)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "run.zarr", "sketch", 1)
    root = path / "zarr.json"
    document = json.loads(root.read_text())
    held = document["consolidated_metadata"]["metadata"]["probes/train/sketches"]["attributes"]["layers"]
    held[0]["size"] += 1
    root.write_text(json.dumps(document))
    with pytest.raises(ArchiveError):
        tracer.open(path)


def test_taken_up_again(sketched: Path, tmp_path: Path) -> None:
    model = network()
    record(tmp_path / "run.zarr", "sketch", 2, model)
    record(tmp_path / "run.zarr", "sketch", 1, model, resume=True)
    with tracer.open(tmp_path / "run.zarr") as archive, tracer.open(sketched) as other:
        assert archive.steps("sketches").tolist() == [0, 1, 2, 3]
        assert np.array_equal(joint(archive, 3), joint(other, 3))
    with pytest.raises(RecordError, match="resume with the same settings"):
        record(tmp_path / "run.zarr", "sketch", 1, model, resume=True, tolerance=0.2)


def test_filled_in(sketched: Path, exact: Path, tmp_path: Path) -> None:
    bare = record(tmp_path / "bare.zarr", "none")
    materialize(bare, gradients=True, mode="sketch", output=tmp_path / "filled.zarr")
    with tracer.open(tmp_path / "filled.zarr") as archive:
        assert archive.probes["train"].sketch["tolerance"] == 1 / 32
        assert archive.steps("sketches").tolist() == [0, 1, 2, 3]
    thin = record(
        tmp_path / "thin.zarr", "sketch", snapshots={"gradients": tracer.at([1]), "default": tracer.every(1)}
    )
    materialize(thin, output=tmp_path / "whole.zarr")
    with tracer.open(tmp_path / "whole.zarr") as archive, tracer.open(sketched) as other:
        assert archive.steps("sketches").tolist() == [0, 1, 2, 3]
        assert np.array_equal(joint(archive, 2), joint(other, 2))
    with pytest.raises(RecordError, match="keeps gradients as 'exact', which says more"):
        materialize(exact, gradients=True, mode="sketch", output=tmp_path / "other.zarr")
    materialize(sketched, gradients=True, mode="gram", output=tmp_path / "both.zarr")
    with tracer.open(tmp_path / "both.zarr") as archive, tracer.open(exact) as other:
        assert np.allclose(archive.gram(3), other.gram(3))


def test_recording_sketches_changes_no_bit_of_training() -> None:
    from tests.tracer.recorder.test_neutrality import MODELS, training

    assert tracer.check(training(*MODELS["mlp"], "adamw", gradients="sketch", tolerance=0.2))
