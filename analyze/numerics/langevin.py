"""Stochastic gradient Langevin dynamics around a point, and what its chains say of the local learning coefficient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Both = Callable[[Floats], tuple[float, Floats]]


def chain(
    both: Both,
    start: Floats,
    n_beta: float,
    step: float,
    gamma: float,
    draws: int,
    burn_in: int,
    noise: np.random.Generator,
) -> Floats:
    """Losses (draw,) of one chain from `start` (P,) after `burn_in` steps: of every state before it is moved on.

    `both(w)` is loss and gradient. w moves by -(ε/2)(nβ ∇L + γ(w - start)) + √ε N(0, 1). NaN from where a loss is not
    finite.
    """
    w = start.copy()
    losses = np.full(draws, np.nan)
    for t in range(burn_in + draws):
        loss, gradient = both(w)
        if not np.isfinite(loss):
            losses[:] = np.nan
            break
        if t >= burn_in:
            losses[t - burn_in] = loss
        drift = n_beta * gradient + gamma * (w - start)
        w = w - step / 2 * drift + np.sqrt(step) * noise.standard_normal(len(w))
    return losses


def quadratic_coefficient(curvature: Floats, n_beta: float, step: float, gamma: float) -> float:
    """What infinitely long chains give for the loss L₀ + ½ Σ a_i w_i²: ½ Σ nβ a_i / (h_i (1 - εh_i/4)), h = nβa + γ.

    NaN where ε h reaches 4, from where on the chain diverges.

    >>> round(quadratic_coefficient(np.ones(4), 500.0, 1e-6, 0.0), 3)
    2.0
    """
    h = n_beta * np.asarray(curvature, np.float64) + gamma
    if (step * h >= 4).any():
        return float("nan")
    return float(np.sum(n_beta * curvature / (h * (1 - step * h / 4))) / 2)


def potential_scale(losses: Floats) -> float:
    """R̂ of chains (chain, draw): NaN for one chain, 1 where all have converged to one distribution.

    >>> round(potential_scale(np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])), 4)
    0.866
    """
    chains, draws = losses.shape
    if chains < 2 or draws < 2:
        return float("nan")
    within = losses.var(axis=1, ddof=1).mean()
    if not within > 0:
        return float("nan")
    return float(np.sqrt((draws - 1) / draws + losses.mean(axis=1).var(ddof=1) / within))


def plateau(losses: Floats) -> bool:
    """Whether the means of the halves of a chain (draw,) differ by less than its standard deviation."""
    half = len(losses) // 2
    return bool(abs(losses[:half].mean() - losses[half:].mean()) < losses.std()) if half else False
