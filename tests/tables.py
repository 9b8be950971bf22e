"""Networks from rows written by hand, read as an archive's are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tracer.network import Network, read
from tracer.network.reading import constant_entry
from tracer.network.table import references


def text(
    rows: Sequence[Mapping[str, Any]],
    *,
    inputs: Sequence[Sequence[int]] = ((5, 4),),
    constants: Mapping[str, torch.Tensor] | None = None,
    **other: Any,
) -> bytes:
    """The JSON of a table whose last row is the output; names, parameters and what is left out are filled in."""
    rows = [{"name": f"r{k}", **row} for k, row in enumerate(rows)]
    used = [pair for row in rows for pair in references([row["args"], *row.get("kwargs", {}).values()])]
    table = {
        "version": 1,
        "rows": rows,
        "output": ["row", len(rows) - 1],
        "losses": None,
        "inputs": [{"shape": list(shape), "dtype": "float32", "batched": True} for shape in inputs],
        "parameters": list(dict.fromkeys(key for kind, key in used if kind == "tensor")),
        "constants": [constant_entry(name, value) for name, value in (constants or {}).items()],
        "batch": None,
        **{part: [] for part in ("targets", "sites", "calls", "layers", "buffers")},
    }
    return json.dumps({**table, **other}).encode()


def stored(rows: Sequence[Mapping[str, Any]], **other: Any) -> Network:
    """The network of such a table; keyword arguments as of `text`."""
    return read(text(rows, **other), other.get("constants") or {})
