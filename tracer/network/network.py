"""A network as data: a table of operations that runs with any weights, written as JSON and read without
trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer import ops
from tracer.errors import ArchiveError, ArgumentError, RecordError, did_you_mean
from tracer.network.copies import plain_math
from tracer.network.cost import check, weighed
from tracer.network.fixed_masks import frozen
from tracer.network.program import Program, Visit
from tracer.network.pytree import leaves_of
from tracer.network.structure import find_calls, find_sites, is_random, zero_constants
from tracer.network.table import DTYPES, Call, Layer, Row, Site, needed_rows, references
from tracer.network.torch_internals import within_transform
from tracer.network.writing import write

if TYPE_CHECKING:
    pass

Reference = tuple[str, Any]
Evaluate = Callable[[int, Row, Callable[..., Any], list[Any]], Any]

_CPU = torch.device("cpu")


class Network:
    """Model and per-example loss in one table of operations.

    rows, sites, calls, layers: see `tracer.network.table`. parameters, buffers: names the rows use, tied ones once.
    constants: tensors that are neither (made in `forward`, or plain attributes). inputs, targets: shape,
    dtype and whether batched, of each tensor. output, losses: what `run` returns; correct: the row of
    what an objective calls correct, None where it does not say. batch: number of examples that
    `run` wants; None for any number. guarded: whether the cost is weighed before it is run, as for a table
    that was read. no_loss: why the losses that a table holds are not run, None where they are.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        output: Reference,
        losses: Reference | None,
        correct: Reference | None = None,
        inputs: Sequence[dict[str, Any]],
        targets: Sequence[dict[str, Any]],
        constants: Mapping[str, Tensor],
        parameters: Sequence[str],
        buffers: Sequence[str],
        sites: Sequence[Site],
        calls: Sequence[Call],
        layers: Sequence[Layer],
        batch: int | None = None,
    ) -> None:
        self.rows = list(rows)
        self.output = output
        self.losses = losses
        self.correct = correct
        self.inputs = list(inputs)
        self.targets = list(targets)
        self.constants = dict(constants)
        self.parameters = list(parameters)
        self.buffers = list(buffers)
        self.sites = list(sites)
        self.calls = list(calls)
        self.layers = list(layers)
        self.batch = batch
        self.guarded = False
        self.no_loss: str | None = None
        self._weighed: dict[Any, dict[int, tuple[int, ...]]] = {}
        self._programs: dict[Any, Program] = {}
        self._constants_on: dict[torch.device, dict[Reference, Tensor]] = {}

    def to_json(self) -> bytes:
        """The table as JSON, without the constants' values (only their digests)."""
        return json.dumps(write(self), separators=(",", ":"), sort_keys=True).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of `to_json`, which holds the constants' digests: equal networks have equal digests."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def foreign(self) -> list[str]:
        """Operations off the list: they ran here, but a reader of the archive will refuse to run them."""
        return sorted({row.op for row in self.rows} - ops.OPS.keys())

    @cached_property
    def random_rows(self) -> list[Row]:
        """Rows whose result is drawn anew at each run (dropout forced on, noise): no per-example quantity
        exists.
        """
        return [row for row in self.rows if is_random(row)]

    @cached_property
    def site_of_row(self) -> dict[int, Site]:
        """The site of each row that is one, by index."""
        return {site.row: site for site in self.sites}

    def forget_axes(self, names: Sequence[str]) -> None:
        """Set the example axis of these rows to unknown (the independence check disproved it)."""
        wrong = set(names)
        self.rows = [row.without_axis() if row.name in wrong else row for row in self.rows]
        known = {site.row: site.name for site in self.sites}
        self.sites = find_sites(self.rows, known, zero_constants(self.constants))
        self.calls = find_calls(self.rows, frozenset(self.parameters))
        self._programs.clear()
        self.__dict__.pop("site_of_row", None)

    def run(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Any,
        targets: Any = None,
        *,
        visit: Visit | None = None,
        until: str | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> tuple[Any, Tensor | None]:
        """Outputs and losses (n,) for these weights and inputs; without targets that the losses need, the model
        alone, and losses None.

        tensors: by name, at least `parameters` and `buffers`; the device is theirs. Grad mode is the
        caller's; autocast and inference mode are left. visit(row, values, out): called after each row with
        its positional arguments (defaults filled in), may return another output. until: name of a row to stop
        after; returns (its output, None).
        masks: by site name, bool (example, unit) or in the shape of the output: the nonlinearity is replaced
        by its linear pieces (`tracer.network.fixed_masks`). Each value is freed after its last use.
        """
        if targets is not None and self.no_loss:
            raise ArchiveError(self.no_loss)
        device = _device(tensors, inputs)
        if targets is None and not self.targets:  # an objective may do without
            targets = ()
        if self.guarded and (sizes := self._weigh(tensors, inputs, targets)):
            visit = _held_to({self.rows[index].name: size for index, size in sizes.items()}, visit)
        program = self._program(device, until, targets is not None and self.losses is not None)
        values = program.start(self.leaves(tensors, inputs, targets, device))
        with plain_math():
            if visit is None and not masks:
                for call, arguments, slot, dead, _ in program.frugal if _unseen() else program.steps:
                    values[slot] = call(*arguments(values))
                    for used in dead:
                        values[used] = None
            else:
                self._run_watched(program, values, visit, self._frozen(masks or {}))
        results = [values[slot] for slot in program.results]
        if self.guarded and until is None:
            _check_results(results)
        return results[0], results[1] if len(results) > 1 else None

    def interpret(self, evaluate: Evaluate, leaves: Mapping[Reference, Any]) -> Any:
        """The output where each row gives what `evaluate` makes of it, in place of its operation's result.

        evaluate(index, row, call, arguments): the row, its positional arguments (defaults filled in, the table's
        numbers and lists decoded), and its operation with keyword arguments bound: `call(*arguments)` computes
        what the row computes, refused as in `run` where it would take too much. leaves: what stands for weights,
        constants and inputs, by reference: of any type, nothing is asked of them. Each value is freed after its
        last use.
        """
        program = self._program(_CPU, None, False)
        values = program.start(leaves)
        for call, arguments, slot, dead, index in program.steps:
            row = self.rows[index]
            values[slot] = evaluate(index, row, self._guard(row, call), list(arguments(values)))
            for used in dead:
                values[used] = None
        return values[program.results[0]]

    def operation(self, row: Row) -> tuple[Callable[..., Any], list[Any]]:
        """A row's operation, refused as in `run` where it would take too much, and its positional arguments.

        None stands for arguments that are no numbers the table holds.
        """
        alone = replace(row, args=[None if list(references(value)) else value for value in row.args])
        program = Program([alone], [0], _CPU, guarded=self.guarded)
        step = program.steps[0]
        return self._guard(row, step.call), list(step.arguments(program.start({})))

    def _guard(self, row: Row, call: Callable[..., Any]) -> Callable[..., Any]:
        if not self.guarded:
            return call
        return weighed(row, call)

    def check_cost(self, tensors: Mapping[str, Tensor], size: int) -> None:
        """ArchiveError where the outputs take more than weights of these sizes and `size` bytes could be worth.

        Nothing is computed: inputs are those the network was traced with, as the table declares them, and rows
        must give tensors of the sizes that it says.
        """
        rows = (self.rows[index] for index in self.needed([self.output]))
        asks = any(kind == "target" for row in rows for kind, _ in row.references())
        targets = _declared(self.targets) if asks else None
        size += sum(tensor.nbytes for tensor in tensors.values())
        check(self, tensors, _declared(self.inputs), targets, size=size)

    def derived(self, **changes: Any) -> Network:
        """The same network with other rows, losses, targets, ...; guarded where this one is."""
        other = copy(self)
        for name in ("random_rows", "site_of_row", "_double"):
            other.__dict__.pop(name, None)
        other.__dict__.update(changes)
        other._weighed, other._programs, other._constants_on = {}, {}, {}
        return other

    def _weigh(self, tensors: Mapping[str, Tensor], inputs: Any, targets: Any) -> dict[int, tuple[int, ...]]:
        """Refuse an untrusted table that would take too much for tensors of these sizes; see `tracer.network.cost`."""
        sizes = tuple(tuple(leaf.shape) for leaf in [*leaves_of(inputs), *leaves_of(targets)])
        sizes += tuple(tuple(tensor.shape) for tensor in tensors.values())
        key = sizes, torch.is_grad_enabled(), targets is None
        if key not in self._weighed:
            self._weighed[key] = check(self, tensors, inputs, targets)
        return self._weighed[key]

    def _run_watched(
        self,
        program: Program,
        values: list[Any],
        visit: Visit | None,
        masks: Mapping[int, tuple[Site, Tensor]],
    ) -> None:
        for call, arguments, slot, dead, index in program.steps:
            operands = arguments(values)
            if index in masks:
                site, mask = masks[index]
                out = frozen(site, self.rows[index], operands, mask)
            else:
                out = call(*operands)
            if visit is not None:
                other = visit(self.rows[index], operands, out)
                out = out if other is None else other
            values[slot] = out
            for used in dead:
                values[used] = None

    def _frozen(self, masks: Mapping[str, Tensor]) -> dict[int, tuple[Site, Tensor]]:
        by_name = {site.name: site for site in self.sites if site.has_mask}
        for name in masks:
            if name not in by_name:
                raise ArgumentError(f"no site with a mask is called {name!r}; {did_you_mean(name, by_name)}")
        return {by_name[name].row: (by_name[name], mask) for name, mask in masks.items()}

    def leaves(
        self, tensors: Mapping[str, Tensor], inputs: Any, targets: Any, device: torch.device
    ) -> dict[Reference, Any]:
        """What rows may refer to besides rows, by reference: weights, constants, and the checked inputs."""
        named: dict[Reference, Any] = dict(self._on(device))
        for kind, tree, declared in (("input", inputs, self.inputs), ("target", targets, self.targets)):
            if kind == "target" and targets is None:
                continue
            leaves = leaves_of(tree)
            if len(leaves) != len(declared):
                raise RecordError(
                    f"the network was traced with {len(declared)} {kind} tensors, got {len(leaves)}"
                )
            named |= {(kind, index): leaf for index, leaf in enumerate(leaves)}
            self._check_batch(leaves, declared)
        named |= {("tensor", name): tensor for name, tensor in tensors.items()}
        return named

    def _check_batch(self, leaves: Sequence[Tensor], declared: Sequence[dict[str, Any]]) -> None:
        if self.batch is None:
            return
        for leaf, entry in zip(leaves, declared, strict=True):
            if entry["batched"] and leaf.shape[0] != self.batch:
                raise RecordError(
                    f"this network was traced for exactly {self.batch} examples at a time, "
                    f"got {leaf.shape[0]}: pad the chunk"
                )

    def _program(self, device: torch.device, until: str | None, with_losses: bool) -> Program:
        key = (device, until, with_losses)
        if key not in self._programs:
            if until is not None:
                names = {row.name: index for index, row in enumerate(self.rows)}
                if until not in names:
                    raise ArgumentError(f"no row is called {until!r}; {did_you_mean(until, names)}")
                stop = names[until]
                program = Program(self.rows, range(stop + 1), device, [("row", stop)], guarded=self.guarded)
            else:
                results = self.results(with_losses)
                program = Program(self.rows, self.needed(results), device, results, guarded=self.guarded)
            self._programs[key] = program
        return self._programs[key]

    def results(self, with_losses: bool) -> list[Reference]:
        """What a run computes: the output, and with losses these and what the objective calls correct."""
        more = (self.losses, self.correct) if with_losses and self.losses else ()
        return [self.output, *(result for result in more if result is not None)]

    @property
    def run_rows(self) -> list[Row]:
        """The rows that a run with losses runs: all, unless the loss was put in the place of another."""
        return [self.rows[index] for index in self.needed(self.results(with_losses=True))]

    @property
    def judging_row(self) -> str | None:
        """Name of the row that gives what the objective calls correct."""
        return None if self.correct is None else self.rows[self.correct[1]].name

    def needed(self, results: Sequence[Reference]) -> list[int]:
        """Indices of the rows that these results depend on, in order."""
        return needed_rows(self.rows, results)

    def _on(self, device: torch.device) -> dict[Reference, Tensor]:
        if device not in self._constants_on:
            self._constants_on[device] = {
                ("constant", name): value.to(device) for name, value in self.constants.items()
            }
        return self._constants_on[device]


def _declared(entries: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Tensors that have only the sizes and types that the network was traced with."""
    return [torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]], device="meta") for entry in entries]


def _held_to(sizes: Mapping[str, tuple[int, ...]], visit: Visit | None) -> Visit:
    """The visit, after a look whether a row made what it was weighed as."""

    def look(row: Row, values: tuple[Any, ...], out: Any) -> Any:
        if row.name in sizes and tuple(out.shape) != sizes[row.name]:
            raise ArchiveError(
                f"row {row.name!r} of the network table ({row.op}) gives {list(out.shape)} where the table says "
                f"{list(sizes[row.name])}, so what follows is not run; get the archive from its author again"
            )
        return None if visit is None else visit(row, values, out)

    return look


class Heard:
    """A visitor that keeps what the objective calls correct."""

    def __init__(self, network: Any) -> None:
        self._row, self.value = network.judging_row, None

    def __call__(self, row: Row, _: Any, out: Any) -> None:
        """Look at one row."""
        if row.name == self._row:
            self.value = out


def _unseen() -> bool:
    """Whether neither autograd nor a transform such as `vmap` looks at the intermediate values."""
    return not torch.is_grad_enabled() and not within_transform()


def _check_results(results: Sequence[Any]) -> None:
    for name, value in zip(("output", "losses", "correct"), results, strict=False):
        if not isinstance(value, Tensor) or (name != "output" and value.ndim == 0):
            raise ArchiveError(
                f"the network table is damaged or foreign: what it gives as {name} is no tensor of the examples; get "
                "the archive from its author again"
            )


def _device(tensors: Mapping[str, Tensor], inputs: Any) -> torch.device:
    first = next(iter(tensors.values()), None)
    return leaves_of(inputs)[0].device if first is None else first.device
