"""What an untrusted table would cost, before it is run: every row on the `meta` device, nothing computed.

A table of a few lines can ask for any amount of memory or time (`full`, `expand` and a sum, a convolution
with enormous padding). The sizes follow from the weights and inputs, so each row is run on tensors that have
only sizes, everything that an operation makes inside included.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tracer import ops
from tracer.errors import ArchiveError
from tracer.network.program import Program
from tracer.network.pytree import leaves_of, rebuild
from tracer.network.table import DTYPES
from tracer.network.torch_internals import within_transform
from tracer.ops import op

if TYPE_CHECKING:
    from tracer.network.network import Network
    from tracer.network.table import Row

MEMORY, MEMORY_RATIO = 2 << 30, 256  # bytes for any table; bytes for each byte of weights and inputs
WORK, WORK_RATIO = 10**12, 10**6  # the same for operations on numbers
_META = torch.device("meta")
_PER_ELEMENT = 8  # operations on a number that is read or written, roughly
_PER_LEVEL = 800  # what sorting takes for each number and doubling of how many there are, as measured
_REMEMBERED = (
    4096  # calls whose cost is known: layers are alike, and looking at one takes PyTorch milliseconds
)


def check(
    network: "Network", tensors: Mapping[str, Tensor], inputs: Any, targets: Any, *, size: int | None = None
) -> dict[int, tuple[int, ...]]:
    """Refuse to run a table on tensors of these sizes if it takes more than they could be worth.

    size: bytes that are really there, where the tensors are only what a table says of itself (default: the
    tensors'); then rows must also give what the table says they give.

    Returns the sizes, by row, that depend on values and were taken as the table says: whoever runs it has to
    hold it to them. Errors: ArchiveError naming the row, also for one whose arguments do not fit together.
    """
    return _walked(network, tensors, inputs, targets, size)[0]


class Effort(NamedTuple):
    """What running a table takes.

    operations: on numbers, those that reading and writing them is worth included. moved: numbers read and written.
    pooled: numbers looked at in windows. calls: of operations that differ in kind or sizes.
    """

    operations: int = 0
    moved: int = 0
    pooled: int = 0
    calls: int = 0

    @property
    def arithmetic(self) -> int:
        """Operations without those for numbers that are moved or pooled."""
        return self.operations - _PER_ELEMENT * self.moved - self.pooled


def operations(network: "Network", tensors: Mapping[str, Tensor], inputs: Any, targets: Any) -> int:
    """Operations on numbers that running a table on tensors of these sizes takes. Errors: as `check`."""
    return effort(network, tensors, inputs, targets).operations


def effort(network: "Network", tensors: Mapping[str, Tensor], inputs: Any, targets: Any) -> Effort:
    """What running a table on tensors of these sizes takes. Errors: as `check`."""
    return _walked(network, tensors, inputs, targets, None)[1]


def _walked(
    network: "Network", tensors: Mapping[str, Tensor], inputs: Any, targets: Any, size: int | None
) -> tuple[dict[int, tuple[int, ...]], Effort]:
    declared = size is not None
    roots = [*tensors.values(), *leaves_of(inputs), *leaves_of(targets), *network.constants.values()]
    if size is None:
        size = sum(map(_bytes, roots))
    limits = _limits(size)
    if sum(map(_bytes, roots)) > limits[0]:
        raise ArchiveError(
            "the network table declares inputs larger than anything the archive holds could be worth; get the "
            "archive from its author again"
        )
    results = network.results(targets is not None)
    program = Program(network.rows, network.needed(results), _META, results, guarded=True)
    leaves = network.leaves(_meta(dict(tensors)), _meta(inputs), _meta(targets), _META)
    n = _examples(network, inputs)
    ends, live, said = last_uses(network.rows), dict[int, int](), dict[int, tuple[int, ...]]()
    held, calls, whole = 0, set[Any](), Effort()
    differentiable = torch.is_grad_enabled()  # then nothing is freed
    values = program.start(leaves)
    with torch.no_grad():
        for call, arguments, slot, dead, index in program.steps:
            row = network.rows[index]
            out, cost = _measured(row, call, arguments(values), n, limits, calls)
            values[slot] = out
            if isinstance(out, _Said):
                out = values[slot] = out.tensor
                said[index] = tuple(out.shape)
            if declared and isinstance(out, Tensor) and row.size(n) not in (None, tuple(out.shape)):
                raise ArchiveError(
                    f"row {row.name!r} of the network table ({row.op}) gives size {tuple(out.shape)}, where "
                    f"the table says {row.size(n)}; get the archive from its author again"
                )
            live[index] = cost.largest
            held += cost.largest
            whole = Effort(
                whole.operations + cost.work, whole.moved + cost.moved, whole.pooled + cost.pooled, len(calls)
            )
            if held - cost.largest + cost.made > limits[0] or whole.operations > limits[1]:
                raise _too_much(row)
            for used in dead:
                values[used] = None
            for over in () if differentiable else ends.get(index, ()):
                held -= live.pop(over, 0)
    return said, whole


class _Said(NamedTuple):
    """A result of the size that the table says."""

    tensor: Tensor


def weighed(row: "Row", call: Callable[..., Any]) -> Callable[..., Any]:
    """The same operation, refused where one call alone takes more than its arguments could be worth."""
    seen: set[str] = set()

    def checked(*arguments: Any) -> Any:
        key = str(torch.utils._pytree.tree_map(_size, arguments))
        if key not in seen:
            limits = _limits(sum(map(_bytes, _tensors(arguments))))
            sizes = torch.utils._pytree.tree_map_only(Tensor, lambda leaf: leaf.detach().to(_META), arguments)
            with torch.no_grad(), _Meter(limits):
                _sized(row, call, sizes, 1)
            seen.add(key)
        return call(*arguments)

    return checked


def _meta(tree: Any) -> Any:
    return rebuild(tree, iter([leaf.to(_META) for leaf in leaves_of(tree)]))


def last_uses(rows: list["Row"]) -> dict[int, list[int]]:
    """Row -> rows whose memory is free after it; an output lives as long as what may be a view of it."""
    last = list(range(len(rows)))
    for index in range(len(rows) - 1, -1, -1):
        views = op(rows[index].op).may_be_view
        for kind, key in rows[index].references():
            if kind == "row":
                last[key] = max(last[key], last[index] if views else index)
    ends: dict[int, list[int]] = {}
    for key, index in enumerate(last):
        ends.setdefault(index, []).append(key)
    return ends


def _size(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _limits(size: int) -> tuple[int, int]:
    return max(MEMORY, MEMORY_RATIO * size), max(WORK, WORK_RATIO * size)


def _examples(network: "Network", inputs: Any) -> int:
    pairs = zip(leaves_of(inputs), network.inputs, strict=True)
    return next((leaf.shape[0] for leaf, entry in pairs if entry["batched"]), 1)


def _too_much(row: "Row") -> ArchiveError:
    return ArchiveError(
        f"row {row.name!r} of the network table ({row.op}) would take more memory or time than its weights and inputs "
        "could be worth, so it is not run; get the archive from its author again"
    )


class _Cost(NamedTuple):
    """What one call makes and does: bytes in all and of its results, and as in `Effort`."""

    made: int
    largest: int
    work: int
    moved: int
    pooled: int


_known: dict[Any, tuple[Any, _Cost]] = {}


def _measured(
    row: "Row", call: Any, arguments: tuple[Any, ...], n: int, limits: tuple[int, int], calls: set[Any]
) -> tuple[Any, _Cost]:
    """The result of a row without values, and its cost: from such a call before, where there was one."""
    key = (row.op, repr(row.kwargs), _key(arguments))
    calls.add(key)
    remembered = not within_transform()  # whose tensors end with it
    if remembered and key in _known:
        out, cost = _known[key]
        if cost.made > limits[0] or cost.work > limits[1]:
            raise _too_much(row)
        return out, cost
    with _Meter(limits) as meter:
        out = _sized(row, call, arguments, n)
    cost = _Cost(meter.made, meter.largest, meter.work, meter.moved, meter.pooled)
    if remembered and not isinstance(out, _Said):  # which is what this row says, not what the operation does
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[key] = out, cost
    return out, cost


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else (type(value), value)


def _sized(row: "Row", call: Any, arguments: tuple[Any, ...], n: int) -> Any:
    try:
        return call(*arguments)
    except ArchiveError:
        raise
    except _Excess:
        raise _too_much(row) from None
    except Exception as error:
        declared = row.size(n)
        if op(row.op).by_value and declared is not None and prod(declared) <= _most(arguments):
            # What the table says is taken where it is possible at all.
            return _Said(torch.empty(declared, dtype=DTYPES.get(row.dtype or ""), device=_META))
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ArchiveError(
            f"row {row.name!r} of the network table ({row.op}) cannot be run: {first}; get the archive from its "
            "author again"
        ) from error


def _most(arguments: tuple[Any, ...]) -> int:
    sizes = [leaf.numel() for leaf in leaves_of(list(arguments)) if isinstance(leaf, Tensor)]
    return 4096 * max(sizes, default=0)


class _Excess(Exception):
    """One operation alone is beyond the limits."""


class _Meter(TorchDispatchMode):
    """Adds up what the operations under it make and do."""

    def __init__(self, limits: tuple[int, int]) -> None:
        super().__init__()
        self._limits = limits
        self.made = self.largest = self.work = self.moved = self.pooled = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if any(argument.name == "device" for argument in func._schema.arguments):
            kwargs["device"] = _META  # else what an operation makes from nothing would be made in memory
        out = func(*args, **kwargs)
        operands = _tensors([args, kwargs])
        results = _tensors(out)
        if not all(result._is_view() for result in results):
            self.largest = sum(_bytes(result) for result in results)
            self.made += self.largest
            work = work_of(func, args, out, operands, results)
            moved = sum(tensor.numel() for tensor in [*operands, *results])
            self.work += work
            self.moved += moved
            if ops.effort(str(func)) == "window":
                self.pooled += work - _PER_ELEMENT * moved
        if self.made > self._limits[0] or self.work > self._limits[1]:
            raise _Excess
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def work_of(func: Any, args: Any, out: Any, operands: list[Tensor], results: list[Tensor]) -> int:
    """Operations on numbers that one call of PyTorch's makes, from the sizes of what it is given and returns."""
    from torch.utils.flop_counter import flop_registry

    moved = _PER_ELEMENT * sum(tensor.numel() for tensor in [*operands, *results])
    if func._overloadpacket in flop_registry:
        return moved + int(flop_registry[func._overloadpacket](*args, out_val=out))
    effort = ops.effort(str(func))
    if effort == "window" and isinstance(args[1], list | tuple):
        return moved + sum(result.numel() for result in results) * max(1, prod(args[1]))
    if effort == "sort" and operands:
        return moved + _PER_LEVEL * operands[0].numel() * max(operands[0].shape, default=1).bit_length()
    if effort == "matrix":
        return (
            moved
            + 64 * max(tensor.numel() for tensor in operands) * operands[0].shape[-1] * operands[-1].shape[-1]
        )
    return moved
