"""Running statistics of BatchNorm taken anew from given examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.network import Network
from tracer.network.table import Row
from tracer.ops import op
from tracer.rerun import settled


def batch_norms(network: Network) -> list[Row]:
    """The rows that normalise by running statistics."""
    return [row for row in network.rows if _is_norm(row)]


def _is_norm(row: Row) -> bool:
    norm = op(row.op).normalises
    return norm is not None and norm.over == "batch"


def statistics(network: Network, tensors: Mapping[str, Tensor], chunks: Sequence[Any]) -> dict[str, Tensor]:
    """Mean and variance of the input of every BatchNorm row, by the name of the buffer; empty without any.

    Each chunk is normalised by its own statistics; those of several chunks are averaged by their sizes. A
    network for a fixed number of examples is refused.
    """
    averages: dict[str, Tensor] = {}
    if not batch_norms(network):
        return averages
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
                before = averages.get(name, torch.zeros_like(value))
                averages[name] = before + (value - before) * (n / total)
    return averages


def _measure(row: Row, values: tuple[Any, ...], seen: dict[str, Tensor]) -> Any:
    norm, rule = op(row.op).normalises, op(row.op).rule
    if norm is None or rule is None or rule.bias is None or not _is_norm(row):
        return None
    x = values[0]
    axes = [axis for axis in range(x.ndim) if axis != 1]
    spread, centre = torch.var_mean(x, axes, correction=0)
    count = x.numel() // x.shape[1]
    seen[row.args[norm.mean]["tensor"]] = centre
    seen[row.args[norm.variance]["tensor"]] = spread * (count / max(1, count - 1))
    out = torch.nn.functional.batch_norm(
        x, centre, spread, values[rule.weight], values[rule.bias], False, 0.0, norm.eps.among(values)
    )
    empty = x.new_empty(0)
    return out if norm.results == 1 else (out, *[empty] * (norm.results - 1))
