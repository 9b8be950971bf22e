"""Sums are added up in float64: of a number and many that are lost beside it in float32, none is lost."""

import numpy as np
import torch
from torch import nn

import analyze
import tracer
from tracer.gradients.forms import Full
from tracer.gradients.products import gram_of_pairs
from tracer.probe.answers import log_sum_exp

LARGE = float(2**24)  # plus 1 is itself in float32


def test_float32_would_fail_here():
    assert np.float32(LARGE) + np.float32(1) == np.float32(LARGE)
    total = np.float32(LARGE)
    for _ in range(7):
        total += np.float32(1)
    assert total == LARGE


def test_sums_over_units_losses_and_products(tmp_path):
    model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([LARGE, *[1.0] * 7]))
        model[2].weight.zero_()
        model[2].bias.zero_()
    targets = torch.tensor([[LARGE] * 2, *[[1.0] * 2] * 7]) ** 0.5
    with tracer.record(
        tmp_path / "a.zarr",
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        loss=lambda outputs, targets: (outputs - targets).square().mean(1),
        probes={"train": (torch.zeros(8, 1), targets)},
    ):
        pass
    archive = tracer.open(tmp_path / "a.zarr")
    pre, post = archive.probes["train"].sums(0)
    assert pre[0, 0] == post[0, 0] == LARGE + 7
    losses = archive.probes["train"].losses(0)
    assert losses.dtype == np.float32 and losses.tolist() == [LARGE, *[1.0] * 7]
    loss = analyze.run(archive, ["generalization"])["generalization"]["loss"].item()
    assert loss == (LARGE + 7) / 8
    from analyze.replay import Replay

    assert Replay(archive).at(0).loss("train") == (LARGE + 7) / 8


def test_inner_products_over_many_columns():
    row = torch.zeros(1, 20_000)
    row[0, 0], row[0, -1] = 2**12, 1.0
    assert Full(row).gram().item() == LARGE + 1


def test_inner_products_over_pairs_of_positions():
    """Sums over the positions of either example alone are numbers of float32; the sum of these is none."""
    z = torch.tensor([[1.0, 2.0], [LARGE / 2, 1.0]])[..., None]
    assert gram_of_pairs(torch.ones(2, 2, 1), z, bias=False)[0, 1].item() == 3 * (LARGE / 2 + 1)


def test_exponentials_of_scores():
    scores = torch.tensor([[0.0, *[-24 * np.log(2)] * 3]], dtype=torch.float32)
    total, _ = log_sum_exp(scores)
    np.testing.assert_allclose(total.item(), np.log1p(3 / LARGE), rtol=1e-4)
