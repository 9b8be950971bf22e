"""verify --replay: weights, network and what was recorded of them agree, and a lie among them is found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from analyze.replay import Replay
from tests.damage import copied, objects_of
from tests.loops import run_loop
from tracer.store.documents import document_digest
from tracer.store.layout import as_bytes, plan
from tracer.verify import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replaying") / "run.zarr"
    capture = dict.fromkeys(("outputs", "sums", "masks", "gradients", "activations"), 9)
    torch.manual_seed(0)
    x, y = torch.rand(9, 6), torch.arange(9) % 3
    with objects_of(1):
        run_loop(path, probes={"train": tracer.Probe(x, y, capture=capture)}, gradients="exact")
    return path


def test_what_was_recorded_here_comes_out_bit_for_bit(run: Path) -> None:
    report = verify(run, full=True, replay=True)
    assert report.ok, str(report)
    assert report.notes == []
    assert report.counts["replayed"] == len(tracer.open(run).steps("weights"))


def forge(path: Path, array: str, row: int, change: object) -> None:
    """Change a snapshot and every checksum of it, as somebody might who wants to deceive."""
    values = tracer.open(path)._source.read(array, row)
    change(values := values.copy())  # type: ignore[operator]
    layout = plan((1, *values.shape), values.dtype)
    file = path / array / ".".join(["c", str(row), *["0"] * values.ndim])
    with file.open("wb") as opened:
        _, crc = layout.write(opened.fileno(), as_bytes(np.ascontiguousarray(values)))
    reseal(path, array, row, crc)


def reseal(path: Path, array: str, row: int, crc: int) -> None:
    from tracer.spec import column_rows
    from tracer.store.manifest import MANIFEST, chain
    from tracer.writer.columns import Column

    source = tracer.open(path)._source
    table = source.read(MANIFEST)
    number = source.group_attributes("manifest")["arrays"].index(array)
    table[(table[:, 0] == number) & (table[:, 1] == row), 4] = crc
    column = Column(np.dtype("int64"), (6,), *column_rows("manifest"))
    column.extend(table)
    with (path / MANIFEST / "c.0.0").open("wb") as opened:
        column.write_tail(opened.fileno())
    digest = bytes(32)
    for entry in table:
        digest = chain(digest, entry)
    text = (path / "zarr.json").read_text()
    record = json.loads(text)["attributes"]["tracer"]
    tail = record["tails"][f"{MANIFEST}/c.0.0"]
    text = text.replace(f'"{MANIFEST}/c.0.0":{tail}', f'"{MANIFEST}/c.0.0":{column.checksum()}')
    text = text.replace(record["manifest_digest"], digest.hex())
    fresh = document_digest(text.encode(), record["digest"])
    (path / "zarr.json").write_text(text.replace(f'"digest":"{record["digest"]}"', f'"digest":"{fresh}"'))


def add(values: np.ndarray) -> None:
    values.reshape(-1)[0] += 0.01


def flip(values: np.ndarray) -> None:
    values.reshape(-1)[2] ^= 16


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("probes/train/outputs/outputs", add),
        ("probes/train/outputs/loss", add),
        ("probes/train/masks/bits", flip),
        ("probes/train/sums/pre", add),
        ("probes/train/activations/values", add),
        ("probes/train/gradients/values", add),
        ("gram/gram", add),
        ("weights/float32", add),
    ],
)
def test_values_that_do_not_follow_from_the_weights_are_found(
    run: Path, tmp_path: Path, array: str, change: object
) -> None:
    path = copied(run, tmp_path / "run.zarr")
    forge(path, array, 1, change)
    assert verify(path, full=True).ok  # every checksum is right
    report = verify(path, replay=True)
    wrong = {finding.where for finding in report.findings}
    assert {finding.kind for finding in report.findings} == {"replay"}
    assert array == "weights/float32" or wrong == {array}


def test_rounding_is_noted_and_not_a_finding(run: Path, tmp_path: Path) -> None:
    path = copied(run, tmp_path / "run.zarr")

    def nudge(values: np.ndarray) -> None:
        values[...] = np.nextafter(values, np.float32(np.inf))

    forge(path, "probes/train/outputs/outputs", 1, nudge)
    report = verify(path, replay=True)
    assert report.ok, str(report)
    assert "probes/train/outputs/outputs agree within rounding only" in report.notes[0]


def test_rounding_near_a_loss_of_nothing_is_that_of_outputs(tmp_path: Path) -> None:
    """Losses of 0.001 are differences of outputs of 10: another machine's last digits are a hundredth of a percent."""
    torch.manual_seed(0)
    x, y = torch.rand(9, 6), torch.arange(9) % 3
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    path = tmp_path / "run.zarr"
    options = {"probes": {"train": (x, y)}, "loss": nn.functional.cross_entropy, "gradients": "exact"}
    with objects_of(1), tracer.record(path, model, optimizer, snapshots=tracer.at([0]), **options):
        for _ in range(300):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    with tracer.open(path) as archive:
        view = archive.probes["train"]
        assert np.abs(view.outputs(300)).max() > 5 and np.abs(view.losses(300)).max() < 2e-3

    def nudge(values: np.ndarray) -> None:
        values[...] = np.nextafter(values, np.float32(np.inf))

    forge(path, "weights/float32", 1, nudge)
    report = verify(path, replay=True)
    assert report.ok, str(report)
    assert any("gradients/values agree within rounding" in note for note in report.notes)
    with tracer.open(path) as archive:
        assert Replay(archive).at(300).exact is False
    forge(path, "weights/float32", 1, lambda values: np.multiply(values, 1.001, out=values))
    assert {finding.where for finding in verify(path, replay=True).findings} >= {
        "probes/train/outputs/outputs"
    }


def test_a_damaged_archive_is_not_replayed(run: Path, tmp_path: Path) -> None:
    path = copied(run, tmp_path / "run.zarr")
    (path / "weights" / "float32" / "c.0.0").unlink()
    assert "nothing was replayed" in verify(path, replay=True).notes[-1]
