"""The table's parts: rows and what they refer to, sites, calls, layers; and how they are written as JSON.

An argument is JSON: null, true, 3, "mean", a list of arguments, or an object with one key:
`row`, `tensor`, `constant`, `input`, `target` refer to values; `float` holds a hexadecimal float; `dtype`,
`memory_format` and `layout` a name; `device` stands for the device of the tensors the table is run on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

REFERENCES = ("row", "tensor", "constant", "input", "target")

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
MEMORY_FORMATS = {
    name: getattr(torch, name)
    for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
LAYOUTS = {"strided": torch.strided}

Size = tuple[int | tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """One call of an operation.

    name: unique. op: name, as in `tracer.ops`. args,
    kwargs: JSON.
    module: path of the innermost module, "" for the root. loss: computed after the model, from its outputs.
    shape: output size; an entry (k, c) is k * n + c for n examples; None when the output is not a tensor.
    axis: the dimension of the output that examples lie along, None if unknown or if it holds no examples.
    inner: elements of that dimension within one example, after the example axis (1 unless merged with another
    one).
    """

    name: str
    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    module: str
    loss: bool = False
    shape: Size | None = None
    dtype: str | None = None
    axis: int | None = None
    inner: int = 1

    def size(self, n: int) -> tuple[int, ...] | None:
        """Output size for n examples."""
        if self.shape is None:
            return None
        return tuple(d if isinstance(d, int) else d[0] * n + d[1] for d in self.shape)

    def references(self) -> Iterator[tuple[str, Any]]:
        """Every (kind, key) the arguments refer to, in order; kinds as in `REFERENCES`."""
        yield from references([self.args, *self.kwargs.values()])

    def without_axis(self) -> "Row":
        """The same row with its example axis unknown."""
        return replace(self, axis=None, inner=1)


@dataclass(frozen=True)
class Site:
    """One call of a nonlinearity.

    row: index into the rows. argument: position of the pre-activation among the row's arguments, where it stands
    `scale` times (GELU written out: half of it). shape, n_units: of one example's output. kind: "path", "gate",
    "convention" or None, as in `tracer.ops.Activation`. slope: where off; None when it is a tensor, or the function
    not piecewise linear.
    """

    name: str
    row: int
    op: str
    module: str
    shape: tuple[int, ...]
    n_units: int
    has_mask: bool
    kind: str | None
    slope: float | None
    argument: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class Call:
    """One execution of a Linear or Conv row; shape: of one example's output."""

    name: str
    row: int
    op: str
    module: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """Owner of trainable parameters: the module's path, and their names."""

    name: str
    parameters: tuple[str, ...]


def references(argument: Any) -> Iterator[tuple[str, Any]]:
    """Every (kind, key) an encoded argument refers to."""
    if isinstance(argument, list):
        for item in argument:
            yield from references(item)
    elif isinstance(argument, dict):
        ((kind, key),) = argument.items()
        if kind in REFERENCES:
            yield kind, key


def needed_rows(rows: Sequence[Row], results: Sequence[tuple[str, Any]]) -> list[int]:
    """Indices of the rows that these results depend on, in order."""
    wanted = {key for kind, key in results if kind == "row"}
    for index in range(len(rows) - 1, -1, -1):
        if index in wanted:
            wanted.update(key for kind, key in rows[index].references() if kind == "row")
    return sorted(wanted)


def encode(value: Any) -> Any:
    """A constant argument as JSON; TypeError for what a table cannot hold.

    >>> encode([1, 0.5, None, torch.float32])
    [1, {'float': '0x1.0000000000000p-1'}, None, {'dtype': 'float32'}]
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, torch.device):
        return {"device": 0}
    for kind, type_, names in (
        ("dtype", torch.dtype, DTYPES),
        ("memory_format", torch.memory_format, MEMORY_FORMATS),
        ("layout", torch.layout, LAYOUTS),
    ):
        if isinstance(value, type_) and str(value).removeprefix("torch.") in names:
            return {kind: str(value).removeprefix("torch.")}
    raise TypeError(f"an argument of type {type(value).__name__}")


def decode(value: Any, device: torch.device) -> Any:
    """The constant argument that `encode` wrote, on a device."""
    if isinstance(value, list):
        return [decode(item, device) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, key),) = value.items()
    if kind == "float":
        return float.fromhex(key)
    if kind == "device":
        return device
    return {"dtype": DTYPES, "memory_format": MEMORY_FORMATS, "layout": LAYOUTS}[kind][key]


def per_example(row: Row) -> tuple[int, ...] | None:
    """Shape of one example's slice of a row's output; None when the example axis is unknown.

    >>> per_example(Row("r", "relu", [], {}, "", shape=((1, 0), 8, 4), axis=0))
    (8, 4)
    """
    if row.shape is None or row.axis is None:
        return None
    shape: list[int] = []
    for position, size in enumerate(row.shape):
        if position != row.axis:
            shape.append(size if isinstance(size, int) else -1)
        elif not isinstance(size, int):
            # A merged dimension is (outer, example, inner), row-major.
            shape += [part for part in (size[0] // row.inner, row.inner) if part > 1]
    return None if -1 in shape else tuple(shape)


def units(shape: tuple[int, ...]) -> int:
    """Number of coordinates of a shape."""
    return math.prod(shape)


def row_json(row: Row) -> dict[str, Any]:
    """A row as a JSON object, defaults left out."""
    data: dict[str, Any] = {"name": row.name, "op": row.op, "args": row.args}
    if row.kwargs:
        data["kwargs"] = row.kwargs
    if row.module:
        data["module"] = row.module
    if row.loss:
        data["loss"] = True
    if row.shape is not None:
        data["shape"] = [size if isinstance(size, int) else list(size) for size in row.shape]
        data["dtype"] = row.dtype
    if row.axis is not None:
        data["axis"] = row.axis
    if row.inner != 1:
        data["inner"] = row.inner
    return data


def plain(item: Site | Call | Layer) -> dict[str, Any]:
    """A site, call or layer as a JSON object."""
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(item).items()}
    if fields.get("scale") == 1.0:
        del fields["scale"]  # as in tables from before there was one
    return fields
