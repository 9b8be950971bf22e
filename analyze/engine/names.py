"""What figures call the parts of a network: by name, kind and shape, so that an index says something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def described(archive: Any) -> dict[str, dict[str, str]]:
    """Name in a figure of each layer and site: `0 linear 64→128`, `1 relu 128`."""
    kinds = {call["name"]: _kind(call.get("op", "")) for call in archive.call_table}
    shapes = {tensor["name"]: tensor["shape"] for tensor in archive.tensors}
    layers = {}
    for layer in archive.layer_table:
        mine = [shapes[name] for name in layer["parameters"] if name in shapes]
        largest = max(mine, key=math.prod, default=())
        layers[layer["name"]] = _joined(layer["name"], kinds.get(layer["name"], ""), _weight(largest))
    sites = {
        site["name"]: _joined(
            site["name"], _kind(site.get("op", "")), "×".join(map(str, site.get("shape", ())))
        )
        for site in archive.site_table
    }
    return {"layer": layers, "site": sites}


def _kind(op: str) -> str:
    """Word of an operation.

    >>> _kind("library.leaky_relu.default"), _kind("")
    ('leaky relu', '')
    """
    return op.partition(".")[2].partition(".")[0].replace("_", " ").strip()


def _weight(shape: Sequence[int]) -> str:
    """Inputs and outputs of a weight, and the window of a convolution.

    >>> _weight((128, 64)), _weight((32, 3, 5, 5)), _weight((7,))
    ('64→128', '3→32 5×5', '7')
    """
    if len(shape) < 2:
        return "×".join(map(str, shape))
    window = "×".join(map(str, shape[2:]))
    return f"{shape[1]}→{shape[0]}{f' {window}' if window else ''}"


def _joined(name: str, kind: str, shape: str) -> str:
    # A functional site says its operation in its name already.
    kind = "" if kind and kind in name.replace("_", " ") else kind
    return " ".join(part for part in (name, kind, shape) if part)
