"""Recording training on several processes, with real ones over gloo."""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import tracer
from tests.forks import FORKS
from tests.loops import mlp
from tests.ranks_worker import BATCH, EPOCHS, main, sampler
from tracer.errors import RecordError
from tracer.share import pack, unpack
from tracer.verify import verify

pytestmark = pytest.mark.skipif(
    not dist.is_available() or sys.platform != "linux", reason="needs gloo on Linux"
)


def start(folder: Path, world: int, *tasks: str) -> list[int | None]:
    """Let so many processes do tasks of tests/ranks_worker.py; how each of them ended."""
    ranks = [FORKS.Process(target=main, args=(folder, rank, world, *tasks)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes recorded. Starting them is what takes time, so they do everything, and one is killed last."""
    folder = tmp_path_factory.mktemp("two")
    assert start(folder, 2, "neutral", "resumed", "killed") == [1, -9]
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes recorded of a model of which each holds a part."""
    folder = tmp_path_factory.mktemp("pieces")
    assert start(folder, 2, "sharded") == [0, 0]
    return folder / "sharded"


def shares(rank: int, world: int, epochs: tuple[int, ...] = tuple(range(EPOCHS))) -> list[list[int]]:
    """The ids of a rank's batches, by its sampler."""
    own, found = sampler(rank, world), []
    for epoch in epochs:
        own.set_epoch(epoch)
        ids = list(own)
        found += [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    return found


def assert_ids(archive, world: int, epochs: tuple[int, ...] = tuple(range(EPOCHS))) -> None:
    wanted = [shares(rank, world, epochs) for rank in range(world)]
    assert archive.rows["step"].tolist() == list(range(len(wanted[0]) + 1))
    for step, parts in enumerate(zip(*wanted, strict=True), 1):
        assert archive.ids(step).tolist() == [*chain(*parts)]
        for rank, ids in enumerate(parts):
            assert archive.ids(step, rank=rank).tolist() == ids
    assert not len(archive.ids(0))


def assert_neutral(folder: Path, world: int) -> None:
    """Every rank recorded its own, once what all share, and trained as it does without."""
    archive = tracer.open(folder / "run.zarr")
    assert_ids(archive, world)
    assert archive.world_size == world and list(archive.ranks) == list(range(world))
    first = archive.rows["step"][archive.rows["epoch"] == 1]
    assert {*np.concatenate([archive.ids(int(step)) for step in first])} == {*range(26)}
    for rank, part in archive.ranks.items():
        with np.load(folder / f"{rank}-False.npz") as bare, np.load(folder / f"{rank}-True.npz") as own:
            for name, values in bare.items():
                assert values.tobytes() == own[name].tobytes(), (rank, name)
            np.testing.assert_array_equal(part.rows["loss"][1:], own["losses"])
            np.testing.assert_array_equal(part.rows["mine"][1:], rank)
            assert len(archive.steps("gradients")) == len(archive.rows["step"])
            for name, values in archive.weights(int(archive.snapshots[-1])).items():
                np.testing.assert_array_equal(values, own[name])
    assert {path.name for path in (folder / "run.zarr/ranks/1").iterdir()} == {
        "zarr.json",
        "steps",
        "manifest",
    }
    assert verify(folder / "run.zarr", full=True).ok
    pack(folder / "run.zarr", folder / "packed.zarr")
    unpack(folder / "packed.zarr", folder / "again.zarr")
    assert_ids(tracer.open(folder / "again.zarr"), world)
    assert not list(folder.glob("*.lock"))


def test_two_ranks_record_their_ids_and_train_as_without(two):
    assert_neutral(two / "neutral", 2)


@pytest.mark.slow
def test_four_ranks_record_their_ids_and_train_as_without(tmp_path):
    assert start(tmp_path, 4, "neutral") == [0, 0, 0, 0]
    assert_neutral(tmp_path / "neutral", 4)


def test_a_run_of_which_one_rank_was_killed_ends_where_all_have_committed(two):
    path = two / "killed/run.zarr"
    with tracer.open(path) as archive:
        assert archive.committed[1] == 3 <= archive.committed[0]
        assert archive.rows["step"].tolist() == archive.steps("weights").tolist() == [0, 1, 2, 3]
        assert archive.ids(3).tolist() == [*shares(0, 2)[2], *shares(1, 2)[2]]
        assert [part.state for part in archive.ranks.values()] == ["interrupted", "recording"]
    assert verify(path, full=True).ok


def test_all_ranks_are_taken_up_where_rank_0_is(two):
    folder = two / "resumed"
    assert [(folder / f"{rank}-resumed").read_text() for rank in range(2)] == ["5", "5"]
    with tracer.open(folder / "run.zarr") as archive:
        assert_ids(archive, 2, (0, 7))
        assert archive.rows["epoch"].tolist() == [0] + 5 * [1] + 5 * [2]
        for part in archive.ranks.values():
            assert [entry["step"] for entry in part.attributes["tracer"]["resumes"]] == [5]
            np.testing.assert_array_equal(part.rows["epoch"], archive.rows["epoch"])
    assert verify(folder / "run.zarr", full=True).ok
    for rank in range(2):
        assert "run.zarr exists: choose another path" in (folder / f"{rank}-refused").read_text()


@pytest.mark.slow  # what records is that of the other ranks, on what PyTorch gathers
def test_of_a_model_in_pieces_ids_scalars_and_gathered_weights_are_recorded(pieces):
    with tracer.open(pieces / "run.zarr") as archive, np.load(pieces / "0-gathered.npz") as gathered:
        assert_ids(archive, 2)
        steps = archive.rows["step"].tolist()
        assert archive.steps("weights").tolist() == steps == list(range(1 + EPOCHS * 5))
        for step in steps[1:]:
            for name, values in archive.weights(step).items():
                np.testing.assert_array_equal(values, gathered[f"{step} {name}"])
        assert not archive.probes and archive.snapshots.tolist() == steps
        for rank, part in archive.ranks.items():
            with np.load(pieces / f"{rank}-True.npz") as own:
                np.testing.assert_array_equal(part.rows["loss"][1:], own["losses"])
            np.testing.assert_array_equal(part.rows["mine"][1:], rank)
            assert [entry["step"] for entry in part.attributes["tracer"]["resumes"]] == [5]
    off, budget = (pieces / "0-notes").read_text().splitlines()
    assert "(0.weight, ...) are sharded" in off and budget.startswith("Budget= is off")
    assert all(
        stream in off for stream in ("outputs", "masks", "sums", "activations", "gradients", "minibatch")
    )
    assert verify(pieces / "run.zarr", full=True).ok


@pytest.mark.slow
def test_a_model_in_pieces_trains_as_without_recording(pieces):
    for rank in range(2):
        with (
            np.load(pieces / f"{rank}-False.npz") as bare,
            np.load(pieces / f"{rank}-True.npz") as own,
        ):
            assert bare.files == own.files
            for name, values in bare.items():
                assert values.tobytes() == own[name].tobytes(), (rank, name)


def test_flat_parameters_are_refused(tmp_path):
    class FullyShardedDataParallel(torch.nn.Sequential):
        """Stands for FSDP1, which needs an accelerator."""

    with pytest.raises(RecordError, match="fully_shard"):
        tracer.record(tmp_path / "a.zarr", FullyShardedDataParallel(mlp()), None)
