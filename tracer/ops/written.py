"""Nonlinearities written out in other operations, and the constants they are recognised by.

Rows are those of a table (`tracer.network.table`); only `op`, `args` are looked at.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from tracer.ops import Activation, op


class Row(Protocol):
    """A call of an operation."""

    @property
    def op(self) -> str:
        """Name of the operation."""

    @property
    def args(self) -> list[Any]:
        """Its positional arguments, as a table writes them."""


def constant(argument: Any) -> float | None:
    """A written argument as a number, None if it is not one.

    >>> constant({"float": "0x1.0p-1"}), constant(3), constant(None)
    (0.5, 3.0, None)
    """
    if isinstance(argument, dict) and "float" in argument:
        return float.fromhex(argument["float"])
    return float(argument) if isinstance(argument, int | float) else None


def written_out(rows: Sequence[Row], row: Row, zeros: Collection[str]) -> tuple[Activation, int] | None:
    """The nonlinearity that a row computes with others before it, and its pre-activation's position.

    `x * (x > 0)` and `where(x > 0, x, 0)` are ReLU. zeros: constants that are zero throughout.
    """
    relu = op("aten.relu.default").activation
    assert relu is not None
    if row.op == "aten.mul.Tensor":
        for position, other in ((0, 1), (1, 0)):
            if _positive_of(rows, row.args[other]) == row.args[position]:
                return relu, position
    if row.op in ("aten.where.self", "aten.where.ScalarOther"):
        condition, value, otherwise = row.args[:3]
        if _positive_of(rows, condition) == value and is_zero(rows, otherwise, zeros):
            return relu, 1
    return None


def is_gate(row: Row) -> bool:
    """Whether a row is `x > 0`."""
    return row.op == "aten.gt.Scalar" and constant(row.args[1]) == 0


def _producer(rows: Sequence[Row], argument: Any) -> Row | None:
    return rows[argument["row"]] if isinstance(argument, dict) and "row" in argument else None


def _positive_of(rows: Sequence[Row], argument: Any) -> Any:
    """What `argument` is the sign pattern of (`x` for `x > 0`, casts looked through), "" if it is none."""
    row = _producer(rows, argument)
    while row is not None and op(row.op).copies:
        argument = row.args[0]
        row = _producer(rows, argument)
    return row.args[0] if row is not None and is_gate(row) else ""


def is_zero(rows: Sequence[Row], argument: Any, zeros: Collection[str]) -> bool:
    """Whether an argument is zero throughout."""
    if constant(argument) is not None:
        return constant(argument) == 0
    row = _producer(rows, argument)
    if row is None:
        return isinstance(argument, dict) and argument.get("constant") in zeros
    record = op(row.op)
    if record.copies:
        return is_zero(rows, row.args[0], zeros)
    fill = (
        record.fills
        if record.fills is None or isinstance(record.fills, float)
        else record.fills.among(row.args)
    )
    return constant(fill) == 0
