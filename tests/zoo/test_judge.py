"""The judge lets pass what PyTorch itself is off by in float32, and nothing more."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.zoo.case import Case, N
from tests.zoo.judge import ROUNDING, Autograd, of_gradients, of_losses


class Cancelling(nn.Linear):
    """Adds and subtracts what leaves four digits in float32 and all in float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (super().forward(x) + 1e3) - 1e3


@pytest.fixture
def autograd():
    case = Case(
        "cancelling",
        "vision",
        lambda: Cancelling(4, 3),
        lambda: (torch.randn(N, 4), torch.randint(3, (N,))),
        loss=nn.functional.cross_entropy,
    )
    return Autograd(case, case.make(), range(5), gradients=True)


def test_autograd_itself_passes_and_ten_times_its_error_does_not(autograd):
    losses, gradients = autograd.losses, autograd.gradients
    assert of_losses(losses, autograd) == of_gradients(gradients.__getitem__, autograd) == ""
    true_losses, true_gradients = autograd.truth
    assert of_losses(true_losses, autograd) == of_gradients(true_gradients.__getitem__, autograd) == ""
    rounding = autograd.rounding[0].max()
    assert rounding > 1e-5  # or this shows nothing
    assert of_losses(true_losses + 10 * ROUNDING * rounding, autograd).startswith("loss of example 0")
    worst = max(rows.max() for rows in autograd.rounding[1].values())
    wrong = {name: rows + 10 * ROUNDING * worst for name, rows in true_gradients.items()}
    assert of_gradients(wrong.__getitem__, autograd).startswith("gradient of weight: off by")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong(autograd, wrong):
    assert "expected" in of_losses(np.full(5, wrong), autograd)
    rows = {name: np.full_like(one, wrong) for name, one in autograd.gradients.items()}
    assert "off by" in of_gradients(rows.__getitem__, autograd)
