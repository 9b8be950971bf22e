"""What the stored table of a network says about its weights, read as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyze.view import View, source
from tracer.errors import MissingTraceError

Row = Mapping[str, Any]

# What passes an example's units on one by one: reshaping, dropout in eval mode, and activations with f(0) = 0
# and slopes of at most 1. Anything else would put factors into a path that the weights do not show.
PASSING = frozenset(
    [
        "alias",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "alpha_dropout",
        "feature_dropout",
        "flatten",
        "relu",
        "relu6",
        "leaky_relu",
        "tanh",
        "reshape",
        "squeeze",
        "unsqueeze",
        "to",
        "_to_copy",
        "unflatten",
        "view",
        "_unsafe_view",
    ]
)
SCORES = frozenset(["log_softmax", "softmax", "_log_softmax", "_softmax"])


@source("network")
def _network(view: View) -> dict[str, Any]:
    return json.loads(view.archive.network()[0])


@dataclass(frozen=True)
class Convolution:
    """Geometry of one convolution; every tuple runs over the dimensions of space."""

    space: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1


def dense_chain(network: Mapping[str, Any]) -> list[str]:
    """Names of the weights of a plain chain of linear layers, in order.

    Raises MissingTraceError, naming the row, for a network that is anything else: one with convolutions,
    normalisation, branches, shared or computed weights.

    >>> x, fc = {"input": 0}, {"tensor": "fc.weight"}
    >>> dense_chain({"rows": [{"name": "fc", "op": "aten.linear.default", "args": [x, fc, None]}]})
    ['fc.weight']
    """
    names: list[str] = []
    current: tuple[str, Any] | None = None
    whole_numbers: set[int] = set()
    scored = False
    for index, row in enumerate(network["rows"]):
        if row.get("loss"):
            break
        if _is_number(row):
            whole_numbers.add(index)
            continue
        came = [
            (kind, key)
            for kind, key in references(row["args"])
            if kind == "input" or (kind == "row" and key not in whole_numbers)
        ]
        # One value in, and it is the one just made: no branch, no sum, no product.
        if scored or len(came) != 1 or (current is not None and came[0] != current):
            raise _refusal(row)
        if _kind(row) == "linear":
            names.append(_own_weight(row, names))
        elif not _passes(row):
            raise _refusal(row)
        scored = _kind(row) in SCORES
        current = ("row", index)
    if not names:
        raise MissingTraceError(
            "the network holds no linear layer, so there is no chain of weights to measure"
        )
    return names


def _own_weight(row: Row, seen: Sequence[str]) -> str:
    weight = _tensor(row["args"][1])
    # Tokens share one matrix: as a map of all their units it is another, larger one.
    tokens = len(row.get("shape") or (1, 1)) != 2
    if weight is None or weight in seen or tokens:
        raise _refusal(row)
    return weight


def _passes(row: Row) -> bool:
    return _kind(row) in PASSING | SCORES and not _mentions_tensor(row) and not _is_steep(row)


def _refusal(row: Row) -> MissingTraceError:
    where = row.get("module") or "the network itself"
    return MissingTraceError(
        f"row {row['name']!r} ({row['op']}, in {where}) makes the network more than a chain of linear "
        "layers; its path and operator norms need a replay of the network"
    )


def weight_rows(network: Mapping[str, Any]) -> dict[str, Row]:
    """First row that applies each stored weight, by the weight's name: linear layers and convolutions.

    >>> conv = {"name": "c", "op": "aten.conv2d.default", "args": [{"input": 0}, {"tensor": "c.weight"}]}
    >>> list(weight_rows({"rows": [conv]}))
    ['c.weight']
    """
    found: dict[str, Row] = {}
    for row in network["rows"]:
        if _kind(row) in ("linear", "conv1d", "conv2d", "conv3d", "convolution") and not row.get("loss"):
            name = _tensor(row["args"][1])
            if name is not None:
                found.setdefault(name, {**row, "space": _space(network, row)})
    return found


def convolution(row: Row, kernel: Sequence[int]) -> Convolution | None:
    """Geometry of a row of `weight_rows` with a kernel of some size; None where it is no convolution.

    >>> args = [{"input": 0}, {"tensor": "w"}, None, [2], [1]]
    >>> convolution({"op": "aten.conv1d.default", "args": args, "space": [8]}, [3])
    Convolution(space=(8,), stride=(2,), before=(1,), after=(1,), dilation=(1,), groups=1)
    """
    if _kind(row) == "linear" or not row.get("space") or _argument(row, 6, "transposed", False) is True:
        return None
    dims = len(kernel)
    stride = _each(_argument(row, 3, "stride", 1), dims)
    dilation = _each(_argument(row, 5, "dilation", 1), dims)
    padding = _argument(row, 4, "padding", 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before, after = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    else:
        before = after = _each(0 if padding == "valid" else padding, dims)
    position = 8 if _kind(row) == "convolution" else 6
    groups = int(_argument(row, position, "groups", 1))
    return Convolution(tuple(row["space"]), stride, before, after, dilation, groups)


def _argument(row: Row, position: int, name: str, default: Any) -> Any:
    args = row["args"]
    value = args[position] if len(args) > position else row.get("kwargs", {}).get(name, default)
    return default if value is None else value


def _each(value: Any, dims: int) -> tuple[int, ...]:
    listed = list(value) if isinstance(value, list) else [value]
    return tuple(int(v) for v in (listed if len(listed) == dims else listed * dims))


def _space(network: Mapping[str, Any], row: Row) -> list[int] | None:
    ((kind, key),) = list(references(row["args"][0]))[:1] or [("", None)]
    shape = network["rows"][key].get("shape") if kind == "row" else _input_shape(network, key)
    rest = list(shape or [])[2:]
    return rest if rest and all(isinstance(size, int) for size in rest) else None


def _input_shape(network: Mapping[str, Any], key: Any) -> list[Any] | None:
    inputs = network.get("inputs") or []
    entry = inputs[key] if isinstance(key, int) and key < len(inputs) else None
    return entry.get("shape") if isinstance(entry, Mapping) else entry


def _kind(row: Row) -> str:
    return str(row["op"]).removeprefix("aten.").split(".")[0]


def _is_number(row: Row) -> bool:
    return str(row["op"]).startswith(("int.", "aten.sym_"))


def _tensor(argument: Any) -> str | None:
    return argument.get("tensor") if isinstance(argument, Mapping) else None


def _is_steep(row: Row) -> bool:
    slope = row["args"][1] if _kind(row) == "leaky_relu" and len(row["args"]) > 1 else 0.0
    slope = float.fromhex(slope["float"]) if isinstance(slope, Mapping) else float(slope)
    return abs(slope) > 1


def _mentions_tensor(row: Row) -> bool:
    return any(kind in ("tensor", "constant") for kind, _ in references(row["args"]))


def references(argument: Any) -> Iterator[tuple[str, Any]]:
    """Every (kind, key) that an argument of a row refers to, in order.

    >>> list(references([{"row": 3}, [{"tensor": "w"}], 1.5, {"float": "0x1p-1"}]))
    [('row', 3), ('tensor', 'w')]
    """
    if isinstance(argument, list):
        for item in argument:
            yield from references(item)
    elif isinstance(argument, Mapping):
        ((kind, key),) = argument.items()
        if kind in ("row", "tensor", "constant", "input", "target"):
            yield kind, key
