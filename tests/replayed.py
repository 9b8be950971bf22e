"""States of small models without an archive, for tests of metrics that run a network again."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tracer
from analyze.replay import Examples, State
from tracer.network.copies import named_tensors
from tracer.network.memo import trace_once


class States(list):
    """What the engine hands to a replay metric: states in order, and the examples they are to be run on."""

    def __init__(self, states: Sequence[State], examples: Examples) -> None:
        super().__init__(states)
        self.steps = tuple(state.step for state in states)
        self._examples = examples

    def examples(self, limit: int | None = None) -> Examples:
        return self._examples.first(limit)


def mlp(sizes=(4, 5, 3), activation=nn.ReLU, seed=0, dtype=torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def examples(n=6, shape=(4,), classes=3, seed=1, dtype=torch.float64) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return Examples(inputs, torch.arange(n) % classes)


def state_of(model: nn.Module, given: Examples, loss=F.cross_entropy, step=0) -> State:
    few = given.first(4)
    network = trace_once(model, few.inputs, few.targets, loss)
    return State(
        step, network, {name: value.detach().clone() for name, value in named_tensors(model).items()}
    )


def moved(state: State, scale: float, step: int, seed=0) -> State:
    """The same network with every parameter moved a little."""
    generator = torch.Generator().manual_seed(seed)
    changes = {
        name: state.tensors[name]
        + scale * torch.randn(state.tensors[name].shape, generator=generator, dtype=torch.float64)
        for name in state.parameters
    }
    other = state.with_tensors(changes)
    other.step = step
    return other


def train(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    given: Examples,
    *,
    epochs=2,
    batch=5,
    snapshots=None,
    probe: int | None = None,
    loss=F.cross_entropy,
    change=lambda x: x,
    seed=3,
    log=True,
    **options,
) -> tracer.archive.Archive:
    """Record a run with shuffled minibatches; `change` is applied to every batch of inputs."""
    loader = DataLoader(
        TensorDataset(given.inputs, given.targets),
        batch_size=batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    known = given.first(probe)
    with tracer.record(
        path,
        model,
        optimizer,
        loss=loss,
        probes={"train": (known.inputs, known.targets)},
        snapshots=snapshots or tracer.every(3),
        **options,
    ) as run:
        for _ in range(epochs):
            for x, y in run.batches(loader):
                value = loss(model(change(x)), y)
                value.backward()
                optimizer.step()
                optimizer.zero_grad()
                if log:
                    run.log(loss=value)
    return tracer.open(path)
