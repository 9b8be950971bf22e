"""record(resume=True): a training that breaks off and goes on leaves the archive of one that never did."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tracer.errors import ArchiveError, RecordError
from tracer.recovery.resume import resume
from tracer.share.packs import pack, unpack
from tracer.verify import verify
from tracer.writer import Writer

OPTIONS: dict[str, Any] = {"loss": F.cross_entropy, "snapshots": tracer.every(2) | tracer.epochs()}


class Job:
    """A training that saves a checkpoint after every epoch and may be killed."""

    def __init__(self, path: Path, checkpoint: Path) -> None:
        self.path, self.checkpoint = path, checkpoint

    def __call__(self, epochs: int, stop: int | None = None, **options: Any) -> nn.Module:
        model, done = mlp(), 0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            done = saved["epochs"]
        x, y = blobs()
        settings = {**OPTIONS, "probes": {"train": (x[:12], y[:12])}, "resume": True, **options}
        updates = 0
        with tracer.record(self.path, model, optimizer, **settings) as run:
            for epoch in range(done, epochs):
                order = torch.Generator().manual_seed(epoch)
                loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, generator=order)
                for inputs, targets in run.batches(loader):
                    loss = F.cross_entropy(model(inputs), targets)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    run.log(loss=loss, tenfold=10 * loss.detach())
                    updates += 1
                    if updates == stop:
                        raise KeyboardInterrupt
                run.flush()
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "epochs": epoch + 1,
                }
                torch.save(state, self.checkpoint)
        return model


def test_every_second_epoch_is_the_same_one_after_a_resumption(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{name}.zarr", tmp_path / f"{name}.pt") for name in "ab"]
    jobs[0](6, snapshots=tracer.epochs(2))
    for epochs in (1, 4, 6):
        jobs[1](epochs, snapshots=tracer.epochs(2))
    unbroken, resumed = (tracer.open(job.path).steps("gradients").tolist() for job in jobs)
    ends = [step for step in resumed if step in unbroken]
    assert ends == unbroken and len(unbroken) == 4
    assert set(resumed) - set(unbroken) <= {unbroken[1] // 2}  # the last step of the first part


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "run.zarr", tmp_path / "checkpoint.pt")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two epochs."""
    folder = tmp_path_factory.mktemp("ended")
    Job(folder / "run.zarr", folder / "checkpoint.pt")(2)
    return folder


@pytest.fixture
def longer(job: Job, ended: Path) -> Job:
    """One that may go on after two epochs."""
    shutil.copytree(ended, job.path.parent, dirs_exist_ok=True)
    return job


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    Job(folder / "run.zarr", folder / "checkpoint.pt")(3)
    return folder / "run.zarr"


def assert_same(path: Path, other: Path) -> None:
    with tracer.open(path) as one, tracer.open(other) as two:
        assert one.state == two.state == "complete"
        for name in two.rows.keys() - {"time"}:
            np.testing.assert_array_equal(one.rows[name], two.rows[name])
        assert np.array_equal(one._source.read("steps/ids"), two._source.read("steps/ids"))
        for group in two._source.streams():
            np.testing.assert_array_equal(one._source.steps(group), two._source.steps(group))
            for name in two._source.children(group):
                ours, theirs = (source._source.read(f"{group}/{name}") for source in (one, two))
                np.testing.assert_array_equal(ours, theirs)
    assert verify(path, full=True, replay=True).ok


@pytest.mark.slow  # one that breaks off twice does so once
@pytest.mark.parametrize("stop", [4, 5, 6, 7, 8])
def test_a_broken_run_that_goes_on_equals_an_unbroken_one(job: Job, unbroken: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        job(3, stop=stop)
    assert tracer.open(job.path).state == "interrupted"
    job(3)
    assert_same(job.path, unbroken)
    with tracer.open(job.path) as archive:
        (entry,) = archive.attributes["tracer"]["resumes"]
        assert entry["step"] == (3 if stop <= 6 else 6)
        assert entry["dropped"] == stop


def test_a_run_that_is_killed_twice(job: Job, unbroken: Path) -> None:
    for stop in (5, 4):
        with pytest.raises(KeyboardInterrupt):
            job(3, stop=stop)
        assert tracer.open(job.path).state == "interrupted"
    job(3)
    assert_same(job.path, unbroken)
    resumes = tracer.open(job.path).attributes["tracer"]["resumes"]
    assert [(entry["step"], entry["dropped"]) for entry in resumes] == [(3, 5), (6, 7)]


def test_a_finished_run_can_be_made_longer(longer: Job, unbroken: Path) -> None:
    longer(3)
    assert_same(longer.path, unbroken)


def test_where_there_is_no_archive_one_is_made(job: Job) -> None:
    job(1)
    assert tracer.open(job.path).rows["step"].tolist() == [0, 1, 2, 3]
    assert tracer.open(job.path).attributes["tracer"]["resumes"] == []


def test_weights_of_no_snapshot_are_refused_and_nothing_is_dropped(longer: Job) -> None:
    before = (longer.path / "zarr.json").read_bytes()
    saved = torch.load(longer.checkpoint, weights_only=True)
    saved["model"]["0.bias"] += 1e-6
    torch.save(saved, longer.checkpoint)
    with pytest.raises(
        RecordError, match=r"not those of any snapshot \(the last of .* step 6\); load a checkpoint"
    ):
        longer(3)
    assert (longer.path / "zarr.json").read_bytes() == before


def test_the_step_can_be_given_and_must_fit(longer: Job, unbroken: Path) -> None:
    with pytest.raises(RecordError, match="not those of the snapshot of step 4"):
        longer(3, resume=4)
    longer(3, resume=6)
    assert_same(longer.path, unbroken)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"probes": {"train": (torch.rand(12, 6), torch.arange(12) % 3)}},
            "'probes/train' has other examples",
        ),
        (
            {"probes": {"train": blobs(12)}, "chunk": 5},
            "other examples than recorded, or runs them in other chunks",
        ),
    ],
)
def test_other_probes_are_refused_and_nothing_is_dropped(
    job: Job, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        job(2, stop=5)
    before = (job.path / "zarr.json").read_bytes()
    with pytest.raises(RecordError, match=sentence):
        job(2, **changes)
    assert (job.path / "zarr.json").read_bytes() == before


def test_another_model_is_refused(longer: Job) -> None:
    wider = mlp(width=9)
    optimizer = torch.optim.SGD(wider.parameters(), lr=0.1)
    settings = {**OPTIONS, "probes": {"train": blobs(12)}, "resume": True}
    with pytest.raises(RecordError, match=r"the model is not the recorded one, tensor '0\.weight' differs"):
        tracer.record(longer.path, wider, optimizer, **settings).__enter__()
    with pytest.raises(ArchiveError, match="exists"):
        tracer.record(longer.path, wider, optimizer, **{**settings, "resume": False})


def test_packed_and_zipped_archives_are_to_be_unpacked_first(longer: Job, unbroken: Path) -> None:
    pack(longer.path)
    before = files(longer.path)
    with pytest.raises(ArchiveError, match=r"is not as a recording writes it .*: unpack it first"):
        longer(3)
    assert files(longer.path) == before
    unpack(longer.path)
    longer(3)
    assert_same(longer.path, unbroken)
    zipped = Job(pack(longer.path, zip=True), longer.checkpoint)
    before = zipped.path.read_bytes()
    with pytest.raises(
        ArchiveError, match="it is a file, and recordings are written to directories; `tracer unpack`"
    ):
        zipped(4)
    with pytest.raises(
        ArchiveError, match="is a file, which cannot be recorded on; `tracer unpack` it first"
    ):
        resume(zipped.path)
    assert zipped.path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused(longer: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before, opened = files(longer.path), os.open

    def read_only(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(
        ArchiveError, match=r"cannot resume .*: Read-only file system; make its folder writable"
    ):
        longer(3)
    with pytest.raises(
        ArchiveError, match=r"cannot resume .*: Read-only file system; make its folder writable"
    ):
        resume(longer.path)
    monkeypatch.undo()
    assert files(longer.path) == before


def test_what_was_killed_before_its_first_step_is_begun_anew(job: Job) -> None:
    for begin in (
        lambda: job.path.joinpath("manifest", "objects").mkdir(parents=True),
        lambda: blank(job.path),
    ):
        begin()
        job(1)
        assert tracer.open(job.path).rows["step"].tolist() == [0, 1, 2, 3]
        shutil.rmtree(job.path)
        job.checkpoint.unlink()
    (job.path).mkdir()
    (job.path / "thesis.tex").write_text("mine")
    with pytest.raises(ArchiveError, match="is a directory but not an archive"):
        job(1)
    assert (job.path / "thesis.tex").exists()


def blank(path: Path) -> None:
    writer = Writer(path, attributes={})
    writer.static("probes/p", {"id": np.arange(4)}, {"id": ("example",)}, {"split": "train"})
    writer.close("interrupted")


def files(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_checkpoint_between_snapshots_needs_a_flush(job: Job) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = blobs()
    with tracer.record(job.path, model, optimizer, **OPTIONS, probes={"train": (x, y)}) as run:
        assert run.resumed is None
        for _ in range(3):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        run.flush()
        saved = {name: value.clone() for name, value in model.state_dict().items()}
        with tracer.open(job.path) as archive:
            assert archive.rows["step"].tolist() == [0, 1, 2, 3]
            assert archive.steps("weights").tolist() == [0, 2, 3]
            assert archive.steps("outputs", "train").tolist() == [0, 2]
        run.log(later=1.0)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    rows = tracer.open(job.path).rows
    assert rows["step"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(rows["later"], [np.nan, np.nan, np.nan, np.nan, 1.0])
    model.load_state_dict(saved)
    with tracer.record(job.path, model, optimizer, **OPTIONS, probes={"train": (x, y)}, resume=True) as run:
        assert run.resumed == 3
