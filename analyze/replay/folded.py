"""A network with each BatchNorm folded into the linear map before it: weights as measures of their norm take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.replay.paths import Pass
from tracer.ops import op
from tracer.ops.written import constant

if TYPE_CHECKING:
    from tracer.network import Network
    from tracer.network.table import Row


@dataclass(frozen=True)
class Folded:
    """Tensors by name, of which `weights` are those of linear layers and convolutions, in order; n_norms: folded in.

    n_unfolded: BatchNorms that cannot be folded, for which all tensors are left as they are.
    """

    tensors: dict[str, np.ndarray]
    weights: tuple[str, ...]
    n_norms: int
    n_unfolded: int

    def matrices(self) -> list[np.ndarray]:
        """The weights, float64."""
        return [np.asarray(self.tensors[name], np.float64) for name in self.weights]


def fold(network: Network, tensors: Mapping[str, np.ndarray]) -> Folded:
    """Weights times γ/√(v + ε) of the BatchNorm after them, whose own parameters then change nothing but the shift.

    Run with the returned tensors the network computes what it did. Nothing is folded where one BatchNorm does not
    follow a linear map of its own, as in networks that normalise first or after an addition.

    >>> import torch
    >>> from tracer.network import trace
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1, eps=0.0)).eval()
    >>> named = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    >>> named |= {"0.weight": np.array([[3.0]]), "1.running_var": np.array([4.0])}
    >>> fold(trace(model, torch.zeros(2, 1)), named).tensors["0.weight"].tolist()
    [[1.5]]
    """
    rows = network.rows
    after = Pass(network, tensors).folded
    norms = [index for index, row in enumerate(rows) if op(row.op).path == "batch_norm"]
    uses: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        rule = op(row.op).rule
        name = None if rule is None or rule.call is False else _named(row.args, rule.weight)
        if name is not None and op(row.op).path in ("linear", "conv") and np.ndim(tensors[name]) >= 2:
            uses.setdefault(name, []).append(index)
    alone = [indices[0] for indices in uses.values() if len(indices) == 1 and _in_rows(rows[indices[0]])]
    statistics = {_statistics(rows[index])[1] for index in norms}
    names = tuple(uses)
    if None in statistics or len(statistics) < len(norms) or not set(norms) <= {after.get(k) for k in alone}:
        return Folded(dict(tensors), names, 0, len(norms))
    changed = dict(tensors)
    for name, (index, *_) in uses.items():
        if index in after:
            _fold_one(changed, rows[index], name, rows[after[index]])
    return Folded(changed, names, len(norms), 0)


def _in_rows(row: Row) -> bool:
    """Whether the first axis of its weight are its outputs."""
    rule = op(row.op).rule
    return rule is not None and rule.name in ("linear", "conv")


def _statistics(row: Row) -> tuple[str | None, str | None]:
    norm = op(row.op).normalises
    return (None, None) if norm is None else (_named(row.args, norm.mean), _named(row.args, norm.variance))


def _named(args: Sequence[Any], position: int | None) -> str | None:
    argument = None if position is None or position >= len(args) else args[position]
    return argument.get("tensor") if isinstance(argument, dict) else None


def _fold_one(tensors: dict[str, np.ndarray], row: Row, name: str, after: Row) -> None:
    """Fold one BatchNorm row into the row before it, in place of the names in `tensors`."""
    affine, rule, norm = op(row.op).rule, op(after.op).rule, op(after.op).normalises
    mean, variance = _statistics(after)
    assert affine is not None and rule is not None and norm is not None
    assert mean is not None and variance is not None
    gain, shift = _named(after.args, rule.weight), _named(after.args, rule.bias)
    bias = _named(row.args, affine.bias)
    eps = constant(norm.eps.among(after.args)) or 0.0
    size = 1.0 / np.sqrt(np.asarray(tensors[variance], np.float64) + eps)
    size = size if gain is None else size * tensors[gain]
    weight = np.asarray(tensors[name], np.float64)
    moved = size * ((0.0 if bias is None else tensors[bias]) - np.asarray(tensors[mean], np.float64))
    moved = moved if shift is None else moved + tensors[shift]
    tensors[name] = weight * size.reshape(-1, *[1] * (weight.ndim - 1))
    tensors[variance] = np.full(np.shape(tensors[variance]), 1.0 - eps)
    tensors[mean] = np.zeros(np.shape(tensors[mean]))
    if gain is not None:
        tensors[gain] = np.ones(np.shape(tensors[gain]))
    if shift is not None:
        tensors[shift] = np.zeros(np.shape(tensors[shift]))
    if bias is not None:
        tensors[bias] = moved
    elif shift is not None:
        tensors[shift] = moved
    else:
        tensors[mean] = -moved
