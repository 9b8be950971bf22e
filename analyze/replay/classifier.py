"""What the last linear layer is given: the features that a network classifies by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.replay.evaluate import bounds
from tracer.errors import MissingTraceError
from tracer.ops import op
from tracer.rerun import settled

if TYPE_CHECKING:
    from analyze.replay.examples import Examples
    from analyze.replay.state import State
    from tracer.network import Network


@dataclass(frozen=True)
class Classified:
    """Features (example, feature), weights (class, feature) of the last layer and outputs (example, class), float64."""

    features: np.ndarray
    weights: np.ndarray
    outputs: np.ndarray


def classified(state: State, examples: Examples) -> Classified:
    """Input, weights and outputs of the linear layer that gives the outputs, in eval mode.

    MissingTraceError where the outputs are not those of one linear layer, or its input is not one row an example.
    """
    name = _last(state.network)
    features: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    weights: np.ndarray | None = None

    def visit(row: Any, values: tuple[Any, ...], _: Any) -> None:
        nonlocal weights
        rule = op(row.op).rule
        if row.name == name and rule is not None:
            features.append(values[rule.input].double().cpu().numpy())
            weight = values[rule.weight].double().cpu().numpy()
            weights = (
                weight if rule.name == "linear" else weight.T
            )  # a product has its weight the other way round

    with settled(grad=False):
        for start, stop in bounds(state, examples):
            out, _ = state.run_chunk(state.tensors, examples, start, stop, {}, losses=False, visit=visit)
            features[-1] = features[-1][: stop - start]
            outputs.append(out.double().cpu().numpy())
    joined = np.concatenate(features)
    if joined.ndim != 2 or len(joined) != examples.n or weights is None:
        raise MissingTraceError(
            f"the last linear layer is given values of shape {joined.shape}; this needs one row of features an example"
        )
    return Classified(joined, weights, np.concatenate(outputs))


def _last(network: Network) -> str:
    """Name of the linear row whose result, reshaped at most, is the output."""
    kind, key = network.output
    while kind == "row" and op(network.rows[key].op).shape_only:
        kind, key = next(network.rows[key].references(), ("", 0))
    row = network.rows[key] if kind == "row" else None
    if row is None or op(row.op).path != "linear" or op(row.op).rule is None:
        where = f"row {row.name!r} of module {row.module!r}" if row else "no row"
        raise MissingTraceError(
            f"the outputs come from {where}, which is no linear layer; what classifies here is not known"
        )
    return row.name
