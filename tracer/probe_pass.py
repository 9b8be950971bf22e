"""The probe pass: every stream of every probe at one snapshot, from one forward pass (and one backward) a chunk.

It runs the network table on the live weights and nothing else: the user's module, its autocast, its grad mode, its
`.grad` and its random streams are not touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer import budget
from tracer.collect import Blocks, Collector, compact
from tracer.errors import RecordError
from tracer.forms import Form, Full
from tracer.gradients import Backward, Plan, RuleError, Unit
from tracer.leftover import Leftover
from tracer.network import Network
from tracer.observe import Action, Arrays, Chunk, Units, actions, as_stored
from tracer.table import plain
from tracer.trees import leaves_of, rebuild

if TYPE_CHECKING:
    from tracer.probe import Probe

STREAMS = ("outputs", "sums", "masks", "gradients", "activations")
Declared = tuple[np.dtype, tuple[int, ...], tuple[str, ...]]


@dataclass
class _Ready:
    """A probe, its examples on the network's device, its chunks and how many examples each stream takes."""

    name: str
    probe: "Probe"
    inputs: Any
    targets: Any
    taken: dict[str, int]
    chunks: list[tuple[int, int]]


class ProbePass:
    """Observes probes through a network.

    tensors: live parameters and buffers by name (their device is where the passes run). streams: what may ever be
    asked for. gradients: "exact", "gram", "none", or "auto" (exact up to 64 MiB a snapshot). memory: bytes that one
    pass may use; more is refused with the figure. chunk: examples that go through together (default: what fits).
    excluded: parameters (name: why) whose rules are not to be trusted.

    mode, reason: how gradients are kept, and why. ways: by layer, "rows", "vmap" or "loop" (or two of them).
    layout: {group: {array: (dtype, shape, dims)}} of one snapshot; attributes: {group: {...}}; static: {group:
    (arrays, dims, attributes)} of the probes themselves; sites: rows of the table of sites; notes: sentences for the
    user. RecordError, naming the probe, where examples do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        probes: Mapping[str, "Probe"],
        *,
        tensors: Mapping[str, Tensor],
        streams: Sequence[str] | frozenset[str] = STREAMS,
        gradients: str = "auto",
        memory: int = 1 << 30,
        chunk: int | None = None,
        excluded: Mapping[str, str] | None = None,
    ) -> None:
        if not probes:
            raise RecordError("there are no probes; give at least one, as in probes={'train': (inputs, targets)}")
        if gradients not in ("auto", "exact", "gram", "none"):
            raise RecordError(f"gradients={gradients!r}: expected 'auto', 'exact', 'gram' or 'none'")
        self._network, self.notes = network, list[str]()
        self.streams = frozenset(streams) & frozenset(STREAMS)
        if gradients == "none" or not network.layers or network.losses is None:
            self.streams -= {"gradients"}
        self._units = Units.of(network.sites)
        self._device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        sizes = budget.chunk_sizes(network, memory, chunk)
        self._probes = [self._ready(name, probe, sizes) for name, probe in probes.items()]
        self._actions: dict[frozenset[str], dict[str, list[Action]]] = {}
        self._plan = Plan.of(network, excluded)
        self._survey(tensors)
        self._blocks = self._choose(gradients)
        self._describe()
        budget.check(self._sizes(memory), memory)
        self._note_absent_classes()

    # Preparing.

    def _ready(self, name: str, probe: "Probe", sizes: tuple[int, int]) -> _Ready:
        _check_fit(name, probe, self._network)
        taken = {stream: probe.taken(stream) for stream in sorted(self.streams)}
        if not self._units.n_masks:
            taken.pop("masks", None)
        taken = {stream: count for stream, count in taken.items() if count}
        chunks = budget.chunks(taken.get("gradients", 0), max(taken.values(), default=0), *sizes)
        with torch.inference_mode(False), torch.no_grad():
            inputs, targets = (
                rebuild(tree, iter([leaf.to(self._device) for leaf in leaves_of(tree)]))
                for tree in (probe.inputs, probe.targets)
            )
        return _Ready(name, probe, inputs, targets, taken, chunks)

    def _survey(self, tensors: Mapping[str, Tensor]) -> None:
        """Two examples through everything: what outputs look like, which rules apply, what gradients are made of."""
        first = self._probes[0]
        n = min(2, first.probe.n)
        self._shapes = {name: tuple(tensors[name].shape) for name in self._plan.layer_of}
        self._forms: dict[str, Form] = {}
        self._leftover: Leftover | None = None
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        with torch.inference_mode(False):
            if "gradients" in self.streams:
                self._try_rules(detached, first, n)
            else:
                with torch.no_grad():
                    self._sample = self._through(detached, first, 0, n, None)

    def _try_rules(self, tensors: dict[str, Tensor], first: _Ready, n: int) -> None:
        while True:
            backward = Backward(self._plan, n, self._batch(n), lambda _, forms: self._forms.update(forms))
            with torch.enable_grad():
                self._sample = self._through(tensors, first, 0, n, backward)
            try:
                assert self._sample[1] is not None
                backward.run(self._sample[1])
                break
            except RuleError as error:
                excluded = self._plan.leftover | dict.fromkeys(error.names, str(error))
                self._plan = Plan.of(self._network, excluded)
                self._forms.clear()
        if self._plan.leftover:
            self._leftover = Leftover(self._network, list(self._plan.leftover))
            self._forms |= self._left_over(tensors, first, 0, n)
        self._forms = compact(self._forms, self._plan.partner)

    def _choose(self, wanted: str) -> dict[str, Blocks] | None:
        ways: dict[str, set[str]] = {layer.name: set() for layer in self._network.layers}
        for name, layer in self._plan.layer_of.items():
            way = self._leftover.way if self._leftover and name in self._plan.leftover else "rows"
            ways[layer].add(way)
        self.ways = {layer: "+".join(sorted(found)) for layer, found in ways.items()}
        if "gradients" not in self.streams or not any("gradients" in p.taken for p in self._probes):
            self.streams -= {"gradients"}
            self.mode, self.reason, self.ways = "none", "no gradients are recorded", {}
            return None
        blocks = {
            p.name: Blocks(count, self._forms, self._shapes, self._plan)
            for p in self._probes
            if (count := p.taken.get("gradients", 0))
        }
        size = sum(4 * block.size for block in blocks.values())
        self.mode, self.reason = budget.gradient_mode(wanted, size)
        return blocks if self.mode == "exact" else None

    def _describe(self) -> None:
        network, units = self._network, self._units
        self.sites = [
            {**plain(site), "start": start} for site, start in zip(network.sites, units.masks, strict=True)
        ]
        outputs, losses = self._sample
        self.layout: dict[str, dict[str, Declared]] = {}
        self.attributes: dict[str, dict[str, Any]] = {}
        self.static: dict[str, tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]], dict[str, Any]]] = {}
        for p in self._probes:
            path = f"probes/{p.name}"
            arrays = p.probe.arrays()
            dims = {name: _dims("example", name, array.ndim - 1) for name, array in arrays.items()}
            chunks = [list(bounds) for bounds in p.chunks]
            card = {"split": p.probe.split, "capture": p.taken, "chunks": chunks, "digest": p.probe.digest}
            self.static[path] = (arrays, dims, card)
            for stream, count in p.taken.items():
                declared = self._declare(stream, count, p.name, as_stored(outputs), losses)
                if declared:
                    self.layout[f"{path}/{stream}"] = declared
            if self._blocks is not None and p.name in self._blocks:
                self.attributes[f"{path}/gradients"] = {"blocks": self._blocks[p.name].blocks}
        counts = [(p.name, p.taken["gradients"]) for p in self._probes if "gradients" in p.taken]
        if "gradients" in self.streams and counts:
            n = sum(count for _, count in counts)
            shape = (len(network.layers), n, n)
            self.layout["gram"] = {"gram": (np.dtype("float64"), shape, ("layer", "example", "example_2"))}
            self.attributes["gram"] = {
                "probes": [list(pair) for pair in counts],
                "mode": self.mode,
                "reason": self.reason,
                "ways": self.ways,
            }

    def _declare(
        self, stream: str, count: int, name: str, outputs: np.ndarray, losses: Tensor | None
    ) -> dict[str, Declared]:
        example, network, units = f"{stream}_example", self._network, self._units
        double, single, byte = (np.dtype(kind) for kind in ("float64", "float32", "uint8"))
        match stream:
            case "outputs":
                shape = (count, *outputs.shape[1:])
                declared = {"outputs": (outputs.dtype, shape, _dims(example, "output", outputs.ndim - 1))}
                if losses is not None:
                    declared["loss"] = (as_stored(losses).dtype, (count,), (example,))
                return declared
            case "masks":
                return {"bits": (byte, (units.n_masks, -(-count // 8)), ("unit", "masks_byte"))}
            case "sums":
                return {
                    "pre": (double, (count, len(network.calls)), (example, "call")),
                    "post": (double, (count, len(network.sites)), (example, "site")),
                }
            case "activations":
                return {"values": (single, (count, units.n_values), (example, "activations_unit"))}
            case _ if self._blocks is not None:
                return {"values": (single, (self._blocks[name].size,), ("gradients_element",))}
        return {}

    def _sizes(self, memory: int) -> dict[str, int]:
        """Bytes a pass takes, by what takes them."""
        parts = {
            group: sum(prod(shape) * dtype.itemsize for dtype, shape, _ in arrays.values())
            for group, arrays in self.layout.items()
        }
        longest = max((stop - start for p in self._probes for start, stop in p.chunks), default=0)
        parts["the examples in flight (chunk)"] = 2 * self._batch(longest) * budget.example_bytes(self._network)
        backward = [bounds for p in self._probes for bounds in p.chunks if bounds[0] < p.taken.get("gradients", 0)]
        if len(backward) > 1:  # what is kept until the last chunk has come
            n = sum(p.taken.get("gradients", 0) for p in self._probes)
            parts["gradients on their way to inner products"] = n * 4 * sum(f.factor_size for f in self._forms.values())
        return parts

    def _note_absent_classes(self) -> None:
        for p in self._probes:
            for stream, count in p.taken.items():
                absent = p.probe.absent_classes(count)
                if absent:
                    self.notes.append(
                        f"Probe {p.name!r}: {stream} are captured for the first {count} examples, among which there is "
                        f"none of class {', '.join(map(str, absent))}; shuffle the probe or raise capture[{stream!r}]."
                    )

    # Observing.

    def run(self, tensors: Mapping[str, Tensor], streams: frozenset[str] | set[str]) -> Arrays:
        """Observe the probes with these weights: {group: {array: values}} of the streams asked for, as in `layout`."""
        asked = self.streams & streams
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        collector = self._collector() if "gradients" in asked else None
        observed: Arrays = {}
        with torch.inference_mode(False):
            for p in self._probes:
                arrays = self._allocate(p, asked)
                for start, stop in p.chunks:
                    self._chunk(detached, p, start, stop, asked, arrays, collector)
                observed |= {f"probes/{p.name}/{stream}": found for stream, found in arrays.items()}
        if collector is not None:
            observed |= {f"probes/{name}/gradients": {"values": v} for name, v in collector.values.items()}
            observed["gram"] = {"gram": collector.gram()}
        return observed

    def _collector(self) -> Collector:
        counts = [p.taken.get("gradients", 0) for p in self._probes]
        chunks = sum(start < count for p, count in zip(self._probes, counts, strict=True) for start, _ in p.chunks)
        layers = [layer.name for layer in self._network.layers]
        return Collector(self._plan, layers, sum(counts), chunks, self._blocks)

    def _allocate(self, p: _Ready, asked: frozenset[str]) -> Arrays:
        arrays: Arrays = {}
        for stream in p.taken.keys() & asked - {"gradients"}:
            declared = self.layout.get(f"probes/{p.name}/{stream}", {})
            # Bits are ORed in; sums of rows whose examples are unknown stay undefined.
            fill = {"masks": 0, "sums": np.nan}.get(stream)
            arrays[stream] = {
                name: np.empty(shape, dtype) if fill is None else np.full(shape, fill, dtype)
                for name, (dtype, shape, _) in declared.items()
            }
        return arrays

    def _chunk(
        self,
        tensors: dict[str, Tensor],
        p: _Ready,
        start: int,
        stop: int,
        asked: frozenset[str],
        arrays: Arrays,
        collector: Collector | None,
    ) -> None:
        counts = {s: min(stop, n) - start for s, n in p.taken.items() if s in asked and n > start}
        if not counts:
            return
        n = stop - start
        chunk = Chunk(self._actions_of(frozenset(counts)), arrays, start, counts, self._batch(n))
        backward = None
        if collector is not None and "gradients" in counts:
            collector.begin(p.name, start)
            backward = Backward(self._plan, n, self._batch(n), collector.receive)
        with torch.set_grad_enabled(backward is not None):
            outputs, losses = self._through(tensors, p, start, stop, backward, chunk)
            chunk.finish(outputs, losses)
            if backward is not None and collector is not None and losses is not None:
                backward.run(losses)
        if backward is not None and collector is not None and self._leftover is not None:
            for name, form in self._left_over(tensors, p, start, stop).items():
                collector.receive(Unit((name,), (), joint=False), {name: form})

    def _actions_of(self, streams: frozenset[str]) -> dict[str, list[Action]]:
        if streams not in self._actions:
            self._actions[streams] = actions(self._network, self._units, streams)
        return self._actions[streams]

    def _batch(self, n: int) -> int:
        return self._network.batch or n

    def _through(
        self,
        tensors: dict[str, Tensor],
        p: _Ready,
        start: int,
        stop: int,
        backward: Backward | None,
        chunk: Chunk | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        inputs, targets = self._slice(p, start, stop)
        watchers = [watcher.visit for watcher in (chunk, backward) if watcher is not None]
        match watchers:
            case []:
                visit = None
            case [only]:
                visit = only
            case _:

                def visit(row: Any, values: Any, out: Any) -> None:
                    for watcher in watchers:
                        watcher(row, values, out)

        wanted = targets if self._network.losses is not None else None
        return self._network.run(tensors, inputs, wanted, visit=visit)

    def _slice(self, p: _Ready, start: int, stop: int) -> tuple[Any, Any]:
        trees = []
        for tree in (p.inputs, p.targets):
            parts = [leaf[start:stop] for leaf in leaves_of(tree)]
            short = self._batch(stop - start) - (stop - start)
            if short:  # a network for a fixed number of examples: repeat the last one, its results are not used
                parts = [torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) for part in parts]
            trees.append(rebuild(tree, iter(parts)))
        return trees[0], trees[1]

    def _left_over(self, tensors: dict[str, Tensor], p: _Ready, start: int, stop: int) -> dict[str, Form]:
        assert self._leftover is not None
        rows = self._leftover.rows(tensors, *self._slice(p, start, stop), stop - start)
        return {name: Full(values) for name, values in rows.items()}


def _dims(first: str, name: str, rest: int) -> tuple[str, ...]:
    return (first, name) if rest == 1 and name == "output" else (first, *(f"{name}_{k}" for k in range(1, rest + 1)))


def _check_fit(name: str, probe: "Probe", network: Network) -> None:
    for kind, tree, declared in (
        ("input", probe.inputs, network.inputs),
        ("target", probe.targets, network.targets),
    ):
        if kind == "target" and network.losses is None:
            continue
        leaves = leaves_of(tree)
        if len(leaves) != len(declared):
            raise RecordError(
                f"Probe {name!r} has {len(leaves)} {kind} tensors, the network takes {len(declared)}"
            )
        for leaf, entry in zip(leaves, declared, strict=True):
            got, wanted = list(leaf.shape[1:]), list(entry["shape"][1:])
            dtype = str(leaf.dtype).removeprefix("torch.")
            if got != wanted or dtype != entry["dtype"]:
                raise RecordError(
                    f"Probe {name!r}: each {kind} has shape {got} and dtype {dtype}, the network takes {wanted} and "
                    f"{entry['dtype']}: bring the probe into the form of the training batches"
                )
