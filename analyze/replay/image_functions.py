"""Image functions: what one training example's update adds to what a node computes.

An update changes the weights of a row by the sum, over the minibatch, of z_i p_i a_i: a_i is what the row was
given for example i and z_i p_i the gradient of its loss at the row's outputs, already through the gates p_i.
So the node gains, for every example, a function f_i(x) = (z_i p_i a_i) x + z_i p_i of what it is given, times
-lr / |minibatch|. (In print the bias is said to gain z_i; the gate belongs there too.) For a convolution the
sum also runs over positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from tracer.errors import MissingTraceError
from tracer.gradients import Backward, Plan
from tracer.gradients.forms import Correlation, Form, Outer
from tracer.rerun import part

if TYPE_CHECKING:
    from analyze.replay.examples import Examples
    from analyze.replay.state import State

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def image_terms(state: State, examples: Examples) -> dict[str, Form]:
    """The factors (a_i and z_i p_i) of every linear and convolution row, by the name of its weight.

    The examples go through together. A form speaks for the bias too where it has `bias`.
    """
    network = state.network
    n = examples.n
    plan = Plan.of(network)
    terms: dict[str, Form] = {}
    inputs, targets = (part(tree, 0, n, network.batch) for tree in (examples.inputs, examples.targets))
    with torch.inference_mode(False), torch.enable_grad():
        backward = Backward(plan, n, network.batch or n, lambda unit, forms: terms.update(forms))
        _, losses = network.run(state.tensors, inputs, targets, visit=backward.visit)
        if losses is None:
            raise MissingTraceError(
                "this network was recorded without a loss, so examples have no image functions"
            )
        backward.run(losses)
    return {name: form for name, form in terms.items() if isinstance(form, Outer | Correlation)}


def image_function(term: Form, example: int, x: Tensor) -> Tensor:
    """f_i(x) of one example at every node of a row, for what the row is given: shaped as the row's output.

    `example` is the position in the minibatch; x has examples first. The update itself is this times -lr /
    |minibatch|.
    """
    weight = term.rows()[example]
    bias = term.bias_rows()[example] if term.bias else None
    if isinstance(term, Correlation):
        geometry = term.geometry
        convolve = _CONVOLUTIONS[weight.ndim - 2]
        return convolve(
            x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
        )
    return F.linear(x, weight, bias)


def isolated(
    state: State, update: Mapping[str, Tensor], examples: Examples, masks: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Outputs of the network whose weights are one example's update (or a sum of updates) and nothing else.

    Parameters that are not in `update` are 0; buffers stay. `masks` holds the paths fixed.
    """
    zeros = {name: torch.zeros_like(state.tensors[name]) for name in state.parameters}
    return state.with_tensors(zeros | dict(update)).outputs(examples, masks=masks)
