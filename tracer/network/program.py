"""Rows compiled to steps: no JSON is walked while they run, each value is freed after its last use."""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from tracer.errors import ArchiveError, MissingTraceError
from tracer.network.table import Row, decode, encode, references
from tracer.ops import OPS, op
from tracer.ops.operands import checked

Visit = Callable[[Row, tuple[Any, ...], Any], Any]

_LARGEST = 1 << 62  # of a number that rows compute: a table could make them grow without end


def _number(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same, of numbers only (lists and texts have such operations too) and with a bounded result."""

    def checked(*values: Any) -> Any:
        sound = all(isinstance(value, int | float | torch.SymInt | torch.SymFloat) for value in values)
        if sound and call is operator.pow:
            sound = abs(values[0]) <= 1 or abs(values[1]) <= 62
        result = call(*values) if sound else _LARGEST * 2
        if not abs(result) <= _LARGEST:
            raise ArchiveError(
                "a row of the network table computes with what is no number, or is out of bounds"
            )
        return result

    return checked


def _item(values: Any, index: Any) -> Any:
    if not isinstance(values, list | tuple) or not isinstance(index, int):
        raise ArchiveError("a row of the network table takes an item of what is no list")
    return values[index]


_PYTHON: dict[str, Callable[..., Any]] = {
    record.name: _item if record.python is operator.getitem else _number(record.python)
    for record in OPS.values()
    if record.python is not None
}


class Step(NamedTuple):
    """What is done for one row: `out = call(*arguments(values))`, keep it in `slot`, drop `dead` slots."""

    call: Callable[..., Any]
    arguments: Callable[[list[Any]], tuple[Any, ...]]
    slot: int
    dead: tuple[int, ...]
    row: int


def resolve(name: str) -> Callable[..., Any]:
    """The function behind an operation's name; ArchiveError where this torch has none."""
    if name in _PYTHON:
        return _PYTHON[name]
    target: Any = torch.ops
    for part in name.split("."):
        target = getattr(target, part, None)
    if not isinstance(target, torch._ops.OpOverload):
        raise ArchiveError(
            f"operation {name!r} of the network table does not exist in torch {torch.__version__}: "
            "use the release that recorded it"
        )
    return target


class Program:
    """The rows needed for some results, compiled for one device.

    Slots: first the leaves (tensors, constants, inputs, targets, in order of first use), then fixed
    arguments, then one per row. guarded: whether a row's operands are checked before it runs
    (`tracer.ops.operands`), as in a table that was read.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        indices: Iterable[int],
        device: torch.device,
        results: Iterable[tuple[str, Any]] = (),
        *,
        guarded: bool = False,
    ) -> None:
        self._rows, self._guarded = rows, guarded
        results = list(results)
        self._device = device
        self.leaves: dict[tuple[str, Any], int] = {}
        self._fixed: list[tuple[int, Any]] = []
        self._slot_of_row: dict[int, int] = {}
        self._size = 0
        self._uses: list[list[int]] = []
        built = [self._build(index) for index in indices]
        self.results = tuple(self.slot_of(reference) for reference in results)
        self.steps = self._with_dead(built)
        # For a pass that nobody watches or differentiates.
        overwriting = _in_place(rows, results)
        self.frugal = [step._replace(call=overwriting.get(step.row, step.call)) for step in self.steps]

    def slot_of(self, reference: tuple[str, Any]) -> int:
        """The slot that holds a reference's value while the program runs."""
        return self._slot_of_row[reference[1]] if reference[0] == "row" else self._leaf(reference)

    def start(self, leaves: Mapping[tuple[str, Any], Any]) -> list[Any]:
        """A fresh list of values with leaves and fixed arguments in place."""
        values: list[Any] = [None] * self._size
        for slot, value in self._fixed:
            values[slot] = value
        for reference, slot in self.leaves.items():
            if reference not in leaves:
                raise MissingTraceError("the network needs {} {!r}, which is not given".format(*reference))
            values[slot] = leaves[reference]
        return values

    def _new_slot(self) -> int:
        self._size += 1
        return self._size - 1

    def _leaf(self, reference: tuple[str, Any]) -> int:
        if reference not in self.leaves:
            self.leaves[reference] = self._new_slot()
        return self.leaves[reference]

    def _build(self, index: int) -> tuple[Callable[..., Any], Any, int, int]:
        row = self._rows[index]
        # How a tensor lies in memory depends on the device, the kernel and on `vmap`.
        call = resolve(op(row.op).instead or row.op)
        self._uses.append([])
        arguments = _with_defaults(call, row.args)
        positional = [self._argument(value) for value in arguments]
        fixed = {
            name: decode(value, self._device)
            for name, value in row.kwargs.items()
            if not list(references(value))
        }
        moving = [name for name in row.kwargs if name not in fixed]
        if fixed:
            call = partial(call, **fixed)
        if moving:
            call = _with_keywords(call, len(positional), moving)
            positional += [self._argument(row.kwargs[name]) for name in moving]
        if self._guarded:
            call = checked(row.name, row.op, call, len(arguments), fixed, moving)
        slot = self._slot_of_row[index] = self._new_slot()
        return call, _gather(positional), slot, index

    def _argument(self, value: Any) -> int | Callable[[list[Any]], Any]:
        """The slot of an argument, or how to build a list that holds values."""
        kinds = list(references(value))
        if not kinds:
            slot = self._new_slot()
            self._fixed.append((slot, decode(value, self._device)))
            return slot
        if isinstance(value, dict):
            slot = self.slot_of(kinds[0])
            if kinds[0][0] == "row":
                self._uses[-1].append(slot)
            return slot
        parts = [self._argument(item) for item in value]
        if all(isinstance(part, int) for part in parts):
            gather = _gather(parts)
            return lambda values: list(gather(values))
        getters = [_getter(part) for part in parts]
        return lambda values: [get(values) for get in getters]

    def _with_dead(self, built: list[tuple[Callable[..., Any], Any, int, int]]) -> list[Step]:
        seen: set[int] = set(self.results)
        steps: list[Step] = []
        for (call, arguments, slot, index), uses in zip(reversed(built), reversed(self._uses), strict=True):
            dead = tuple(dict.fromkeys(used for used in uses if used not in seen))
            seen.update(dead)
            steps.append(Step(call, arguments, slot, dead, index))
        return steps[::-1]


def _in_place(rows: Sequence[Row], results: Iterable[tuple[str, Any]]) -> dict[int, Callable[..., Any]]:
    """Rows that may overwrite their first argument, as `nn.ReLU(inplace=True)` and `+=` do: less memory.

    Only where that argument is a tensor of its own that nothing else uses: same bits, and nobody can see it.
    """
    uses = Counter(key for row in rows for kind, key in row.references() if kind == "row")
    uses.update(key for kind, key in results if kind == "row")
    operations = {}
    for index, row in enumerate(rows):
        in_place = op(row.op).in_place
        if in_place is None or row.kwargs or not isinstance(row.args[0], dict):
            continue
        source = row.args[0].get("row")
        if source is None or uses[source] != 1:
            continue
        before = rows[source]
        fresh = op(before.op).rule is not None or (op(before.op).fresh and _fresh_item(rows, before))
        same = before.shape is not None and before.shape == row.shape and before.dtype == row.dtype
        if fresh and same:
            operations[index] = resolve(in_place)
    return operations


def _fresh_item(rows: Sequence[Row], row: Row) -> bool:
    """Whether a `getitem` takes a tensor that was computed, not a piece of one (`split`)."""
    return op(row.op).python is None or op(rows[row.args[0]["row"]].op).rule is not None


def _getter(part: Any) -> Callable[[list[Any]], Any]:
    return itemgetter(part) if isinstance(part, int) else part


def _gather(parts: list[Any]) -> Callable[[list[Any]], tuple[Any, ...]]:
    """One function from the values to the tuple of arguments."""
    if all(isinstance(part, int) for part in parts):
        if len(parts) > 1:
            return itemgetter(*parts)
        if parts:
            (only,) = parts
            return lambda values: (values[only],)
        return lambda values: ()
    getters = [_getter(part) for part in parts]
    return lambda values: tuple([get(values) for get in getters])


def _with_keywords(call: Callable[..., Any], n: int, names: list[str]) -> Callable[..., Any]:
    return lambda *values: call(*values[:n], **dict(zip(names, values[n:], strict=True)))


def _with_defaults(call: Any, args: list[Any]) -> list[Any]:
    """Positional arguments, those left out given their defaults: a visitor finds each at its place."""
    if not isinstance(call, torch._ops.OpOverload):
        return args
    declared = [argument for argument in call._schema.arguments if not argument.kwarg_only]
    filled = list(args)
    for argument in declared[len(args) :]:
        try:
            filled.append(encode(argument.default_value))
        except TypeError:
            break
    return filled
