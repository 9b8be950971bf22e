"""Nonlinearities written out in other operations, and the constants they are recognised by.

Rows are those of a table (`tracer.network.table`); only `op`, `args` are looked at.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from tracer.ops import ACTIVATIONS, PRODUCT, Activation, op, overload, short


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


class Written(NamedTuple):
    """A nonlinearity, and how a row computes it.

    argument: position of the pre-activation, which stands there `scale` times. name: of the function. inside: rows
    that are only parts of it.
    """

    activation: Activation
    argument: int
    name: str
    scale: float = 1.0
    inside: frozenset[int] = frozenset()


def written_out(rows: Sequence[Row], row: Row, zeros: Collection[str]) -> Written | None:
    """The nonlinearity that a row computes with others before it.

    `x * (x > 0)` and `where(x > 0, x, 0)` are ReLU; `x` or a multiple of it times a function of the same x alone that
    squashes (`x * sigmoid(x)`, `0.5 * x * (1 + tanh(...))`) is SiLU or GELU. zeros: constants that are zero throughout.
    """
    if row.op == PRODUCT:
        for position, other in ((0, 1), (1, 0)):
            x, gate = row.args[position], row.args[other]
            if _positive_of(rows, gate) == x:
                return Written(_known("relu"), position, short(row.op))
            if (written := _gated(rows, position, x, gate)) is not None:
                return written
    if row.op in ("aten.where.self", "aten.where.ScalarOther"):
        condition, value, otherwise = row.args[:3]
        if _positive_of(rows, condition) == value and is_zero(rows, otherwise, zeros):
            return Written(_known("relu"), 1, short(row.op))
    return None


def _known(name: str) -> Activation:
    return ACTIVATIONS[name]


_SQUASHING = {overload(name) for name in ("sigmoid", "tanh", "erf", "softplus")}
_ELEMENTWISE = _SQUASHING | {
    *("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar", "aten.rsub.Scalar"),
    *("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar", "aten.neg.default"),
    *("aten.pow.Tensor_Scalar", "aten.square.default", "aten.exp.default", "aten.log1p.default"),
}
_LARGEST = 16  # rows that such a function is made of, at most


def _gated(rows: Sequence[Row], position: int, x: Any, gate: Any) -> Written | None:
    scale = 1.0
    multiple = _producer(rows, x)
    if multiple is not None and multiple.op == PRODUCT:
        numbers = [constant(argument) for argument in multiple.args[:2]]
        if (numbers[0] is None) != (numbers[1] is None):
            scale = next(number for number in numbers if number is not None)
            x = multiple.args[numbers.index(None)]
    inside: set[int] = set()
    if scale <= 0 or not _made_of(rows, gate, x, inside):
        return None
    squashing = [rows[index] for index in inside if rows[index].op in _SQUASHING]
    if not squashing:
        return None
    plain = [row for row in squashing if row.op == overload("sigmoid") and row.args[0] == x]
    name = "silu" if plain and len(inside) == 1 else "mish" if len(squashing) == 2 else "gelu"
    return Written(_known(name), position, name, scale, frozenset(inside))


def _made_of(rows: Sequence[Row], argument: Any, x: Any, inside: set[int]) -> bool:
    """Whether an argument is x, a number, or made of nothing else number by number; notes the rows."""
    if argument == x or constant(argument) is not None:
        return True
    row = _producer(rows, argument)
    if row is None or row.op not in _ELEMENTWISE or len(inside) > _LARGEST:
        return False
    inside.add(argument["row"])
    return all(_made_of(rows, part, x, inside) for part in row.args)


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
