"""Derivatives of outputs with respect to what the network is given, and to what it computes on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from analyze.arrays.classes import class_margins, class_scores
from analyze.replay.evaluate import bounds
from analyze.replay.examples import Examples
from analyze.replay.output_kernel import check_outputs, directions
from tracer.errors import MissingTraceError
from tracer.network.fixed_masks import by_example
from tracer.network.pytree import leaves_of
from tracer.network.table import Row
from tracer.rerun import part
from tracer.spec.correctness import Correctness

if TYPE_CHECKING:
    from analyze.replay.state import State


def jacobian_norms(
    state: State, examples: Examples, softmax: bool, projections: int | None = None
) -> np.ndarray:
    """Frobenius norm of the derivative of each example's outputs by its inputs, float64 (example,).

    softmax: of the probabilities instead, for outputs (example, class). projections: from that many random
    combinations of the outputs, whose squares are the squared norm on average. MissingTraceError where inputs are no
    real numbers, or there are too many outputs for one backward pass each.
    """
    inputs = examples.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise MissingTraceError(
            "inputs are not one tensor of real numbers, so outputs have no derivative by them"
        )
    return np.concatenate(
        [
            _jacobian(state, inputs[start:stop], softmax, projections)
            for start, stop in bounds(state, examples)
        ]
    )


def _jacobian(state: State, inputs: Tensor, softmax: bool, projections: int | None) -> np.ndarray:
    n = len(inputs)
    with torch.inference_mode(False), torch.enable_grad():
        moving = inputs.detach().clone().requires_grad_()
        outputs, _ = state.run_chunk(state.tensors, Examples(moving), 0, n, {}, losses=False)
        if softmax:
            if outputs.ndim != 2:
                raise MissingTraceError(
                    f"softmax=True needs outputs (example, class), got {outputs.ndim} dimensions"
                )
            outputs = outputs.softmax(1)
        flat = outputs.reshape(n, -1)
        squares = np.zeros(n)
        check_outputs(flat.shape[1], projections)
        few = projections is not None and projections < flat.shape[1]
        signs = directions(state, projections).flatten(1) if few else None
        for k in range(flat.shape[1] if signs is None else len(signs)):
            output = flat[:, k] if signs is None else flat @ signs[k]
            (slope,) = torch.autograd.grad(output.sum(), moving, retain_graph=True, allow_unused=True)
            if slope is not None:
                squares += slope.reshape(n, -1).double().square().sum(1).cpu().numpy()
    return np.sqrt(squares)


def layer_margins(state: State, examples: Examples) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Margins linearised at the inputs and at the outputs of every site.

    Returns the places, (example,) margin of the outputs, (place, example) length of its gradient by the
    values there, and (place,) total variance of these values over the examples. `input` is among the places
    where inputs are real numbers.
    """
    network = state.network
    sites = [site for site in network.sites if network.rows[site.row].axis is not None]
    names = {network.rows[site.row].name: site.name for site in sites}
    inputs = examples.inputs
    real = isinstance(inputs, Tensor) and inputs.is_floating_point()
    places = ([" input"] if real else []) + [site.name for site in sites]
    labels, targets = examples.labels, _as_numpy(examples.targets)
    margins, lengths = [], []
    moments: dict[str, list[Any]] = {place: [0.0, 0.0] for place in places}
    # Values of the first example, from which all are counted: equal ones have no variance.
    origin: dict[str, Any] = {}
    for start, stop in bounds(state, examples):
        chunk = _Chunk(state, part(inputs, start, stop), names, real)
        margin, by_place = chunk.margins(labels[start:stop], targets[start:stop], examples.rule)
        margins.append(margin)
        lengths.append([by_place[place] for place in places])
        for place in places:
            values = chunk.values[place]
            values = values - origin.setdefault(place, values[0])
            moments[place][0] = moments[place][0] + values.sum(0)
            moments[place][1] = moments[place][1] + values.square().sum(0)
    variance = np.array(
        [float((m[1] / examples.n - (m[0] / examples.n) ** 2).sum().clamp(min=0)) for m in moments.values()]
    )
    shown = [place.strip() for place in places]
    return (
        shown,
        np.concatenate(margins),
        np.concatenate([np.stack(rows) for rows in lengths], axis=1),
        variance,
    )


def _as_numpy(targets: Tensor) -> np.ndarray:
    """Targets as NumPy has them: class numbers stay whole, other numbers become float32."""
    targets = targets.detach().cpu()
    return (targets.float() if targets.is_floating_point() else targets).numpy()


class _Chunk:
    """One forward pass that keeps what every site gives, and the gradients of the margins by it."""

    def __init__(self, state: State, inputs: Any, names: dict[str, str], real: bool) -> None:
        self._state, self._names = state, names
        self._n = len(leaves_of(inputs)[0])
        size = state.network.batch
        self._padded = size or self._n
        leaf = part(inputs, 0, self._n, size)
        self._tensors: dict[str, tuple[Row | None, Tensor]] = {}
        with torch.inference_mode(False), torch.enable_grad():
            if real:
                leaf = leaf.detach().clone().requires_grad_()
                self._tensors[" input"] = (None, leaf)
            self.outputs, _ = state.network.run(state.tensors, leaf, visit=self._visit)
        self.values = {
            place: self._rows(row, value.detach()) for place, (row, value) in self._tensors.items()
        }

    def _visit(self, row: Row, values: tuple[Any, ...], out: Any) -> None:
        if row.name in self._names and isinstance(out, Tensor):
            if not out.requires_grad:
                out.requires_grad_()
            self._tensors[self._names[row.name]] = (row, out)

    def margins(
        self, labels: np.ndarray, targets: np.ndarray, rule: Correctness | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Margin of each example, and by place the length of its gradient."""
        outputs = self.outputs[: self._n].detach().double().cpu().numpy()
        scores = class_scores(outputs[None], targets, rule)
        margin = class_margins(scores, labels)[0]
        with torch.inference_mode(False), torch.enable_grad():
            total = self._difference(scores[0], labels, rule).sum()
            tensors = [value for _, value in self._tensors.values()]
            slopes = torch.autograd.grad(total, tensors, allow_unused=True)
        lengths = {}
        for (place, (row, value)), slope in zip(self._tensors.items(), slopes, strict=True):
            rows = self._rows(row, torch.zeros_like(value) if slope is None else slope)
            lengths[place] = rows.square().sum(1).sqrt().cpu().numpy()
        return margin, lengths

    def _difference(self, scores: np.ndarray, labels: np.ndarray, rule: Correctness | None) -> Tensor:
        """Score of the true class less that of the runner-up, with its graph."""
        outputs = self.outputs[: self._n].reshape(self._n, -1)
        probabilities = rule is not None and rule.probabilities
        if outputs.shape[1] == 1:
            alone = outputs.logit() if probabilities else outputs
            return alone[:, 0] * torch.as_tensor(2 * labels - 1).to(outputs)
        if probabilities:
            outputs = outputs.log()
        valid = np.where((labels >= 0) & (labels < outputs.shape[1]), labels, 0)
        others = scores.reshape(self._n, -1).copy()
        others[np.arange(self._n), valid] = -np.inf
        rows = torch.arange(self._n, device=outputs.device)
        true, second = (torch.as_tensor(index).to(outputs.device) for index in (valid, others.argmax(1)))
        return outputs[rows, true] - outputs[rows, second]

    def _rows(self, row: Row | None, value: Tensor) -> Tensor:
        rows = value.reshape(self._padded, -1) if row is None else by_example(value, row, self._padded)
        return rows[: self._n].double()
