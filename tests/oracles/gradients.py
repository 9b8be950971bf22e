"""Per-example gradients the slow way: one `torch.autograd.grad` an example through the user's own model."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def per_example(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, double: bool = False
) -> dict[str, Tensor]:
    """Gradient of each example's loss: (example, *shape) by parameter name; `double`: all in float64."""
    model = copy.deepcopy(model).eval()
    if double:
        model, x = model.double(), x.double() if x.is_floating_point() else x
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    rows: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for i in range(len(x)):
        value = loss(model(x[i : i + 1]), y[i : i + 1])
        found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
        for (name, parameter), gradient in zip(wanted.items(), found, strict=True):
            rows[name].append(torch.zeros_like(parameter) if gradient is None else gradient)
    return {name: torch.stack(parts).detach() for name, parts in rows.items()}


def gram(rows: list[Tensor]) -> Tensor:
    """Inner products over the concatenated parameters of a layer, float64 (example, example)."""
    flat = torch.cat([row.reshape(len(row), -1).double() for row in rows], 1)
    return flat @ flat.T


def cosine_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference of two Gram matrices in units of the expected norms; 0 where a norm is 0 in both."""
    norms = expected.diagonal().sqrt()
    scale = norms[:, None] * norms
    error = torch.where(scale > 0, (got - expected).abs() / scale, got.abs())
    return error.max().item()


# How many times PyTorch's own error ours may be. Where a gradient is a sum that cancels (a BatchNorm near the input: 77
# to 1 in VGG-19), rounding of the signals is what is left of it, and that differs with the number of examples that go
# through together: of two float32 results, both right, either may be the nearer by this much.
TIMES = 8.0
FLOOR = 2e-6  # some float32 roundings, where PyTorch happens to hit the float64 value


def check_gram(got: Tensor, exact: list[Tensor], theirs: list[Tensor]) -> None:
    """Inner products are as near to those of float64 gradients as those of PyTorch's float32 ones.

    exact, theirs: (example, *shape) of each parameter of a layer. No bound is of one machine: where a processor
    multiplies less exactly, PyTorch's own gradients do too.
    """
    expected = gram(exact)
    yardstick = cosine_error(gram(theirs), expected)
    error = cosine_error(got, expected)
    assert error <= TIMES * yardstick + FLOOR, f"error {error:.2g}, PyTorch's own is {yardstick:.2g}"


def check_rows(got: Tensor, exact: Tensor, theirs: Tensor) -> None:
    """The same of gradients themselves (example, *shape), by the norm of each example's difference."""
    ours, yardstick = ((rows.double() - exact).reshape(len(exact), -1).norm(dim=1) for rows in (got, theirs))
    size = exact.reshape(len(exact), -1).norm(dim=1)
    assert (ours <= TIMES * yardstick.max() + FLOOR * size.max()).all(), (ours, yardstick, size)
