"""Losses of tokens laid end to end, whose number varies with that of the examples."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tracer.network import trace as trace_network
from tracer.network.copies import named_tensors


@pytest.mark.parametrize(
    "losses",
    [
        lambda scores, tokens: F.cross_entropy(scores.flatten(0, 1), tokens.flatten(), reduction="none"),
        lambda scores, tokens: F.nll_loss(
            scores.log_softmax(-1).view(-1, 5), tokens.view(-1), reduction="none"
        ),
        lambda scores, tokens: F.margin_ranking_loss(
            scores[..., 0].flatten(), scores[..., 1].flatten(), 2.0 * tokens.flatten() - 1, reduction="none"
        ),
        lambda scores, tokens: F.hinge_embedding_loss(
            scores[..., 0].flatten(), 2.0 * tokens.flatten() - 1, reduction="none"
        ),
    ],
    ids=["cross_entropy", "nll_loss", "margin_ranking_loss", "hinge_embedding_loss"],
)
def test_losses_of_tokens_laid_end_to_end_take_any_number_of_examples(losses: Any) -> None:
    model, x, y = nn.Linear(3, 5), torch.randn(4, 7, 3), torch.randint(0, 2, (4, 7))

    def objective(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scores = model(x)
        return scores, losses(scores, y).view(y.shape).mean(1)

    network = trace_network(model, x, y, objective=objective)
    assert network.batch is None
    for n in (1, 4):
        _, seen = network.run(named_tensors(model), x[:n], y[:n])
        assert torch.equal(seen, objective(model, x[:n], y[:n])[1])
