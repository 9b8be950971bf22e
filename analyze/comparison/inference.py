"""What a comparison may conclude: joint intervals, measures that say the same, how many runs it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05  # chance that any of the measures is said to follow a target that none follows
Floats = NDArray[np.float64]


def aliases(columns: dict[str, ArrayLike]) -> dict[str, list[str]]:
    """Measures that order the runs alike, or exactly the other way round: the first of each kind, and the others.

    >>> aliases({"diversity": [1.0, 2.0, 4.0], "coherence": [1.0, 0.5, 0.25], "norm": [3.0, 1.0, 2.0]})
    {'diversity': ['coherence'], 'norm': []}
    """
    groups: dict[tuple[bytes, ...], list[str]] = {}
    for name, column in columns.items():
        values = np.asarray(column, np.float64)
        defined = ~np.isnan(values)
        ranks = np.full(len(values), -1, np.int64)
        ranks[defined] = np.unique(values[defined], return_inverse=True)[1]
        turned = np.where(defined, ranks.max(initial=0) - ranks, -1)
        groups.setdefault(tuple(sorted((ranks.tobytes(), turned.tobytes()))), []).append(name)
    return {first: others for first, *others in groups.values()}


def p_value(x: ArrayLike, y: ArrayLike) -> float:
    """Chance of so large a Kendall correlation, either way, where the two have nothing to do with each other.

    Exact for few runs without ties. NaN with fewer than two runs that have both, or where either is constant.
    """
    from scipy.stats import kendalltau

    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    defined = ~(np.isnan(first) | np.isnan(second))
    first, second = first[defined], second[defined]
    if len(first) < 2 or len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return float("nan")
    return float(kendalltau(first, second).pvalue)


def corrected(p: ArrayLike) -> Floats:
    """The same after Holm's correction for how many they are (Holm 1979); NaN stays, and does not count.

    >>> corrected([0.01, 0.04, float("nan"), 0.03]).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    values = np.asarray(p, np.float64)
    result = np.full(len(values), np.nan)
    order = [k for k in np.argsort(values) if not np.isnan(values[k])]
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, float(values[place]) * (len(order) - rank)))
        result[place] = largest
    return result


def joint_intervals(values: ArrayLike, resamples: ArrayLike) -> tuple[Floats, Floats]:
    """Intervals (measure,) of correlations that all hold at once at 95 %, from resamples (resample, measure).

    Each is as wide as the largest deviation, in standard deviations, that some measure shows in a resample (Romano &
    Wolf 2005). NaN where a measure has no resample, or none at all was drawn.
    """
    value, again = np.asarray(values, np.float64), np.asarray(resamples, np.float64)
    undefined = np.full(len(value), np.nan)
    if not len(again) or not len(value):
        return undefined, undefined
    known = ~np.isnan(again)
    n = known.sum(0)
    centre = np.divide(np.where(known, again, 0).sum(0), n, out=undefined.copy(), where=n > 1)
    off = np.where(known, again - centre, 0.0)
    deviation = np.sqrt(np.divide((off**2).sum(0), n - 1, out=undefined.copy(), where=n > 1))
    sizes = np.divide(np.abs(off), deviation, out=np.zeros(off.shape), where=deviation > 0)
    half = float(np.quantile(sizes.max(1), 1 - LEVEL)) * deviation
    return (value - half).clip(-1), (value + half).clip(max=1)


def runs_needed(measures: int, tau: float = 1.0) -> int:
    """How many runs it takes to tell that one of so many measures follows a target with this Kendall correlation.

    For a perfect order exactly: by chance it has the probability 2 / n!. Else by the normal approximation of the
    correlation of unrelated orders, and half of the time.

    >>> runs_needed(1), runs_needed(60), runs_needed(60, tau=0.5)
    (5, 7, 24)
    """
    count, size = max(1, measures), abs(tau)
    n = next(n for n in range(2, 100) if 2 / math.factorial(n) <= LEVEL / count)
    if size >= 1:
        return n
    z = NormalDist().inv_cdf(1 - LEVEL / count / 2)
    while size < 1 and n < 10_000 and size < z * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))):
        n += 1
    return n


def answer(
    words: str, n_runs: int, spread: float, names: Sequence[str], values: ArrayLike, p: ArrayLike, low: ArrayLike,
    high: ArrayLike, with_aliases: int = 0,
) -> str:  # fmt: skip
    """The sentence a comparison begins with: which measures follow a target, or why nothing can be told.

    `names` are the measures that compete, one of each kind, the least likely chance first, with their correlations,
    corrected chances and joint intervals; `spread` is how far apart the targets of the runs are. `with_aliases` is how
    many measures these are with those that order the runs alike, which among more runs each may do otherwise.
    """
    tau, chance = np.asarray(values, np.float64), np.asarray(p, np.float64)
    comparable = np.flatnonzero(~np.isnan(chance)).tolist()
    told = [k for k in comparable if chance[k] <= LEVEL]
    tried = len(comparable)
    if n_runs < 2:
        return f"Fewer than two runs have a {words}: there is nothing to compare; it takes a test and a train probe."
    if not spread > 0:
        return f"All {n_runs} runs have the same {words}: there is nothing that a measure could follow."
    if not tried:
        return f"No measure that may compete for the {words} differs between the {n_runs} runs."
    need = runs_needed(tried)
    if not told and n_runs < need:
        every = max(tried, with_aliases)
        some = f"one of {every:,} measures orders" if every > 1 else "a measure orders"
        return (
            f"Nothing can be told from {n_runs} runs: by chance alone {some} so few like the {words}, even perfectly. "
            f"It takes at least {runs_needed(every)} runs."
        )
    if not told:
        closest = comparable[0]
        more = runs_needed(tried, float(tau[closest]))
        return (
            f"None of {tried} measures follows the {words} across these {n_runs} runs beyond chance. The closest is "
            f"{names[closest]} (Kendall {_two(tau[closest])}, corrected p {_two(chance[closest])}); if that is no "
            f"accident, it takes about {more:,} runs that have a value of it to tell."
        )
    first = told[0]
    span = (
        f", {_two(np.asarray(low)[first])} to {_two(np.asarray(high)[first])}"
        if np.isfinite(low)[first]
        else ""
    )
    moves = "grows" if tau[first] > 0 else "falls"
    others = f", and {len(told) - 1} more" if len(told) > 1 else ""
    return (
        f"{names[first]} follows the {words} across {n_runs} runs best: as the {words} grows it {moves} (Kendall "
        f"{_two(tau[first])}{span}, corrected for {tried} measures){others}."
    )


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
