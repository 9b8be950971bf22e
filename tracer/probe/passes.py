"""The probe pass: every stream of every probe at one snapshot, one forward (and one backward) pass a chunk.

It runs the network table on the live weights and nothing else: the user's module, its autocast, its grad
mode, its `.grad` and its random streams are not touched.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer.errors import ArchiveError, RecordError
from tracer.gradients import Backward, Plan, Unit
from tracer.gradients.collect import Blocks, Collector
from tracer.gradients.sketch import Setting, SketchCollector, Sketches
from tracer.network import Network
from tracer.network.copies import plain_math
from tracer.network.cost import operations
from tracer.network.precision import full_precision
from tracer.network.table import plain
from tracer.probe import fitting
from tracer.probe import memory as budget
from tracer.probe.answers import Answers, is_tokens, loss_row_of
from tracer.probe.examples import Examples
from tracer.probe.layout import Static, gram_layout, sketch_layout, static_layout
from tracer.probe.needs import Needs, Work
from tracer.probe.observe import Arrays as OnDevice
from tracer.probe.observe import Chunk, Look, Units, looks_of
from tracer.probe.observers import OBSERVERS, Declared, Seen, allocate, observed
from tracer.probe.survey import Survey, left_over
from tracer.spec import PROBE_STREAMS
from tracer.spec.correctness import Correctness

if TYPE_CHECKING:
    from tracer.probe import Probe

Arrays = dict[str, dict[str, np.ndarray]]

SIGNALS = 3  # of the largest row, that are on their way back at a time


class ProbePass:
    """Observes probes through a network.

    tensors: live parameters and buffers by name; their device is where the passes run. streams: what may ever
    be asked for. gradients: "exact", "gram", "sketch" (made as `sketch` says), "none", or "auto" (exact up to
    64 MiB a snapshot). memory: bytes
    that a pass and what it leaves to be written may use, and cost: training steps of `batch` examples that it may
    take: what was not asked for is fitted into both, what was asked for and does not fit is refused with the figure.
    chunk: examples that go through together (default: what fits). excluded: parameters (name: why) whose rules are not
    to be trusted. rule: what the loss calls correct. whole: outputs are taken whole, over however many classes. beside:
    bytes of `memory` that something else takes.

    probes: as they are taken now, each stream with its number of examples. steps: training steps that a snapshot is
    worth, None where that is not known. short: whether it takes no more than is always taken. device: where the probes
    are. streams: what is recorded. mode, reason: how gradients are kept, and why. ways: by layer, "rows", "vmap" or
    "loop". layout: {group: {array: (dtype, shape, dims)}} of one snapshot; attributes: {group: {...}}; static: {group:
    (arrays, dims, attributes)} of the probes themselves; sites: rows of the table of sites, with the first unit of
    each; notes: sentences for the user; lowered: the same of what was not asked for and is less than usual; room: bytes
    of `memory` for copies that wait to be written; object_bytes: of an object that snapshots share, at most.
    RecordError, naming the probe, where examples do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        probes: Mapping[str, "Probe"],
        *,
        tensors: Mapping[str, Tensor],
        streams: Iterable[str] = PROBE_STREAMS,
        gradients: str = "auto",
        sketch: Setting = Setting(),  # noqa: B008
        memory: int = 1 << 30,
        chunk: int | None = None,
        excluded: Mapping[str, str] | None = None,
        cost: float = fitting.COST,
        batch: int | None = None,
        rule: Correctness | None = None,
        whole: bool = False,
        beside: int = 0,
    ) -> None:
        if not probes:
            raise RecordError(
                "there are no probes: give at least one, as in probes={'train': (inputs, targets)}"
            )
        if gradients not in budget.GRADIENTS:
            raise RecordError(
                f"gradients={gradients!r}: expected one of {', '.join(map(repr, budget.GRADIENTS))}"
            )
        self._network, self._rule = network, rule
        self._units = Units.of(network.sites)
        self._looks: dict[frozenset[str], dict[str, list[Look]]] = {}
        self.device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        sizes = budget.chunk_sizes(network, memory, chunk)
        given = (tensors, streams, gradients, sizes)
        self._probes = self._examples(probes, *given)
        self.streams = frozenset(stream for p in self._probes for stream in p.taken)
        with_gradients = "gradients" in self.streams
        with plain_math(), full_precision():
            self._survey = Survey(network, _detached(tensors), self._probes[0], with_gradients, excluded)
            self._answers = self._find_answers(_detached(tensors), whole)
        work = self._work(tensors, batch)
        self._sketches = Sketches(self._survey.plan, self._shapes(tensors), sketch, self.device)
        needs = replace(self._needs(gradients, tensors, sizes, work, memory), beside=beside)
        fitted = fitting.fit(probes, [s for s in PROBE_STREAMS if s in self.streams], needs, cost)
        self.probes = {name: probe.taking(self._counts(fitted, name)) for name, probe in probes.items()}
        if any(p.taken != fitted.counts[p.name] for p in self._probes):
            self._probes = self._examples(self.probes, *given)
            self.streams = frozenset(stream for p in self._probes for stream in p.taken)
        self._groups = [
            self._survey.plan.only([name for names in group for name in names]) for group in fitted.groups
        ]
        self.ways = self._survey.ways if "gradients" in self.streams else {}
        self.mode, self.reason, self._blocks = self._kept(*fitted.gradients, tensors)
        self._collector: Callable[[torch.device], Collector | SketchCollector] = (
            partial(
                SketchCollector,
                self._sketches,
                {p.name: p.n_gradients for p in self._probes if p.n_gradients},
            )
            if self.mode == "sketch"
            else partial(Collector, self._survey.plan, *self._expected(), self._blocks)
        )
        self._describe()
        spent = needs.cost(fitted.counts, len(fitted.groups))
        self.batch = None if work is None else work.batch
        self.steps = None if work is None else spent / work.step
        self.short = work is not None and spent <= fitting.FREE
        self.lowered = fitted.notes
        self.room, self.object_bytes = fitted.room, fitted.shared
        self.notes = [note for p in self._probes for note in _absent_classes(p)]

    # Preparing.

    def _examples(
        self,
        probes: Mapping[str, "Probe"],
        tensors: Mapping[str, Tensor],
        streams: Iterable[str],
        gradients: str,
        sizes: tuple[int, int],
    ) -> list[Examples]:
        wanted = set(streams) & set(PROBE_STREAMS)
        if gradients == "none" or not self._network.layers or self._network.losses is None:
            wanted.discard("gradients")
        if not self._units.n_masks:
            wanted.discard("masks")
        if not all(is_tokens(self._rule, probe.targets) for probe in probes.values()):
            wanted.discard("tokens")
        ordered = [stream for stream in PROBE_STREAMS if stream in wanted]
        return [
            Examples(name, probe, self._network, self.device, ordered, sizes)
            for name, probe in probes.items()
        ]

    def _find_answers(self, tensors: dict[str, Tensor], whole: bool) -> Answers:
        p, n = self._probes[0], min(2, self._probes[0].probe.n)
        _, targets = p.cut(0, n)
        answers = Answers.of(self._rule, self._survey.outputs, targets, whole)
        if not answers.tokens or self._network.losses is None:
            return answers
        with torch.no_grad():
            row = loss_row_of(
                answers,
                self._network.rows,
                lambda visit: p.through(tensors, 0, n, [visit]),
                targets,
                p.batch(n),
            )
        return replace(answers, loss_row=row)

    @staticmethod
    def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def _kept(
        self, wanted: str, why: str, tensors: Mapping[str, Tensor]
    ) -> tuple[str, str, dict[str, Blocks]]:
        if "gradients" not in self.streams:
            return "none", "no gradients are recorded", {}
        plan, forms = self._survey.plan, self._survey.forms
        shapes = {name: shape for name, shape in self._shapes(tensors).items() if name in plan.layer_of}
        double = any(tensors[name].dtype == torch.float64 for name in plan.layer_of)
        about = (forms, shapes, plan, torch.float64 if double else torch.float32)
        blocks = {p.name: Blocks(p.n_gradients, *about) for p in self._probes if p.n_gradients}
        mode, reason = budget.gradient_mode(wanted, sum(block.nbytes for block in blocks.values()))
        return mode, why or reason, blocks if mode == "exact" else {}

    def _describe(self) -> None:
        network, units = self._network, self._units
        starts = zip(network.sites, units.masks, strict=True)
        self.sites = [{**plain(site), "start": start} for site, start in starts]
        self.layout: dict[str, Declared] = {}
        self.attributes: dict[str, dict[str, Any]] = {}
        self.static: dict[str, Static] = {}
        for p in self._probes:
            path, blocks = f"probes/{p.name}", self._blocks.get(p.name)
            seen = Seen(network, units, self._survey.outputs, self._survey.losses, blocks, self._answers)
            self.static[path] = static_layout(p)
            for stream, count in p.taken.items():
                declared = OBSERVERS[stream].declare(seen, count)
                if declared:
                    self.layout[f"{path}/{stream}"] = declared
            if blocks is not None:
                self.attributes[f"{path}/gradients"] = {"blocks": blocks.blocks}
            if "outputs" in p.taken and self._answers.top:
                self.attributes[f"{path}/outputs"] = {"classes": self._answers.classes}
            if "tokens" in p.taken:
                self.attributes[f"{path}/tokens"] = {"first": self._answers.first}
        if self.mode == "sketch":
            for p in self._probes:
                if p.n_gradients:
                    group, sketches = sketch_layout(p, self._sketches)
                    self.layout[group], self.attributes[group] = sketches
        elif "gradients" in self.streams:
            about = {"mode": self.mode, "reason": self.reason, "ways": self.ways}
            self.layout["gram"], self.attributes["gram"] = gram_layout(
                len(network.layers), self._probes, about
            )

    def _counts(self, fitted: fitting.Fitted, name: str) -> dict[str, int]:
        return {stream: fitted.counts[name].get(stream, 0) for stream in self.streams}

    def _work(self, tensors: Mapping[str, Tensor], batch: int | None) -> Work | None:
        """What passes cost; None for a network that is no table, or cannot be counted."""
        if not isinstance(self._network, Network):
            return None
        p = self._probes[0]
        inputs, targets = p.cut(0, 1)
        try:
            n = operations(self._network, tensors, inputs, None if self._network.losses is None else targets)
        except ArchiveError:
            return None
        return Work(n // p.batch(1), len(self._network.rows), batch or fitting.batch_of(p.probe))

    def _needs(
        self,
        gradients: str,
        tensors: Mapping[str, Tensor],
        sizes: tuple[int, int],
        work: Work | None,
        memory: int,
    ) -> Needs:
        """What a pass takes, from the sizes of two examples."""
        forms, plan = self._survey.forms, self._survey.plan
        double = any(tensors[name].dtype == torch.float64 for name in plan.layer_of)
        kind = torch.float64 if double else torch.float32
        seen = Seen(
            self._network, self._units, self._survey.outputs, self._survey.losses, answers=self._answers
        )
        shapes = {name: shape for name, shape in self._shapes(tensors).items() if name in plan.layer_of}
        units = {unit.names: unit for unit in plan.units.values()}
        held = {
            names: kind.itemsize * sum(forms[name].factor_size for name in names if name in forms)
            for names in [*units, *((name,) for name in plan.leftover)]
        }

        def stream_bytes(stream: str, count: int) -> list[int]:
            declared = OBSERVERS[stream].declare(seen, count)
            return [prod(shape) * dtype.itemsize for dtype, shape, _ in declared.values()]

        return Needs(
            stream=stream_bytes,
            exact=Blocks(1, forms, shapes, plan, kind).nbytes if forms else 0,
            sketch=4 * self._sketches.size,
            gradients=gradients,
            gram=lambda n: 8 * len(self._network.layers) * n * n,
            flight=self._flight(),
            padded=self._network.batch or 0,
            held=held,
            chunks=sizes,
            weights=sum(tensor.nbytes for tensor in tensors.values()),
            work=work,
            memory=memory,
        )

    def _flight(self) -> tuple[int, int]:
        """Bytes of an example that goes through: with gradients, what a backward pass needs, and signals; without."""
        one, alive, largest = budget.flight_bytes(self._network)
        if self._survey.needed is None:
            return 2 * one, alive
        return min(2 * one, max(alive, self._survey.needed) + SIGNALS * largest), alive

    # Observing.

    def run(self, tensors: Mapping[str, Tensor], streams: Iterable[str]) -> Arrays:
        """Observe the probes with these weights: {group: {array: values}} of the streams asked for."""
        observed = self.observe(tensors, streams)
        return {
            group: {name: values.cpu().numpy() for name, values in arrays.items()}
            for group, arrays in observed.items()
        }

    def observe(self, tensors: Mapping[str, Tensor], streams: Iterable[str]) -> OnDevice:
        """The same as tensors on the network's device, and without waiting for it."""
        asked = self.streams & set(streams)
        detached = _detached(tensors)
        observed: OnDevice = {}
        with plain_math(), full_precision():  # gradients are made here too, outside the network
            collector = self._collector(self.device) if "gradients" in asked else None
            for p in self._probes:
                observed |= {f"probes/{p.name}/{stream}": a for stream, a in self._allocate(p, asked).items()}
            for number, plan in enumerate(self._groups if collector else self._groups[:1]):
                for p in self._probes:
                    streams_now = asked if number == 0 else asked & {"gradients"}
                    arrays = {s: observed[g] for s in asked if (g := f"probes/{p.name}/{s}") in observed}
                    for start, stop in p.chunks:
                        self._chunk(detached, p, start, stop, streams_now, arrays, collector, plan)
        return observed if collector is None else observed | collector.arrays()

    def _expected(self) -> tuple[dict[str, int], int, int]:
        """Positions of the layers, and how many examples have gradients, in how many chunks."""
        layers = {layer.name: position for position, layer in enumerate(self._network.layers)}
        chunks = sum(start < p.n_gradients for p in self._probes for start, _ in p.chunks)
        return layers, sum(p.n_gradients for p in self._probes), chunks

    def _allocate(self, p: Examples, asked: frozenset[str]) -> OnDevice:
        return {
            stream: allocate(stream, self.layout[f"probes/{p.name}/{stream}"], self.device)
            for stream in p.taken
            if stream in asked and stream != "gradients"
        }

    def _chunk(
        self,
        tensors: dict[str, Tensor],
        p: Examples,
        start: int,
        stop: int,
        asked: frozenset[str],
        arrays: OnDevice,
        collector: Collector | SketchCollector | None,
        plan: Plan,
    ) -> None:
        counts = {s: min(stop, n) - start for s, n in p.taken.items() if s in asked and n > start}
        if not counts:
            return
        batch = p.batch(stop - start)
        looks = self._looks_of(frozenset(counts))
        chunk = Chunk(looks, arrays, start, counts, batch, self._answers)
        targets = p.targets(start, stop)
        watchers = [chunk.visit] if looks else []
        if collector is None or "gradients" not in counts:
            with torch.no_grad():
                chunk.finish(*p.through(tensors, start, stop, watchers), targets)
            return
        collector.begin(p.name, start)
        backward = Backward(plan, stop - start, batch, collector.receive)
        with torch.enable_grad():
            outputs, losses = p.through(tensors, start, stop, [*watchers, backward.visit])
            chunk.finish(outputs, losses, targets)
            backward.run(losses)  # type: ignore[arg-type]
        leftover = self._survey.leftover
        if leftover is not None and plan is self._groups[0]:
            for name, form in left_over(leftover, tensors, p, start, stop).items():
                collector.receive(Unit((name,), (), joint=False), {name: form})

    def _looks_of(self, streams: frozenset[str]) -> dict[str, list[Look]]:
        if streams not in self._looks:
            looks = observed(streams, self._network, self._units, self._answers)
            self._looks[streams] = looks_of(looks, self._network)
        return self._looks[streams]


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _absent_classes(p: Examples) -> list[str]:
    notes = []
    for stream, count in p.taken.items():
        absent = p.probe.absent_classes(count)
        if absent:
            few = ", ".join(map(str, absent[:3]))
            which = f"class {few}" if len(absent) <= 3 else f"{len(absent)} classes, such as {few}"
            notes.append(
                f"Probe {p.name!r}: {stream} take the first {count} examples, none of which is of {which}: shuffle the "
                f"probe or raise capture[{stream!r}]."
            )
    return notes
