"""Recording from one of several training processes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tracer.errors import RecordError

pytestmark = pytest.mark.skipif(
    not dist.is_available() or sys.platform != "linux", reason="needs gloo on Linux"
)


def train(rank: int, folder: str) -> None:
    """One rank of two: they train without recording, then with it on rank 0."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for recorded in (False, True):
            train_once(rank, folder, recorded)
    finally:
        dist.destroy_process_group()


def train_once(rank: int, folder: str, recorded: bool) -> None:
    model = DistributedDataParallel(mlp())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = TensorDataset(*blobs())
    sampler = DistributedSampler(data, 2, rank, seed=3)
    batches = DataLoader(data, batch_size=4, sampler=sampler)
    if rank == 0 and recorded:
        x, y = blobs()
        probes = {"train": (x[:6], y[:6])}
        path = f"{folder}/run.zarr"
        options = {"loss": F.cross_entropy, "probes": probes, "snapshots": tracer.every(1)}
        with tracer.record(path, model, optimizer, **options) as run:
            loop(model, optimizer, run.batches(batches))
    else:
        if recorded:
            with pytest.raises(RecordError, match=r"rank 1.*record on rank 0 only"):
                tracer.record(f"{folder}/other.zarr", model, optimizer)
        loop(model, optimizer, batches)
    if rank == 0:
        weights = {name: p.detach().numpy() for name, p in model.module.named_parameters()}
        np.savez(f"{folder}/weights-{recorded}.npz", **weights)


def loop(model, optimizer, batches):
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_rank_0_of_two_records_its_own_ids_and_changes_nothing(tmp_path):
    # Forked children of a process that has run a backward pass would wait for its threads forever.
    mp.start_processes(train, (str(tmp_path),), nprocs=2, start_method="spawn")
    archive = tracer.open(tmp_path / "run.zarr")
    data = TensorDataset(*blobs())
    wanted = list(DistributedSampler(data, 2, 0, seed=3))
    assert [archive.ids(step).tolist() for step in (1, 2, 3)] == [wanted[:4], wanted[4:8], wanted[8:]]
    assert set(archive.weights(3)) == set(mlp().state_dict())
    assert archive.steps("gradients").tolist() == [0, 1, 2, 3]
    assert not Path(tmp_path / "other.zarr").exists()
    with np.load(tmp_path / "weights-False.npz") as bare, np.load(tmp_path / "weights-True.npz") as probed:
        for name, weight in bare.items():
            np.testing.assert_array_equal(weight, probed[name])
            np.testing.assert_array_equal(weight, archive.weights(3)[name])


class Sharded(torch.nn.Parameter):
    """Stands for a parameter of which each process holds a part."""

    def full_tensor(self):
        raise AssertionError("a collective must not be called on one rank alone")


def test_sharded_parameters_are_refused_by_name(tmp_path):
    model = mlp()
    model[2].weight = Sharded(model[2].weight.detach())
    with pytest.raises(RecordError, match=r"2\.weight.*sharded over processes"):
        tracer.record(tmp_path / "a.zarr", model, None)
