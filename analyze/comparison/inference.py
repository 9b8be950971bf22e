"""What a comparison may conclude: joint intervals, measures that say the same, how many runs it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05  # chance that any of the measures is said to follow a target that none follows
# Runs that an interval takes: of fewer, intervals miss twice as often as they may, or have no width.
FEWEST = 8
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
    Wolf 2005). NaN where a measure has no resample, or none at all was drawn, and where all resamples agree: these tell
    nothing of how far off the value may be.
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
    half = float(np.quantile(sizes.max(1), 1 - LEVEL)) * np.where(deviation > 0, deviation, np.nan)
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


@dataclass(frozen=True)
class Measured:
    """A measure that competes for a target: Kendall's correlation, corrected chance, joint interval, runs with both."""

    name: str
    tau: float
    p: float
    low: float
    high: float
    n_runs: int

    @property
    def span(self) -> str:
        """The interval as part of a sentence, or that there is none."""
        if np.isfinite(self.low):
            return f"{_two(self.low)} to {_two(self.high)}"
        return "too few runs for an interval" if self.n_runs < FEWEST else "no interval"


def answer(
    words: str,
    target: ArrayLike,
    measures: Sequence[Measured],
    competing: Sequence[int],
    with_aliases: int = 0,
) -> str:
    """The sentence a comparison begins with: which measures follow a target, or why nothing can be told.

    `target` (run,) are its values; `measures` compete, one of each kind, the least likely chance first; `competing`
    are numbers of runs with any that competes, whether or not it varies; `with_aliases` is how many they are with those
    that order the runs alike, which among more runs each may do otherwise.
    """
    goal = np.asarray(target, np.float64)
    total, goal = len(goal), goal[~np.isnan(goal)]
    comparable = [one for one in measures if not np.isnan(one.p)]
    told = [one for one in comparable if one.p <= LEVEL]
    tried = len(comparable)
    if len(goal) < 2:
        return f"Fewer than two runs have a {words}: there is nothing to compare; it takes a test and a train probe."
    if not goal.max() > goal.min():
        all_of = (
            f"All {total} runs" if len(goal) == total else f"The {_of(len(goal), total)} that have one all"
        )
        return f"{all_of} have the same {words}: there is nothing that a measure could follow."
    if not tried:
        return _nothing(words, total, competing)
    if told:
        return _followed(words, told, tried, total)
    most = max(one.n_runs for one in comparable)
    if most < runs_needed(tried):
        every = max(tried, with_aliases)
        both = " with values of both" if most < total else ""
        some = f"one of {every:,} measures orders" if every > 1 else "a measure orders"
        return (
            f"Nothing can be told from {_of(most, total)}: by chance alone {some} so few like the {words}, even "
            f"perfectly. It takes at least {runs_needed(every)} runs{both}."
        )
    return _unfollowed(words, comparable[0], tried, most, total)


def _nothing(words: str, total: int, competing: Sequence[int]) -> str:
    """Where no measure can be compared: none competes, none has values, or none differs."""
    if not competing:
        return f"No measure may compete for the {words}: each reads what it is made of."
    if max(competing) < 2:
        return (
            f"No measure that may compete for the {words} has a value in more than one of the {total} runs."
        )
    return f"No measure that may compete for the {words} differs between runs that differ in it."


def _followed(words: str, told: Sequence[Measured], tried: int, total: int) -> str:
    first = told[0]
    moves = "grows" if first.tau > 0 else "falls"
    best, among = (" best", f", corrected for {tried:,} measures") if tried > 1 else ("", "")
    others = f", and {len(told) - 1:,} more" if len(told) > 1 else ""
    return (
        f"{first.name} follows the {words} across {_of(first.n_runs, total)}{best}: as the {words} grows it {moves} "
        f"(Kendall {_two(first.tau)}, {first.span}{among}){others}."
    )


def _unfollowed(words: str, closest: Measured, tried: int, most: int, total: int) -> str:
    # So many runs were not enough, whatever is expected of as many without equal values.
    more = max(closest.n_runs + 1, runs_needed(tried, closest.tau))
    across = f"the {words} across these {_of(most, total)} beyond chance"
    told = f"Kendall {_two(closest.tau)}, {closest.span}"
    if tried == 1:
        said = f"{closest.name} does not follow {across} ({told}, p {_two(closest.p)})"
    else:
        fewer = f" across {_of(closest.n_runs, total)}" if closest.n_runs != most else ""
        said = (
            f"None of {tried:,} measures follows {across}. The closest is {closest.name}{fewer} ({told}, corrected p "
            f"{_two(closest.p)})"
        )
    return f"{said}; if that is no accident, it takes about {more:,} runs that have a value of it to tell."


def _of(n: int, total: int) -> str:
    return f"{n} runs" if n == total else f"{n} of {total} runs"


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
