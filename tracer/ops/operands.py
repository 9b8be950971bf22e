"""What the operands of each operation must satisfy, so that its kernel reads and writes no memory but theirs.

PyTorch's kernels do not all check: statistics shorter than the channels, an offset beyond a bag, a head too
few, and memory of the process is overwritten. So what an archive's network wants to run is checked here first.
Whatever is not named below was fuzzed (`tests/attacks/fuzz_ops.py`) and checks for itself.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tracer.errors import ArchiveError
from tracer.ops import families
from tracer.ops.constraints import (
    MOST,
    UNBOUNDED,
    Constraint,
    Operands,
    Values,
    between,
    n_numbers,
    wrong,
)

# By the name of an argument, whatever the operation: numbers that kernels divide by or count with.
_AT_LEAST = {
    **dict.fromkeys(("kernel_size", "stride", "dilation", "groups", "group", "num_groups"), 1),
    **dict.fromkeys(("upscale_factor", "downscale_factor", "step", "chunks", "sections", "num_layers"), 1),
    **dict.fromkeys(("output_padding", "output_size", "length", "k", "steps", "n", "normalized_shape"), 0),
    **dict.fromkeys(("split_size", "split_sizes", "repeats"), 0),
}
_FROM_TO = {"reduction": (0, 2), "interpolation_mode": (0, 2), "padding_mode": (0, 2)}
_SPATIAL = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding", "output_size"})


@cache
def schema_of(op: str) -> Any:
    """The declared arguments of an ATen operation; None for Python's own."""
    if not op.startswith("aten."):
        return None
    target: Any = torch.ops
    for part in op.split("."):
        target = getattr(target, part)
    return target._schema


@cache
def constraints(op: str) -> tuple[tuple[Constraint, ...], tuple[Values, ...]]:
    """The constraints of an operation: those of sizes, then those of values."""
    own = families.OPERANDS.get(op, ())
    general = [check for argument in schema_of(op).arguments for check in _general(op, argument)]
    sizes = tuple(check for check in own if not isinstance(check, Values))
    return (*general, *sizes), tuple(check for check in own if isinstance(check, Values))


def _general(op: str, argument: Any) -> list[Constraint]:
    """What the name and type of an argument ask for."""
    name, kind, checks = argument.name, str(argument.type), [_typed(argument)]
    if "int" not in kind or name in UNBOUNDED:
        return checks
    pads = "_pad" in op  # these may cut off too
    low = 0 if name == "padding" and not pads else _AT_LEAST.get(name, -MOST)
    checks.append(between(name, *_FROM_TO.get(name, (low, MOST))))
    if name in _SPATIAL and argument.N is not None:
        lengths = [argument.N] if pads else [argument.N, 1]
        checks.append(n_numbers(name, *lengths, *([0] if name == "stride" else [])))
    return checks


_KINDS: dict[str, tuple[type, ...]] = {
    "Tensor": (Tensor,),
    "int": (int, torch.SymInt),
    "bool": (bool, int),
    "float": (float, int, torch.SymInt, torch.SymFloat),
    "number": (float, int, bool, torch.SymInt, torch.SymFloat),
    "str": (str,),
}

# Declared as numbers, which PyTorch takes for what they stand for without looking whether they stand for anything.
_NAMED: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
    "device": torch.device,
}


def _typed(argument: Any) -> Constraint:
    """The operand is of the declared type."""
    name, kind = argument.name, str(argument.type)
    if name in _NAMED:
        return _named(name)
    optional = kind.startswith("Optional[")
    kind = kind[len("Optional[") : -1] if optional else kind
    many = kind.startswith("List[")
    item = kind[len("List[") : -1] if many else kind
    empty = item.startswith("Optional[")
    types = _KINDS.get(item[len("Optional[") : -1] if empty else item)
    single = item == "int"  # one number may stand for a list of them; dtypes and layouts are declared so too

    def holds(operands: Operands) -> str | None:
        value = operands[name]
        if types is None or (value is None and optional) or name in UNBOUNDED:
            return None
        items = value if many and isinstance(value, list | tuple) else [value]
        fits = all((entry is None and empty) or isinstance(entry, types) for entry in items)
        if fits and (not many or single or isinstance(value, list | tuple)):
            return None
        return wrong(name, value, f"be of type {kind}")

    return holds


def _named(name: str) -> Constraint:
    def holds(operands: Operands) -> str | None:
        value = operands[name]
        return (
            None if value is None or isinstance(value, _NAMED[name]) else wrong(name, value, f"be a {name}")
        )

    return holds


def bind(op: str, args: Sequence[Any], kwargs: Operands) -> dict[str, Any]:
    """The operands by name, those left out with their defaults."""
    declared = schema_of(op).arguments
    if len(args) > len(declared):
        raise ArchiveError(f"it has {len(args)} operands and takes {len(declared)}")
    bound = {argument.name: value for argument, value in zip(declared, args, strict=False)} | dict(kwargs)
    for argument in declared:
        if argument.name not in bound:
            if not argument.has_default_value():
                raise ArchiveError(f"{argument.name} is missing")
            bound[argument.name] = argument.default_value
        value = bound[argument.name]
        # PyTorch takes a number where a tensor is declared (`x * 0.5`), as a tensor without axes.
        if isinstance(value, bool | int | float) and str(argument.type) in ("Tensor", "Optional[Tensor]"):
            bound[argument.name] = torch.tensor(value)
    return bound


def first_wrong(checks: Sequence[Constraint], operands: Operands) -> None:
    """ArchiveError with the first clause that does not hold."""
    for check in checks:
        clause = check(operands)
        if clause is not None:
            raise ArchiveError(clause)


def checked(
    row: str, op: str, call: Callable[..., Any], n: int, fixed: Operands, moving: Sequence[str]
) -> Any:
    """The call of a row of a foreign table, its operands checked before each run: sizes once for each set of them.

    n: number of positional arguments; fixed: keyword arguments bound in `call`; moving: names of those that
    come behind the positional ones.
    """
    if schema_of(op) is None:
        return call
    sizes, values = constraints(op)
    known: set[Any] = set()

    def run(*given: Any) -> Any:
        key = _key(given)
        if values or key not in known:
            try:
                operands = bind(op, given[:n], {**fixed, **dict(zip(moving, given[n:], strict=True))})
                if key not in known:
                    first_wrong(sizes, operands)
                first_wrong(values, operands)
            except ArchiveError as error:
                raise ArchiveError(
                    f"row {row!r} of the network table ({op}) is not run: {error}; get the archive from its "
                    "author again"
                ) from None
            known.add(key)
        return call(*given)

    return run


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.stride() if value.layout == torch.strided else None
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else value
