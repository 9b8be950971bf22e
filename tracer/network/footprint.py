"""How much memory a table takes, found without computing anything: a run on the `meta` device."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.network.program import Program
from tracer.network.pytree import leaves_of, rebuild
from tracer.network.table import Row
from tracer.ops import op

if TYPE_CHECKING:
    from tracer.network.network import Network

_META = torch.device("meta")


def peak_bytes(
    network: "Network", tensors: Mapping[str, Tensor], inputs: Any, targets: Any = None, *, keep: bool = False
) -> int:
    """Most bytes that the rows' outputs hold at one time, for inputs of these sizes (weights not counted).

    keep: nothing is freed, as in a pass that is differentiated. Views count nothing, scratch memory inside
    an operation is not seen. It guards against an untrusted table whose sizes explode: nothing is allocated.
    Whatever torch raises for sizes that do not fit together.
    """
    results = network.results(targets is not None)
    program = Program(network.rows, network.needed(results), _META, results, guarded=network.guarded)
    values = program.start(network.leaves(_meta(dict(tensors)), _meta(inputs), _meta(targets), _META))
    ends = _ends(network.rows)
    live: dict[int, int] = {}
    held = peak = 0
    with torch.no_grad():
        for call, arguments, slot, dead, index in program.steps:
            out = values[slot] = call(*arguments(values))
            # What would be a view elsewhere may be a copy on this device, where attention is laid out otherwise.
            view = _is_view(network.rows[index])
            live[index] = sum(0 if view or leaf._is_view() else leaf.nbytes for leaf in leaves_of(out))
            held += live[index]
            peak = max(peak, held)
            for used in dead:
                values[used] = None
            for over in () if keep else ends.get(index, ()):
                held -= live.pop(over, 0)
    return peak


def _is_view(row: Row) -> bool:
    record = op(row.op)
    return record.instead is not None and not record.reorders


def _meta(tree: Any) -> Any:
    return rebuild(tree, iter([leaf.to(_META) for leaf in leaves_of(tree)]))


def _ends(rows: list[Row]) -> dict[int, list[int]]:
    """Row -> rows whose memory is free after it; an output lives as long as what may be a view of it."""
    last = list(range(len(rows)))
    for index in range(len(rows) - 1, -1, -1):
        views = op(rows[index].op).may_be_view
        for kind, key in rows[index].references():
            if kind == "row":
                last[key] = max(last[key], last[index] if views else index)
    ends: dict[int, list[int]] = {}
    for key, index in enumerate(last):
        ends.setdefault(index, []).append(key)
    return ends
