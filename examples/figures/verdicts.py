"""How every page of the gallery comes to its verdict: one test, whose power is told, for all of them.

A claim is cut into checks. Each has an effect, measured once a seed so that 0 means that nothing happens and a
positive value is what the claim says, and the smallest effect that would matter, both declared before the final seeds
were run. Settings and smallest effects were chosen on `EXPLORATORY` seeds; verdicts come from `FINAL` ones alone.
Every page is first run at the first ten of these. By their spread, whatever came out, some checks have the power to be
told only at more seeds: a page that has one which needs at most thirty is run at thirty, where its ten took no more
than a quarter of an hour, and all its checks are decided by these. Until then it says how many would do. This rule was
written when most pages had been seen at ten seeds, which are among the thirty.

1. Test. The mean effect over seeds is compared with the smallest that matters by a two-sided t test. A p-value is
   never less than that of so many seeds all on one side (2 · 2⁻ⁿ), so that three seeds decide nothing, however alike.
2. Several checks. All checks of a page are corrected together (Holm 1979): the chance of any wrong decision on a page
   is at most 5 %. The interval shown is at the level its check was decided at: it leaves the smallest effect out where,
   and only where, the check is decided.
3. Power. The chance that the check would be contradicted if nothing happened (as great as that of its being supported
   were the effect twice the smallest), from the spread over seeds, at 5 % over the number of checks. Below 0.8 the
   answer is "cannot be told", whatever came out.
4. Answer. Supported: the effect is larger than the smallest that matters. Contradicted: it is smaller. Otherwise it
   cannot be told.
5. Absence. A check that something does not happen passes by itself when nothing happens. It can contradict a claim; it
   never counts as support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

from analyze.comparison.inference import corrected

EXPLORATORY = range(10)
FINAL = range(100, 130)
FIRST = 10
LEVEL, POWER = 0.05, 0.8
MOST = 1000  # seeds; beyond that nobody will run them
SUPPORTED, CONTRADICTED, UNTOLD = "supported", "contradicted", "cannot be told"
NEUTRAL = "as claimed, but no support"
PARTLY = "partly supported"
VERDICTS = (SUPPORTED, PARTLY, CONTRADICTED, UNTOLD)


@dataclass(frozen=True)
class Check:
    """One part of a claim: its effect at each seed (NaN: undefined there), and the smallest effect that matters.

    `absent`: the claim is that this effect is *not* there.
    """

    part: str
    values: Sequence[float]
    smallest: float
    unit: str = ""
    absent: bool = False

    def __post_init__(self) -> None:
        if not self.smallest > 0:
            raise ValueError(f"the smallest effect of {self.part!r} is {self.smallest}, expected one above 0")


@dataclass(frozen=True)
class Outcome:
    """What came out of a check: n seeds with a value, mean and interval, Holm's p, standard deviation, and the answer.

    `power` is the chance to tell nothing from the smallest effect at `level`, whatever came out of the other checks.
    """

    check: Check
    n: int
    mean: float
    low: float
    high: float
    p: float
    spread: float
    power: float
    level: float
    answer: str

    @property
    def needed(self) -> int:
        """Fewest seeds with a power of 0.8 at this spread."""
        return seeds_needed(self.spread, self.check.smallest, self.level)


def decide(checks: Sequence[Check]) -> list[Outcome]:
    """Outcomes of all checks of a page, which are corrected together.

    >>> strong, none = Check("rises", [1.0, 1.1, 0.9, 1.0] * 3, 0.2), Check("falls", [0.1, -0.1, 0.05] * 4, 0.2)
    >>> [one.answer for one in decide([strong, none])]
    ['supported', 'contradicted']
    >>> [one.answer for one in decide([Check("rises", [1.0, 1.1, 0.9], 0.2)])]
    ['cannot be told']
    """
    samples = [np.asarray(check.values, np.float64) for check in checks]
    samples = [values[np.isfinite(values)] for values in samples]
    p = [_p_value(values, check.smallest) for values, check in zip(samples, checks, strict=True)]
    levels, adjusted, each = _levels(p), corrected(p), LEVEL / max(1, len(checks))
    outcomes = []
    for check, values, level, holm in zip(checks, samples, levels, adjusted, strict=True):
        n, mean = len(values), float(values.mean()) if len(values) else np.nan
        spread = float(values.std(ddof=1)) if n > 1 else np.nan
        half = critical(level, n) * spread / np.sqrt(n) if n > 1 else np.nan
        sure = power(spread, n, check.smallest, each)
        answer = _answer(check, mean, holm <= LEVEL and sure >= POWER)
        ends = mean - half, mean + half
        outcomes.append(Outcome(check, n, mean, *ends, float(holm), spread, sure, each, answer))
    return outcomes


def verdict(outcomes: Sequence[Outcome]) -> str:
    """One of `VERDICTS`: what the answers come to for the claim as a whole.

    Supported where every check that counts is, and none of absence is contradicted; partly where some are; contradicted
    where none is and some are contradicted.
    """
    answers = [one.answer for one in outcomes]
    counted = [one.answer for one in outcomes if not one.check.absent]
    if SUPPORTED in counted:
        whole = set(counted) == {SUPPORTED} and CONTRADICTED not in answers
        return SUPPORTED if whole else PARTLY
    return CONTRADICTED if CONTRADICTED in answers else UNTOLD


def power(spread: float, n: int, smallest: float, level: float) -> float:
    """Chance that a two-sided t test of n values tells 0 from `smallest`; 0 where n values decide nothing.

    >>> round(power(1.0, 10, 1.0, 0.05), 3), power(1.0, 3, 100.0, 0.05)
    (0.803, 0.0)
    """
    if n < 2 or _least(n) > level or np.isnan(spread):
        return 0.0
    # A tiny spread would be beyond what the noncentral distribution can be computed for, and is as good as certain.
    shift = min(smallest * np.sqrt(n) / spread, 30.0) if spread > 0 else 30.0
    return 1.0 - float(nctdtr(n - 1, shift, critical(level, n)))


def critical(level: float, n: int) -> float:
    """How many standard errors the mean of n values must be away at this two-sided level."""
    return -float(stdtrit(n - 1, level / 2))


def seeds_needed(spread: float, smallest: float, level: float) -> int:
    """Fewest seeds with a power of 0.8 at this spread; `MOST` where it is more, or the spread is unknown.

    >>> seeds_needed(1.0, 1.0, 0.05)
    10
    """
    low, high = 2, MOST
    while low < high:
        middle = (low + high) // 2
        enough = power(spread, middle, smallest, level) >= POWER
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _least(n: int) -> float:
    return 2.0 ** (1 - n)


def _p_value(values: np.ndarray, smallest: float) -> float:
    """Two-sided p of the mean being `smallest`; 1 for fewer than two values."""
    n = len(values)
    if n < 2:
        return 1.0
    away, error = abs(values.mean() - smallest), values.std(ddof=1) / np.sqrt(n)
    if error == 0:
        return _least(n) if away > 0 else 1.0
    return min(1.0, max(_least(n), 2 * float(stdtr(n - 1, -away / error))))


def _levels(p: Sequence[float]) -> list[float]:
    """The level at which Holm's procedure decides each check: from the first that fails, the same for all."""
    levels, level, failed = [0.0] * len(p), 0.0, False
    for rank, place in enumerate(np.argsort(p, kind="stable")):
        level = level if failed else LEVEL / (len(p) - rank)
        levels[place], failed = level, failed or p[place] > level
    return levels


def _answer(check: Check, mean: float, decided: bool) -> str:
    if not decided:
        return UNTOLD
    if check.absent:
        return CONTRADICTED if mean > check.smallest else NEUTRAL
    return SUPPORTED if mean > check.smallest else CONTRADICTED
