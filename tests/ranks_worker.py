"""Training on gloo processes as tests of ranks record it: each is `main`, which does tasks one after another."""

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tracer.errors import ArchiveError

N, BATCH, EPOCHS = 26, 3, 2  # of 26 examples: a sampler for 4 processes repeats two


def sampler(rank: int, world: int) -> DistributedSampler[Any]:
    return DistributedSampler(TensorDataset(*blobs(N)), world, rank, shuffle=True, seed=3)


class Run:
    """One rank that trains, and what a bare loop knows of it."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        self.model = DistributedDataParallel(mlp())
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.sampler = sampler(rank, world)
        self.loader = DataLoader(TensorDataset(*blobs(N)), batch_size=BATCH, sampler=self.sampler)
        self.losses: list[float] = []

    def record(self, folder: Path, **options: Any) -> Any:
        given = {"loss": F.cross_entropy, "snapshots": tracer.every(1), **options}
        return tracer.record(folder / "run.zarr", self.model, self.optimizer, **given)

    def epoch(self, number: int, recorder: Any = None, after: Callable[[], None] | None = None) -> None:
        self.sampler.set_epoch(number)
        for x, y in self.loader if recorder is None else recorder.batches(self.loader):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())
            if recorder is not None:
                recorder.log(loss=loss, mine=self.rank)
            if after is not None:
                after()

    def save(self, file: Path) -> None:
        """Weights, optimizer state, losses and random state."""
        found = {name: p.detach().numpy() for name, p in self.model.module.named_parameters()}
        for number, state in enumerate(self.optimizer.state.values()):
            found[f"momentum {number}"] = state["momentum_buffer"].numpy()
        np.savez(file, **found, losses=np.array(self.losses), random=torch.get_rng_state().numpy())


def neutral(folder: Path, rank: int, world: int) -> None:
    """Two epochs without recording, and with it."""
    for recorded in (False, True):
        run = Run(rank, world)
        if recorded:
            x, y = blobs(N)
            with run.record(folder, probes={"train": (x[:6], y[:6])}) as recorder:
                for number in range(EPOCHS):
                    run.epoch(number, recorder)
        else:
            for number in range(EPOCHS):
                run.epoch(number)
        run.save(folder / f"{rank}-{recorded}.npz")


def killed(folder: Path, rank: int, world: int) -> None:
    """Every rank commits three updates; the last rank is killed after its fourth."""
    run = Run(rank, world)

    def after() -> None:
        if len(run.losses) == 3:
            recorder.flush()
        if len(run.losses) == 4 and rank == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with run.record(folder) as recorder:
        run.epoch(0, recorder, after)


def resumed(folder: Path, rank: int, world: int) -> None:
    """Two epochs with a checkpoint between them; training goes on from there with an epoch of other batches.

    A third time the path exists, which is refused without resume=.
    """
    run = Run(rank, world)
    with run.record(folder, resume=True) as recorder:
        run.epoch(0, recorder)
        recorder.flush()
        weights = {name: values.clone() for name, values in run.model.state_dict().items()}
        run.epoch(1, recorder)
    run = Run(rank, world)
    run.model.load_state_dict(weights)
    with run.record(folder, resume=True) as recorder:
        (folder / f"{rank}-resumed").write_text(str(recorder.resumed))
        run.epoch(7, recorder)
    dist.barrier()
    try:
        Run(rank, world).record(folder).__enter__()
    except ArchiveError as error:
        (folder / f"{rank}-refused").write_text(str(error))


class Pieces(Run):
    """As a run, of a model of which each rank holds a part of every layer (FSDP2)."""

    def __init__(self, rank: int, world: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard  # half a second of imports

        super().__init__(rank, world)
        self.model = mlp()
        for layer in (self.model[0], self.model):
            fully_shard(layer, mesh=init_device_mesh("cpu", (world,)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def evaluate(self) -> None:
        """A forward pass without a backward one: the outer module goes on holding its parameters whole."""
        with torch.no_grad():
            self.model(blobs(N)[0])

    def save(self, file: Path) -> None:
        """This rank's pieces of weights and momentum, losses and random state."""
        found = {name: p.to_local().detach().numpy() for name, p in self.model.named_parameters()}
        for number, state in enumerate(self.optimizer.state.values()):
            found[f"momentum {number}"] = state["momentum_buffer"].to_local().numpy()
        np.savez(file, **found, losses=np.array(self.losses), random=torch.get_rng_state().numpy())


def sharded(folder: Path, rank: int, world: int) -> None:
    """Two epochs of FSDP2 without recording, and with it, taken up in between; what each state was gathered."""
    x, y = blobs(N)
    for recorded in (False, True):
        run = Pieces(rank, world)
        gathered: list[dict[str, np.ndarray]] = []

        def after(run: Pieces = run, gathered: list[dict[str, np.ndarray]] = gathered) -> None:
            gathered.append(
                {name: p.full_tensor().detach().numpy() for name, p in run.model.named_parameters()}
            )

        for number in range(EPOCHS):
            if not recorded:
                run.epoch(number, after=after)
                run.evaluate()
                continue
            options: dict[str, Any] = {"probes": {"train": (x[:6], y[:6])}, "minibatch": True, "budget": 0.5}
            with run.record(folder, resume=True, **options) as recorder:
                assert recorder.plan(steps=10).steps == 10
                run.epoch(number, recorder)
                run.evaluate()
                recorder.flush()
                (folder / f"{rank}-notes").write_text("\n".join(recorder.notes))
        run.model.reshard()
        run.save(folder / f"{rank}-{recorded}.npz")
        if not recorded:
            names = {
                f"{step} {name}": values
                for step, state in enumerate(gathered, 1)
                for name, values in state.items()
            }
            np.savez(folder / f"{rank}-gathered.npz", **names)


def main(folder: Path, rank: int, world: int, *tasks: str) -> None:
    signal.alarm(240)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        for task in tasks:
            (folder / task).mkdir(exist_ok=True)
            globals()[task](folder / task, rank, world)
    finally:
        dist.destroy_process_group()
