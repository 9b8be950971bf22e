"""Running statistics of BatchNorm taken anew from given examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.network import Network
from tracer.network.table import Row
from tracer.rerun import settled

# Positions of weight, bias, mean, variance; of eps.
_NORMS = {
    "aten._native_batch_norm_legit_no_training.default": (1, 2, 3, 4, 6),
    "aten.batch_norm.default": (1, 2, 3, 4, 7),
}


def statistics(network: Network, tensors: Mapping[str, Tensor], chunks: Sequence[Any]) -> dict[str, Tensor]:
    """Mean and variance of the input of every BatchNorm row, by the name of the buffer; empty without any.

    Each chunk is normalised by its own statistics; those of several chunks are averaged by their sizes. A
    network for a fixed number of examples is refused.
    """
    norms = {row.name: row for row in network.rows if row.op in _NORMS}
    found: dict[str, Tensor] = {}
    if not norms:
        return found
    total = 0
    with settled(grad=False):
        for inputs in chunks:
            seen: dict[str, Tensor] = {}

            def visit(row: Row, values: tuple[Any, ...], _: Any, into: dict[str, Tensor] = seen) -> Any:
                return _measure(row, values, into)

            network.run(tensors, inputs, visit=visit)
            n = len(inputs if isinstance(inputs, Tensor) else inputs[0])
            total += n
            for name, value in seen.items():
                before = found.get(name, torch.zeros_like(value))
                found[name] = before + (value - before) * (n / total)
    return found


def _measure(row: Row, values: tuple[Any, ...], seen: dict[str, Tensor]) -> Any:
    if row.op not in _NORMS:
        return None
    weight, bias, mean, variance, eps = _NORMS[row.op]
    x = values[0]
    axes = [axis for axis in range(x.ndim) if axis != 1]
    spread, centre = torch.var_mean(x, axes, correction=0)
    count = x.numel() // x.shape[1]
    seen[row.args[mean]["tensor"]] = centre
    seen[row.args[variance]["tensor"]] = spread * (count / max(1, count - 1))
    out = torch.nn.functional.batch_norm(
        x, centre, spread, values[weight], values[bias], False, 0.0, values[eps]
    )
    if row.op == "aten.batch_norm.default":
        return out
    empty = x.new_empty(0)
    return out, empty, empty
