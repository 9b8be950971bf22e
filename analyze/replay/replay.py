"""Replay: the network of an archive at any snapshot, trusted only once it reproduces what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from analyze.arrays import View
from analyze.replay.examples import Examples, join
from analyze.replay.state import State
from tracer.archive import Archive
from tracer.errors import MissingTraceError, did_you_mean
from tracer.network import Network
from tracer.rerun import reproduces
from tracer.rerun.stored import Networks, probe_of, tensors_of, to_device, usable_device
from tracer.spec.correctness import Correctness


class Replay:
    """The archive's network with the weights of any snapshot.

    device: where it runs. model: for an archive whose network could not be traced, or uses operations that
    are not run from an archive: a function that returns the module, or (module, loss); its code is run, so
    it is only ever given by the user. memory: bytes one pass may use.

    steps: int64, the snapshots with weights. networks: by step. probes: names of the probes.
    MissingTraceError where weights or network are not recorded.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        device: str | torch.device = "cpu",
        model: Callable[[], Any] | None = None,
        memory: int = 1 << 30,
        data: Any = None,
    ) -> None:
        self.archive, self.device, self.memory = archive, usable_device(device), memory
        self.data = data
        self.steps = archive.steps("weights")
        self.probes = list(archive.probes)
        self.networks = Networks(archive, model)
        self._examples: dict[str, Examples] = {}
        self._exact: dict[int, bool | None] = {}
        self._last: State | None = None

    def network(self, step: int) -> Network:
        """The network that holds at a step."""
        return self.networks.at(step)

    def probe(self, name: str) -> Examples:
        """The examples of a probe, on the device."""
        if name not in self._examples:
            view = self.archive.probes[name]
            probe = probe_of(view, self.network(int(self.steps[0])))
            inputs, targets = (to_device(tree, self.device) for tree in (probe.inputs, probe.targets))
            chunks = tuple((int(start), int(stop)) for start, stop in view.chunks) or None
            if chunks and chunks[-1][1] < probe.n:
                chunks = (*chunks, (chunks[-1][1], probe.n))
            rule = Correctness.from_card(self.archive.card)
            self._examples[name] = Examples(inputs, targets, chunks, view.ids, name, view.split, rule)
        return self._examples[name]

    def at(self, step: int) -> State:
        """The state after `step` updates; ArchiveError where it does not reproduce the recorded outputs."""
        step = int(step)
        if self._last is not None and self._last.step == step:
            return self._last
        if step not in self.steps:
            raise MissingTraceError(
                f"no weights are recorded at step {step}; {did_you_mean(str(step), self.steps)}"
            )
        tensors = tensors_of(self.archive, step, self.device)
        state = State(step, self.network(step), tensors, probe=self.probe, memory=self.memory)
        if step not in self._exact:
            self._exact[step] = reproduces(self.archive, step, state.network, tensors, self._tensors)
        state.exact = self._exact[step]
        self._last = state
        return state

    def _tensors(self, name: str) -> tuple[Any, Any]:
        examples = self.probe(name)
        return examples.inputs, examples.targets

    def states(self, steps: Sequence[int] | np.ndarray | None = None) -> States:
        """States of some steps (default: all), one in memory at a time."""
        return States(self, self.steps if steps is None else steps)


class States(Sequence[State]):
    """What a metric that reads `states` is given: one `State` a snapshot, made and checked when looked at."""

    def __init__(
        self,
        replay: Replay,
        steps: Sequence[int] | np.ndarray,
        parts: Sequence[tuple[str, int]] = (),
        lead: int | None = None,
    ) -> None:
        self.replay, self.steps, self._lead = replay, tuple(int(step) for step in steps), lead
        self._parts = tuple(parts)

    @property
    def lead(self) -> State | None:
        """The state before the first one, where a metric compares in time and there is one."""
        return None if self._lead is None else self.replay.at(self._lead)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return States(self.replay, self.steps[position], self._parts)
        return self.replay.at(self.steps[position])

    def examples(self, limit: int | None = None) -> Examples:
        """The examples this metric is computed on (by its scope), at most `limit` of each probe."""
        parts = self._parts or [(name, self.replay.archive.probes[name].n) for name in self.replay.probes]
        return join(
            [self.replay.probe(name).first(n if limit is None else min(n, limit)) for name, n in parts]
        )


def states_of(view: View) -> States:
    """States of a view's snapshots, with the examples of its probes."""
    return States(_replay(view), view.steps, list(zip(view.probes, view.counts, strict=True)), view.lead)


def last_state_of(view: View) -> State:
    """State of the last snapshot with weights."""
    replay = _replay(view)
    return replay.at(int(replay.steps[-1]))


def networks_of(view: View) -> Networks:
    """The networks of a view's archive."""
    return _replay(view).networks


def _replay(view: View) -> Replay:
    if "replay" not in view.worker:  # shared by its blocks: what was read and checked once stays so
        view.worker["replay"] = getattr(view.archive, "replay", None) or replay_of(view.archive, view.replay)
    replay: Replay = view.worker["replay"]
    return replay


def replay_of(archive: Archive, settings: Mapping[str, Any]) -> Replay:
    """The replay of an archive with the `device`, `model`, `memory` and `data` of `analyze.run(replay=...)`."""
    chosen = {
        name: settings[name]
        for name in ("device", "model", "memory", "data")
        if settings.get(name) is not None
    }
    return Replay(archive, **chosen)
