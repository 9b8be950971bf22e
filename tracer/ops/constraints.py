"""The words in which an operation says what its operands must be.

A constraint is a function of the operands by name that returns what is wrong in words, or None. `Sizes` look at
shapes, dtypes and numbers, so they run on the `meta` device too; `Values` look into tensors of indices.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Operands = Mapping[str, Any]
Constraint = Callable[[Operands], str | None]

MOST = 1 << 31  # of a number that counts or places something; bounds of slices go to the end with more
UNBOUNDED = frozenset({"start", "end", "ignore_index", "dtype", "layout", "memory_format"})


class Values:
    """A constraint that reads the numbers inside a tensor, at every run."""

    def __init__(self, holds: Constraint) -> None:
        self.holds = holds

    def __call__(self, operands: Operands) -> str | None:
        """What is wrong, or None."""
        return self.holds(operands)


def seen(value: Any) -> str:
    """An operand as a sentence shows it.

    >>> seen(torch.zeros(2, 3)), seen([1, 2]), seen(None)
    ('float32 [2, 3]', '[1, 2]', 'None')
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(seen(item) for item in value[:8]) + (", ...]" if len(value) > 8 else "]")
    return repr(value)[:60]


def wrong(name: str, value: Any, must: str) -> str:
    """One clause: which operand, what it is, what it must be."""
    return f"{name} is {seen(value)} and must {must}"


def shaped(name: str, shape: Callable[[Operands], list[int]], why: str) -> Constraint:
    """The tensor, where one is given, has this shape."""

    def holds(operands: Operands) -> str | None:
        value = operands[name]
        if value is None:
            return None
        wanted = shape(operands)
        return None if list(value.shape) == wanted else wrong(name, value, f"have shape {wanted}, {why}")

    return holds


def per_channel(*names: str, of: str = "input", axis: int = 1) -> list[Constraint]:
    """These tensors, where given, hold one number for each channel of another, and are of its dtype."""

    def channels(operands: Operands) -> list[int]:
        return [operands[of].shape[axis]] if operands[of].ndim > axis else [-1]

    return [shaped(name, channels, f"one number a channel of {of}") for name in names]


def alike(*names: str) -> Constraint:
    """The tensors that are given have one floating-point dtype; parameters of half-precision input may be float32."""

    def holds(operands: Operands) -> str | None:
        first, *rest = [(name, operands[name]) for name in names if operands[name] is not None]
        if not first[1].is_floating_point():
            return wrong(*first, "be of a floating-point dtype")
        fitting = {first[1].dtype} | (
            {torch.float32} if first[1].dtype in (torch.float16, torch.bfloat16) else set()
        )
        for name, value in rest:
            if value.dtype not in fitting:
                return wrong(name, value, f"be of the dtype of {first[0]}, {seen(first[1])}")
        dtypes = {value.dtype for _, value in rest}
        return None if len(dtypes) < 2 else f"{names[1:]} must be of one dtype"

    return holds


def dtype_of(name: str, *dtypes: torch.dtype) -> Constraint:
    """The tensor, where given, has one of these dtypes."""

    def holds(operands: Operands) -> str | None:
        value = operands[name]
        if value is None or value.dtype in dtypes:
            return None
        return wrong(name, value, "be " + " or ".join(str(d).removeprefix("torch.") for d in dtypes))

    return holds


def rank(name: str, low: int, high: int = 64) -> Constraint:
    """The tensor has from `low` to `high` axes."""

    def holds(operands: Operands) -> str | None:
        value = operands[name]
        if value is None or low <= value.ndim <= high:
            return None
        return wrong(name, value, f"have {low} axes" if low == high else f"have at least {low} axes")

    return holds


def filled(*names: str) -> Constraint:
    """No axis of these tensors is empty."""

    def holds(operands: Operands) -> str | None:
        for name in names:
            if operands[name] is not None and 0 in operands[name].shape:
                return wrong(name, operands[name], "not be empty")
        return None

    return holds


def between(name: str, low: int, high: int = MOST) -> Constraint:
    """The number, or each of a list of them, lies in these bounds, both included."""

    def holds(operands: Operands) -> str | None:
        value = operands[name]
        numbers = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if all(low <= number <= high for number in numbers):
            return None
        limits = f"be at least {low}" if high == MOST else f"be from {low} to {high}"
        return wrong(name, value, limits)

    return holds


def n_numbers(name: str, *lengths: int) -> Constraint:
    """The list has one of these lengths (a single number stands for a list of any)."""

    def holds(operands: Operands) -> str | None:
        value = operands[name]
        if not isinstance(value, list | tuple) or len(value) in lengths:
            return None
        return wrong(name, value, "hold " + " or ".join(map(str, lengths)) + " numbers")

    return holds


def axis_of(tensor: Tensor, axis: int) -> int:
    """Length of an axis, which may be counted from the end; 1 for a tensor without axes."""
    return tensor.shape[axis] if -tensor.ndim <= axis < tensor.ndim else 1


def bounds(tensor: Tensor) -> tuple[float, float] | None:
    """Least and greatest value; None where there is none, or nothing to read (`meta`)."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if tensor.is_meta or not tensor.numel():
        return None
    low, high = torch.aminmax(tensor.detach())
    return low.item(), high.item()


def in_range(name: str, tensor: Tensor, low: int, high: int) -> str | None:
    """What is wrong where a tensor holds a number outside [low, high)."""
    limits = bounds(tensor)
    if limits is None or (low <= limits[0] and limits[1] < high):
        return None
    return f"{name} holds {limits[0]} to {limits[1]} and must hold {low} to {high - 1}"


def indices(
    name: str, of: str, axis: int | str, *, low: int = 0, ignore: str | None = None, wraps: bool = False
) -> Values:
    """Every number of a tensor is an index into an axis of another one.

    axis: its position, or the operand that says it. low: least that is allowed. ignore: the operand whose
    value is allowed too. wraps: negative indices count from the end.
    """

    def holds(operands: Operands) -> str | None:
        tensor, into = operands[name], operands[of]
        position = operands[axis] if isinstance(axis, str) else axis
        n = into.numel() if position is None else axis_of(into, position)
        if tensor.is_floating_point() or tensor.is_complex():
            return wrong(name, tensor, "be of an integer dtype")
        if ignore is not None:
            tensor = torch.where(tensor == operands[ignore], max(low, 0), tensor)
            if n == 0:
                return None if bounds(tensor) is None else wrong(of, into, "not be empty")
        return in_range(name, tensor, -n if wraps else low, n)

    return Values(holds)
