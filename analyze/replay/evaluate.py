"""Outputs and losses from one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from analyze.numerics import mean_defined
from tracer.errors import MissingTraceError
from tracer.probe.memory import chunk_sizes

if TYPE_CHECKING:
    from analyze.replay.examples import Examples
    from analyze.replay.state import State

MEMORY = 1 << 28  # bytes of values kept for a backward pass


def bounds(state: State, examples: Examples) -> Iterator[tuple[int, int]]:
    """Examples that go through together with a backward pass: as many as memory allows."""
    limit = chunk_sizes(state.network, MEMORY, None)[0]
    yield from ((start, min(start + limit, examples.n)) for start in range(0, examples.n, limit))


def both(
    state: State, examples: Examples, masks: Mapping[str, Tensor] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (example, ...) and losses (example,) of one forward pass, as NumPy arrays."""
    outputs, losses = [], []
    examples = state.suited(examples)
    with torch.inference_mode(False), torch.no_grad():
        for start, stop in bounds(state, examples):
            out, loss = state.run_chunk(state.tensors, examples, start, stop, masks or {}, losses=True)
            assert loss is not None
            outputs.append(out.double().cpu().numpy())
            losses.append(loss.double().cpu().numpy())
    return np.concatenate(outputs), np.concatenate(losses)


def loss_and_error(state: State, examples: Examples) -> tuple[float, float]:
    """Mean loss and share of wrong answers, added up in float64; NaN for an error that is not known."""
    outputs, losses = both(state, examples)
    try:
        right = float(mean_defined(state.correct(examples, torch.from_numpy(outputs)))[0])
    except MissingTraceError:
        right = np.nan
    return examples.mean(losses), 1.0 - right
