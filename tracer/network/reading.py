"""A network's table to and from JSON. Reading trusts nothing: every name, reference and size is checked."""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tracer.errors import ArchiveError
from tracer.network.network import Network
from tracer.network.table import (
    DTYPES,
    LAYOUTS,
    MEMORY_FORMATS,
    REFERENCES,
    Call,
    Layer,
    Row,
    Site,
    needed_rows,
    units,
)
from tracer.network.writing import VERSION, constant_entry, write
from tracer.ops import OPS

MAX_BYTES = 64 << 20
MAX_ROWS = 100_000
MAX_DEPTH = 4  # lists in lists in the arguments of one row
MAX_LENGTH = 4096  # items of one list, characters of one name
MAX_NUMBER = 1 << 62
_FLOAT = re.compile(r"-?(0x[01]\.[0-9a-f]+p[+-][0-9]+|inf|nan)")
_PARTS = ("inputs", "targets", "sites", "calls", "layers", "parameters", "buffers", "constants")


def read(data: bytes, constants: Mapping[str, Tensor]) -> "Network":
    """The network of a JSON table.

    Where only the losses use an operation off the list, they are left out and `no_loss` says why. ArchiveError, naming
    the row, for any other operation off the list (`tracer.ops`), a reference to a later row or to
    nothing, an argument of an unknown form, or anything out of bounds.
    """
    if len(data) > MAX_BYTES:
        raise ArchiveError(f"the network table is {len(data)} bytes, more than the {MAX_BYTES} that are read")
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"the network table is no JSON: {error}") from None
    _need(isinstance(table, dict) and table.get("version") == VERSION, "its version is not 1")
    _need(all(isinstance(table.get(part), list) for part in (*_PARTS, "rows")), "a part is missing")
    _need(len(table["rows"]) <= MAX_ROWS, f"it has more than {MAX_ROWS} rows")
    known = _Known(table, constants)
    rows = [_row(entry, index, known) for index, entry in enumerate(table["rows"])]
    output = known.result(table.get("output"), len(rows))
    losses = None if table.get("losses") is None else known.result(table["losses"], len(rows))
    refused = _off_list(rows, output)
    _need(len({row.name for row in rows}) == len(rows), "two rows have the same name")
    try:
        sites = [_site(entry, len(rows)) for entry in table["sites"]]
        calls = [Call(**_placed(entry, len(rows))) for entry in table["calls"]]
        layers = [_layer(entry) for entry in table["layers"]]
    except ArchiveError:
        raise
    except (KeyError, TypeError, ValueError):
        raise ArchiveError("the network table is damaged: a site, call or layer lacks a field") from None
    batch = table.get("batch")
    _need(batch is None or _is_size(batch), "its batch is no number")
    network = Network(
        rows,
        output=output,
        losses=None if refused else losses,
        correct=None if refused or table.get("correct") is None else known.row(table["correct"], len(rows)),
        inputs=[_declared(entry) for entry in table["inputs"]],
        targets=[_declared(entry) for entry in table["targets"]],
        constants={name: constants[name] for name in known.names["constant"]},
        parameters=table["parameters"],
        buffers=table["buffers"],
        sites=sites,
        calls=calls,
        layers=layers,
        batch=batch,
    )
    network.guarded, network.no_loss = True, refused if losses else None
    return network


def _off_list(rows: list[Row], output: Any) -> str | None:
    """Why the losses are not run, where rows of theirs alone have no record; ArchiveError for any other row."""
    foreign = [index for index, row in enumerate(rows) if row.op not in OPS]
    needed = set(needed_rows(rows, [output])) if foreign else set()
    sentences = [
        f"row {rows[index].name!r} of the network table uses operation {rows[index].op!r}, which is not on the list "
        "of those that are run from an archive; to replay it, give your own model with "
        "`tracer analyze --model pkg.module:factory`"
        for index in foreign
    ]
    for index, sentence in zip(foreign, sentences, strict=True):
        if index in needed or not rows[index].loss:
            raise ArchiveError(sentence)
    return sentences[0] if sentences else None


def unreadable(network: "Network", tensors: Mapping[str, Tensor], size: int) -> str | None:
    """What a reader of the table will say that it does not run, None where it runs all of it.

    size: bytes of the examples that are stored with it.
    """
    try:
        again = read(json.dumps(write(network)).encode(), network.constants)
        meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        again.check_cost(meta, size)
    except ArchiveError as error:
        return str(error)
    return again.no_loss


def _need(holds: bool, why: str) -> None:
    if not holds:
        raise ArchiveError(f"the network table is damaged or foreign: {why}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_LENGTH


class _Known:
    """What the rows of a table may refer to."""

    def __init__(self, table: dict[str, Any], constants: Mapping[str, Tensor]) -> None:
        names = [*table["parameters"], *table["buffers"]]
        _need(all(_is_name(name) for name in names), "a tensor's name is no text")
        self.names: dict[str, Any] = {
            "tensor": set(names),
            "constant": self._constants(table["constants"], constants),
            "input": range(len(table["inputs"])),
            "target": range(len(table["targets"])),
        }

    def _constants(self, entries: list[Any], arrays: Mapping[str, Tensor]) -> list[str]:
        for entry in entries:
            _need(isinstance(entry, dict) and _is_name(entry.get("name")), "a constant has no name")
            name = entry["name"]
            _need(name in arrays, f"its constant {name!r} is not in the archive")
            _need(
                constant_entry(name, arrays[name]) == entry,
                f"the values of its constant {name!r} have changed",
            )
        return [entry["name"] for entry in entries]

    def holds(self, kind: str, key: Any, n_rows: int) -> bool:
        """Whether a reference names something that exists (rows: an earlier one)."""
        if isinstance(key, bool) or not isinstance(key, int | str):
            return False
        return isinstance(key, int) and 0 <= key < n_rows if kind == "row" else key in self.names[kind]

    def result(self, pair: Any, n_rows: int) -> tuple[str, Any]:
        """A checked result of the table."""
        _need(isinstance(pair, list) and len(pair) == 2 and pair[0] in REFERENCES, "a result is no reference")
        _need(self.holds(pair[0], pair[1], n_rows), f"its result {pair} does not exist")
        return pair[0], pair[1]

    def row(self, pair: Any, n_rows: int) -> tuple[str, Any]:
        """A checked result that is a row."""
        kind, key = self.result(pair, n_rows)
        _need(kind == "row", "a result is no row")
        return kind, key


def _row(entry: Any, index: int, known: _Known) -> Row:
    _need(
        isinstance(entry, dict) and _is_name(entry.get("name")) and _is_name(entry.get("op")),
        f"row {index} is none",
    )
    name, op = entry["name"], entry["op"]
    args, kwargs = entry.get("args"), entry.get("kwargs", {})
    _need(isinstance(args, list) and isinstance(kwargs, dict), f"row {name!r} has no arguments")
    for value in (args, *kwargs.values()):
        _argument(value, name, index, known, 0)
    shape, axis, inner = entry.get("shape"), entry.get("axis"), entry.get("inner", 1)
    _need(
        shape is None or (isinstance(shape, list) and all(map(_is_dimension, shape))),
        f"row {name!r} has no size",
    )
    fits = axis is None or (_is_size(axis) and shape is not None and axis < len(shape))
    _need(fits and _is_size(inner) and inner > 0, f"row {name!r} has no such axis")
    _need(_is_name(entry.get("module", "")), f"row {name!r} has no module")
    return Row(
        name,
        op,
        args,
        kwargs,
        entry.get("module", ""),
        bool(entry.get("loss", False)),
        None
        if shape is None
        else tuple(size if isinstance(size, int) else (size[0], size[1]) for size in shape),
        entry.get("dtype"),
        axis,
        inner,
    )


def _is_dimension(size: Any) -> bool:
    if isinstance(size, list):
        return len(size) == 2 and _is_size(size[0]) and isinstance(size[1], int) and abs(size[1]) < MAX_NUMBER
    return _is_size(size)


def _argument(value: Any, row: str, index: int, known: _Known, depth: int) -> None:
    _need(depth <= MAX_DEPTH, f"the arguments of row {row!r} are nested too deep")
    if isinstance(value, list):
        _need(len(value) <= MAX_LENGTH, f"row {row!r} has a list of {len(value)} items")
        for item in value:
            _argument(item, row, index, known, depth + 1)
    elif isinstance(value, dict):
        _need(len(value) == 1, f"row {row!r} has an argument of an unknown form")
        ((kind, key),) = value.items()
        if kind in REFERENCES:
            _need(
                known.holds(kind, key, index),
                f"row {row!r} refers to {kind} {key!r}, which does not exist before it",
            )
        else:
            _need(
                _is_special(kind, key), f"row {row!r} has an argument of an unknown form ({str(kind)[:40]!r})"
            )
    elif isinstance(value, str):
        _need(len(value) <= MAX_LENGTH, f"row {row!r} has a text of {len(value)} characters")
    elif isinstance(value, int):
        _need(abs(value) <= MAX_NUMBER * 2, f"row {row!r} has a number out of bounds")
    else:
        _need(value is None, f"row {row!r} has a number that is not written in hexadecimal")


def _is_special(kind: str, key: Any) -> bool:
    if kind == "float":
        return isinstance(key, str) and len(key) < 64 and _FLOAT.fullmatch(key) is not None
    if kind == "device":
        return key == 0
    names: dict[str, Any] = {"dtype": DTYPES, "memory_format": MEMORY_FORMATS, "layout": LAYOUTS}
    return kind in names and isinstance(key, str) and key in names[kind]


def _declared(entry: Any) -> dict[str, Any]:
    sound = isinstance(entry, dict) and set(entry) == {"shape", "dtype", "batched"}
    _need(
        sound and isinstance(entry["dtype"], str) and entry["dtype"] in DTYPES,
        "an input has no shape or dtype",
    )
    shape = entry["shape"]
    _need(isinstance(shape, list) and all(map(_is_size, shape)), "an input's shape is none")
    _need(bool(shape) or not entry["batched"], "an input without axes holds examples")
    return entry


def _placed(entry: Any, n_rows: int) -> dict[str, Any]:
    """A checked site or call, its shape as a tuple."""
    _need(_is_size(entry["row"]) and entry["row"] < n_rows, "a site's or call's row does not exist")
    _need(all(_is_name(entry[key]) for key in ("name", "op", "module")), "a site or call has no name")
    _need(all(map(_is_size, entry["shape"])), f"the shape of {entry['name']!r} is none")
    return {**entry, "shape": tuple(entry["shape"])}


def _site(entry: Any, n_rows: int) -> Site:
    site = Site(**_placed(entry, n_rows))
    _need(_is_size(site.argument) and site.argument < 8, "a site's argument does not exist")
    _need(site.n_units in (0, units(site.shape)), f"the units of site {site.name!r} do not fit its shape")
    _need(isinstance(site.has_mask, bool), f"site {site.name!r} does not say whether it has a mask")
    _need(isinstance(site.scale, int | float) and site.scale > 0, f"site {site.name!r} has no scale")
    _need(site.slope is None or isinstance(site.slope, int | float), f"site {site.name!r} has no slope")
    return site


def _layer(entry: Any) -> Layer:
    _need(all(_is_name(name) for name in (entry["name"], *entry["parameters"])), "a layer has no name")
    return Layer(entry["name"], tuple(entry["parameters"]))
