"""Any linear functional of a network's outputs in the place of its loss, and its tangent kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.errors import MissingTraceError
from tracer.gradients import Backward, Plan, RuleError, inner_products
from tracer.gradients.leftover import Leftover
from tracer.network import Network
from tracer.network.table import DTYPES, Row
from tracer.ops import PRODUCT, SUM
from tracer.rerun import part

if TYPE_CHECKING:
    from analyze.replay.examples import Examples
    from analyze.replay.state import State

MOST = 4096  # outputs that are differentiated one by one
SCORES = "an output that is one tensor with the examples first"


def projected(network: Network) -> Network:
    """The network whose loss of an example is the inner product of its outputs with its targets.

    So everything that is known of losses (gradients by example, kernels) is known of any combination of
    outputs. MissingTraceError where the output is not one tensor with the examples first.
    """
    last = max(network.needed([network.output]), default=-1)
    whole = max((index for index, row in enumerate(network.rows) if not row.loss), default=-1)
    rows = network.rows[: max(last, whole) + 1]
    kind, index = network.output
    row = rows[index] if kind == "row" else None
    if row is None or row.shape is None or row.axis != 0 or row.inner != 1 or row.dtype is None:
        raise MissingTraceError(f"this needs a network with {SCORES}")
    product = Row(
        "projection",
        PRODUCT,
        [{"row": index}, {"target": 0}],
        {},
        "",
        True,
        row.shape,
        row.dtype,
        0,
    )
    rows.append(product)
    if len(row.shape) > 1:
        axes = list(range(1, len(row.shape)))
        total = [{"row": len(rows) - 1}, axes]
        rows.append(Row("projected", SUM, total, {}, "", True, row.shape[:1], row.dtype, 0))
    declared = {"batched": True, "dtype": row.dtype, "shape": list(row.size(2) or ())}
    return network.derived(rows=rows, losses=("row", len(rows) - 1), targets=[declared], correct=None)


def check_outputs(size: int, count: int | None) -> None:
    """MissingTraceError where every output would be differentiated, and there are too many."""
    if count is None and size > MOST:
        raise MissingTraceError(
            f"each of {size:,} outputs would take a backward pass, more than {MOST:,}: estimate it without bias with "
            "the option projections=64"
        )


def directions(state: State, count: int | None = None, seed: int = 0) -> Tensor:
    """Vectors in the space of outputs whose outer products add up to the identity: (direction, output...).

    One a coordinate; or `count` random ones of signs over the square root of their number, for which that
    holds on average.
    """
    network = state.network
    row = network.rows[network.output[1]]
    shape = (row.size(2) or (2,))[1:]
    size, dtype = torch.Size(shape).numel(), DTYPES[row.dtype or "float32"]
    check_outputs(size, count)
    if count is None or count >= size:
        return torch.eye(size, dtype=dtype, device=state.device).reshape(size, *shape)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (count, *shape), generator=generator) * 2 - 1
    return signs.to(state.device, dtype) / count**0.5


def output_kernel(state: State, examples: Examples, count: int | None = None, seed: int = 0) -> Tensor:
    """Neural tangent kernel, sum over outputs c of <grad f_c(x_i), grad f_c(x_j)>: float64 (n, n).

    All examples go through together, once forward and once backward for every output (or for each of `count`
    random combinations of outputs: then an unbiased estimate).
    """
    network = projected(state.network)
    n = examples.n
    if network.batch is not None and n > network.batch:
        raise MissingTraceError(
            f"this network takes {network.batch} examples at a time: choose at most as many"
        )
    inputs = part(examples.inputs, 0, n, network.batch)
    excluded: dict[str, str] = {}
    kernel = torch.zeros(n, n, dtype=torch.float64, device=state.device)
    for direction in directions(state, count, seed):
        targets = direction.expand(network.batch or n, *direction.shape).contiguous()
        while True:
            try:
                kernel += _products(state, network, inputs, targets, n, excluded)
                break
            except RuleError as error:
                excluded |= dict.fromkeys(error.names, str(error))
    return (kernel + kernel.T) / 2


def _products(
    state: State, network: Network, inputs: Any, targets: Tensor, n: int, excluded: dict[str, str]
) -> Tensor:
    plan = Plan.of(network, excluded)
    products: list[Tensor] = []
    with torch.inference_mode(False), torch.enable_grad():
        backward = Backward(
            plan,
            n,
            len(targets),
            lambda unit, forms: products.extend(inner_products(form) for form in forms.values()),
        )
        _, losses = network.run(state.tensors, inputs, targets, visit=backward.visit)
        assert losses is not None
        backward.run(losses)
        if plan.leftover:
            rows = Leftover(network, list(plan.leftover)).rows(state.tensors, inputs, targets, n)
            products += [flat @ flat.T for flat in (value.reshape(n, -1).double() for value in rows.values())]
    return torch.stack(products).sum(0)
