import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from analyze.metrics.landscape.local_learning_coefficient import SETTINGS, local_learning_coefficient
from analyze.numerics.langevin import chain, plateau, potential_scale, quadratic_coefficient
from tests import replayed

FEW = {"chains": 2, "draws": 3, "burn_in": 2}


def by_name(model, w):
    """A vector as the parameters of a module."""
    named = dict(model.named_parameters())
    pieces = w.split([p.numel() for p in named.values()])
    return {name: v.reshape(p.shape) for (name, p), v in zip(named.items(), pieces, strict=True)}


@pytest.fixture(scope="module")
def net():
    given = replayed.examples(8)
    model = replayed.mlp()
    return model, replayed.state_of(model, given), given


@pytest.mark.parametrize(("step", "gamma"), [(2e-3, 10.0), (4e-2, 10.0), (2e-3, 0.5)])
def test_a_quadratic_agrees_with_the_exact_value_of_a_finite_chain(step, gamma):
    curvature, n_beta = np.array([1.0, 0.5, 2.0, 0.0]), 40.0
    # Many copies of the problem side by side are one chain with as many independent draws.
    a = np.tile(curvature, 400)
    noise = np.random.default_rng(0)
    rows = chain(lambda w: (float(a @ w**2) / 2, a * w), a * 0, n_beta, step, gamma, 1500, 1500, noise)
    exact = sum(
        n_beta * c / 2 / ((n_beta * c + gamma) * (1 - step * (n_beta * c + gamma) / 4)) for c in curvature
    )
    assert quadratic_coefficient(curvature, n_beta, step, gamma) == pytest.approx(exact)
    assert n_beta * rows.mean() / 400 == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("power", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_singular_loss_has_less_than_half_a_dimension(power):
    # Of w^2k alone λ is 1/(2k) at any nβ.
    noise = np.random.default_rng(power)

    def both(w):
        slope = 2 * power * w ** (2 * power - 1)
        return float(slope @ w) / (2 * power), slope

    rows = chain(both, np.zeros(3000), 20.0, 2e-3, 0.0, 400, 1200, noise)
    assert 20.0 * rows.mean() / 3000 == pytest.approx(1 / (2 * power), rel=0.04)


def test_limits_of_the_exact_value():
    assert quadratic_coefficient(np.array([1.0, 3.0, 0.0]), 100.0, 1e-9, 0.0 + 1e-9) == pytest.approx(1.0)
    assert math.isnan(quadratic_coefficient(np.ones(1), 100.0, 0.04, 0.0))


def test_agrees_with_a_chain_of_the_module(net):
    model, state, given = net
    result = local_learning_coefficient(
        replayed.States([state], given), step_size=0.02, gamma=3.0, checks=False, **FEW
    )
    n_beta = 8 / math.log(8)
    means = []
    for k in range(2):
        draw, losses = np.random.default_rng([0, k]), []
        start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        w = start.clone()
        for t in range(5):
            named = by_name(model, w)
            for value in named.values():
                value.requires_grad_()
            loss = F.cross_entropy(torch.func.functional_call(model, named, given.inputs), given.targets)
            slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(named.values()))])
            losses += [float(loss.detach())] if t >= 2 else []
            noise = torch.from_numpy(draw.standard_normal(len(w)))
            w = (w - 0.01 * (n_beta * slope + 3.0 * (w - start)) + 0.02**0.5 * noise).detach()
        np.testing.assert_allclose(result["trace"][0, k], losses, rtol=1e-9)
        means.append(n_beta * (np.mean(losses) - result["loss"][0]))
    assert result["llc"][0] == pytest.approx(np.mean(means))
    assert result["llc_sd"][0] == pytest.approx(np.std(means, ddof=1))
    assert result["loss"][0] == pytest.approx(
        float(F.cross_entropy(model(given.inputs), given.targets).detach())
    )
    assert result["trustworthy"][0] == 0 and np.isnan(result["llc_half_step"][0])


def test_step_is_chosen_by_the_curvature_and_checks_are_made(net):
    model, state, given = net
    result = local_learning_coefficient(replayed.States([state], given), **FEW)

    def loss(w):
        outputs = torch.func.functional_call(model, by_name(model, w), given.inputs)
        return F.cross_entropy(outputs, given.targets)

    hessian = torch.autograd.functional.hessian(loss, state.flat())
    top = 8 / math.log(8) * float(torch.linalg.eigvalsh(hessian).abs().max()) + 1.0
    assert result["step_times_curvature"][0] == pytest.approx(result["step_size"][0] * top, rel=1e-2)
    assert 0.08 < result["step_times_curvature"][0] <= 0.2
    assert all(np.isfinite(result[f"llc{end}"][0]) for end in SETTINGS)


def test_minibatches_are_drawn_anew_and_order_does_not_matter_for_whole_sets(net):
    _, state, given = net
    some = local_learning_coefficient(replayed.States([state], given), batch=3, checks=False, **FEW)
    assert not np.allclose(some["trace"][0, 0, 0], some["loss"][0])
    turned = given.take(np.arange(8)[::-1].copy())
    first, second = (
        local_learning_coefficient(replayed.States([state], each), step_size=0.01, checks=False, **FEW)
        for each in (given, turned)
    )
    np.testing.assert_allclose(first["trace"], second["trace"], rtol=1e-9)


def test_chains_that_diverge_and_diagnostics(net):
    _, state, given = net
    result = local_learning_coefficient(replayed.States([state], given), step_size=1e200, checks=False, **FEW)
    assert result["n_diverged"][0] == 2 and np.isnan(result["llc"][0])
    broken = state.with_tensors({"0.bias": torch.full_like(state.tensors["0.bias"], np.nan)})
    assert np.isnan(local_learning_coefficient(replayed.States([broken], given), **FEW)["llc"][0])
    assert plateau(np.tile([0.0, 1.0], 10)) and not plateau(np.arange(10.0))
    same = np.random.default_rng(0).normal(size=(4, 2000))
    assert (
        potential_scale(same) == pytest.approx(1, abs=0.01)
        and potential_scale(same + 5 * np.arange(4)[:, None]) > 3
    )
