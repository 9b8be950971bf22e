"""What the stored table of a network says about its weights, read as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from analyze.arrays import View, source
from analyze.arrays.recorded import Lazy
from tracer.errors import MissingTraceError

Row = Mapping[str, Any]

LINEAR_MAPS = (
    *("linear", "conv1d", "conv2d", "conv3d", "convolution"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)


@source("network", of="network")
def _network(view: View) -> dict[str, Any]:
    return json.loads(view.archive.network()[0])


@source("networks", "step", lazy=True, of="network")
def _networks(view: View) -> Lazy:
    """The table that holds at each step, with the values of its constants under `values`."""
    return Lazy(view.steps, lambda step: _table(view, step))


def _table(view: View, step: int) -> dict[str, Any]:
    data, constants = view.archive.network(step)
    return {**view.once(f"network {hash(data)}", lambda: json.loads(data)), "values": constants}


def weight_rows(network: Mapping[str, Any]) -> dict[str, Row]:
    """First row that applies each stored weight, by the weight's name: linear layers and convolutions.

    `inputs` of each is the shape of one example of what the weight is applied to, None where unknown.

    >>> conv = {"name": "c", "op": "aten.conv2d.default", "args": [{"input": 0}, {"tensor": "c.weight"}]}
    >>> table = {"rows": [conv], "inputs": [{"shape": [2, 3, 8, 8]}]}
    >>> weight_rows(table)["c.weight"]["inputs"]
    [3, 8, 8]
    """
    found: dict[str, Row] = {}
    for row in network["rows"]:
        if short(row) in LINEAR_MAPS and not row.get("loss"):
            weight = row["args"][1]
            name = weight.get("tensor") if isinstance(weight, Mapping) else None
            if name is not None:
                found.setdefault(name, {**row, "inputs": _inputs(network, row)})
    return found


def _inputs(network: Mapping[str, Any], row: Row) -> list[int] | None:
    ((kind, key),) = list(references(row["args"][0]))[:1] or [("", None)]
    declared = network["rows"] if kind == "row" else network.get("inputs") or []
    shape = declared[key].get("shape") if kind in ("row", "input") and key < len(declared) else None
    rest = list(shape or [])[1:]
    return rest if rest and all(isinstance(size, int) for size in rest) else None


def short(row: Row) -> str:
    """An operation's own name.

    >>> short({"op": "aten.conv2d.default"})
    'conv2d'
    """
    return str(row["op"]).removeprefix("aten.").split(".")[0]


def refusal(row: Row, why: str) -> MissingTraceError:
    """The error that names a row, where it is, and what is in the way of path and operator norms."""
    where = f"module {row['module']!r}" if row.get("module") else "the network itself"
    return MissingTraceError(
        f"capacity is not defined for this network: row {row['name']!r} ({row['op']}, in {where}) {why}"
    )


def references(argument: Any) -> Iterator[tuple[str, Any]]:
    """Every (kind, key) that an argument of a row refers to, in order.

    >>> list(references([{"row": 3}, [{"tensor": "w"}], 1.5, {"float": "0x1p-1"}]))
    [('row', 3), ('tensor', 'w')]
    """
    if isinstance(argument, list | tuple):
        for item in argument:
            yield from references(item)
    elif isinstance(argument, Mapping):
        ((kind, key),) = argument.items()
        if kind in ("row", "tensor", "constant", "input", "target"):
            yield kind, key
