"""Training on several processes: rank 0 records the run, every other rank its own ids, losses and times.

Nothing is sent between processes and none waits for another: they meet at the path alone. What a rank records
is an archive within that of the run, begun once rank 0's is there. Only weights that processes hold in pieces
are gathered, by all of them at the same snapshots.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tracer import archive as archives
from tracer.archive import Archive
from tracer.archive.attributes import name_of
from tracer.archive.ranks import within
from tracer.errors import ArchiveError, RecordError
from tracer.network.copies import to_numpy, unwrap, unwrapped_name
from tracer.recorder import resume as resume_points
from tracer.recorder.device.weights import whole
from tracer.recorder.ranks.instruments import Elsewhere, Sharded, sharded
from tracer.recorder.ranks.writer import Parent, RankWriter
from tracer.recorder.resume import ResumePoint
from tracer.recovery.resume import resume as take_up
from tracer.writer import Writer

__all__ = ["Elsewhere", "Process", "Sharded", "begin", "check_world", "here", "sharded", "unhurried"]

_TRIES = 5  # of reading an archive that rank 0 takes up meanwhile


class Process(NamedTuple):
    """One of the processes that train a model."""

    rank: int
    world_size: int

    def declare(self, writer: Writer) -> None:
        """Let the archive of a run on several processes say so."""
        if self.world_size > 1:
            writer.attributes("ranks", {"world_size": self.world_size})


def here() -> Process:
    """The process this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Process(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Process(0, 1)


def begin(
    path: Path, model: nn.Module, process: Process, resume: bool | int, title: str | None, **options: Any
) -> tuple[Any, ResumePoint | None]:
    """The writer of a rank other than 0, and where it goes on. Errors: as `tracer.record`."""
    parameters = {} if resume is False else _parameters(model)
    own, parent = path / within(process.rank), Parent(path.absolute())
    updates = (parent.record() or {}).get("committed_step")
    if resume is not False and updates is not None:
        check_world(path, process)
        if not own.exists():
            raise RecordError(
                f"cannot resume {str(path)!r}: rank {process.rank} has recorded nothing in it; resume on the ranks "
                "that have, or record into a new archive"
            )
        resumed = unhurried(lambda: resume_point(path, parameters, None if resume is True else resume))
        return take_up(own, step=resumed.step, **options), resumed
    if path.is_file() or (resume is False and (updates or own.exists())):
        raise ArchiveError(f"{path} exists: choose another path or remove it; an archive holds one run.")
    described = {"title": f"{title or name_of(str(path))}, rank {process.rank}", "rank": process._asdict()}
    return RankWriter(parent, process.rank, described, options), None


def check_world(path: Path, process: Process) -> None:
    """RecordError where a run goes on with another number of processes."""
    with archives.open(path, rank=0) as archive:
        if archive.world_size != process.world_size:
            raise RecordError(
                f"cannot resume {str(path)!r}: {archive.world_size} processes recorded it and {process.world_size} "
                "train now; start as many, or record into a new archive"
            )


def resume_point(path: Path, parameters: Mapping[str, np.ndarray], step: int | None) -> ResumePoint:
    """Where rank 0 goes on: at the latest snapshot with the parameters the model has now."""
    with archives.open(path) as archive:
        return _latest(archive, parameters, step)


def unhurried(find: Callable[[], ResumePoint]) -> ResumePoint:
    """What `find` returns, tried again where another rank drops what it reads after the step in question."""
    for _ in range(_TRIES):
        with suppress(ArchiveError):
            return find()
    return find()


def _latest(archive: Archive, parameters: Mapping[str, np.ndarray], step: int | None) -> ResumePoint:
    whole = np.isin(steps := archive.steps("weights"), archive.rows["step"])
    for at in reversed([int(at) for at in steps[whole] if step is None or at == step]):
        stored = archive.weights(at)
        if all(
            name in stored and stored[name].tobytes() == now.tobytes() for name, now in parameters.items()
        ):
            # What rank 0 noted stays rank 0's.
            return dataclasses.replace(resume_points.resume_point(archive, at), taken={}, notes=[], gaps=[])
    raise RecordError(
        f"cannot resume {archive.path!r}: every rank has updates up to step {min(archive.committed.values())}, and no "
        "snapshot until then has the weights of the model; load a checkpoint saved after run.flush() on every "
        "rank, or record into a new archive"
    )


def _parameters(model: nn.Module) -> dict[str, np.ndarray]:
    """Parameters by name as archives hold them. Buffers may differ between ranks."""
    named = {unwrapped_name(name): p.detach() for name, p in unwrap(model).named_parameters()}
    return {name: to_numpy(p) for name, p in whole(named).items()}
