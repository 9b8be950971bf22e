"""Recordings to be killed, each forked from one process that has imported everything: `python -m tests.crash_server`.

A request is a line of JSON with "kind" and the arguments of the function of that name below. The answers are
lines too: `pid N`, then `ack STEP` of the child for each step it knows to be committed, then `end`; and after
another line, the status.
"""

import json
import os
import random
import sys
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tracer.recovery.resume import resume
from tracer.writer import Writer

SHAPES = {
    "weights/float32": (2000,),
    "probes/p/outputs/loss": (40,),
    "probes/p/activations/values": (9, 30_000),
}
RARE = 5  # rounds with one snapshot of activations, which are sharded objects


@dataclass(frozen=True)
class Plan:
    """What one process records: steps from ``first`` on, a snapshot at the end of each round."""

    seed: int
    first: int
    rounds: int

    def ends(self) -> list[int]:
        """The last step of each round."""
        dice, at, ends = random.Random(self.seed), self.first - 1, []
        for _ in range(self.rounds):
            at += dice.choice((1, 1, 2, 5, 40, 700))
            ends.append(at)
        return ends


def loss(step: int, seed: int) -> float:
    return step + 0.5 + (seed % 97) / 128


def ids(step: int, seed: int) -> np.ndarray:
    return np.arange(step % 37) * 3 + step + seed % 97


def values(step: int, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return ((np.arange(prod(shape), dtype=np.float32) % 4096 + 1) * (step + 1) + seed % 97).reshape(shape)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def write(path: str, seed: int, first: int, rounds: int, power: bool = False) -> None:
    """Record a plan into a new archive, or from step ``first`` on into one that exists; close at the end."""
    options: dict[str, Any] = {"durability": "power" if power else "process"}
    new = not Path(path).exists()
    writer = (
        Writer(path, attributes={"title": "soak"}, **options)
        if new
        else resume(path, step=first - 1, **options)
    )
    writer.static("probes/p", {"id": np.arange(40)}, {"id": ("example",)}, {"split": "train"})
    for path_, shape in SHAPES.items():
        group, name = path_.rsplit("/", 1)
        dims = tuple(f"{name}_axis_{axis}" for axis in range(len(shape)))
        writer.stream(group, {name: ("float32", shape, dims)})
    writer.ragged("minibatch", {"loss": ("float64", (), ())}, {"mode": "train", "captured": ["loss"]})
    at = first
    for number, end in enumerate(Plan(seed, first, rounds).ends()):
        for step in range(at, end + 1):
            put(writer, step, seed, number)
            for path_, shape in SHAPES.items() if step == end else ():
                if "activations" not in path_ or number % RARE == RARE - 1:
                    group, name = path_.rsplit("/", 1)
                    writer.append(group, step, False, {name: values(step, seed, shape)})
            writer.commit()
        if number % 3 == 2:
            writer.mark_epoch_end(end)
        writer.flush()
        say(f"ack {end}")
        at = end + 1
    writer.close()


def put(writer: Writer, step: int, seed: int, number: int) -> None:
    examples = {"minibatch/loss": ids(step, seed) * 0.5}
    scalars = {"late": float(step)} if step >= 100 else {}
    rates = [0.1] * (1 + (step >= 60))
    writer.row(
        step,
        epoch=number // 3,
        time=1.0 + step,
        ids=ids(step, seed),
        loss=loss(step, seed),
        lr=rates,
        scalars=scalars,
        examples=examples,
    )


def train(path: str, checkpoint: str, epochs: int) -> None:
    """A training that saves a checkpoint after every epoch, with `record(resume=True)`."""
    import torch
    import torch.nn.functional as F

    import tracer
    from tests.loops import blobs, mlp

    model, done = mlp(), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if Path(checkpoint).exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["epochs"]
    x, y = blobs()
    settings: dict[str, Any] = {"snapshots": tracer.every(2) | tracer.epochs(), "resume": True}
    with tracer.record(
        path, model, optimizer, loss=F.cross_entropy, probes={"train": (x[:12], y[:12])}, **settings
    ) as run:
        for epoch in range(done, epochs):
            for batch in torch.randperm(24, generator=torch.Generator().manual_seed(epoch)).split(8):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
                run.step(ids=batch)
            run.flush()
            say(f"ack {3 * (epoch + 1)}")
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epochs": epoch + 1,
            }
            torch.save(state, f"{checkpoint}.new")
            Path(f"{checkpoint}.new").replace(checkpoint)


def pack(path: str) -> None:
    """Pack in place, and unpack again."""
    from tracer import share

    share.pack(path)
    share.unpack(path)


def repair(path: str) -> None:
    """Repair an archive that was damaged."""
    from tracer.recovery.repair import repair as mend

    mend(path)


def describe(path: str, notes: int) -> None:
    """Set attributes many times."""
    from tracer.share import set_attributes

    for number in range(notes):
        set_attributes(path, {"notes": f"number {number}"})
        say(f"ack {number}")


KINDS = {task.__name__: task for task in (write, train, pack, repair, describe)}


def preload() -> None:
    """Import in the parent what its children use; none of it starts a thread."""
    import torch

    import tracer.recorder
    import tracer.recovery.repair
    import tracer.recovery.resume
    import tracer.share.attributes
    import tracer.share.packs

    torch.set_num_threads(1)
    assert tracer.recorder and tracer.share


def main() -> None:
    warnings.simplefilter("ignore")
    preload()
    say("ready")
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            say(f"pid {os.getpid()}")
            try:
                KINDS[request.pop("kind")](**request)
                code = 0
            except BaseException as error:
                say(f"error {type(error).__name__}: {error}".replace("\n", " "))
            finally:
                os._exit(code)
        os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOWAIT
        )  # until the next request nobody else has its number
        say("end")
        sys.stdin.readline()
        say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


if __name__ == "__main__":
    main()
