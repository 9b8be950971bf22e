"""What a finding is made of, how results are read for one, and how its numbers are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xarray as xr

from analyze.findings.intervals import Interval

Datasets = Mapping[str, xr.Dataset]
Kind = Literal["description", "difference", "no difference"]
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NAMES = {"train": "training", "test": "test", "val": "validation"}


@dataclass(frozen=True)
class Finding:
    """One claim about a run.

    name: what it is about. kind: whether it tells a difference, that none can be told, or only what is there.
    intervals: each number with the ends of its interval. n: how many examples it rests on, and `examples` which.
    refines: the finding that it says more of, if any.
    """

    name: str
    metric: str
    sentence: str
    kind: Kind
    intervals: dict[str, Interval] = field(default_factory=dict)
    n: int = 0
    examples: str = ""
    refines: str = ""

    @property
    def values(self) -> dict[str, float]:
        """Its numbers by name."""
        return {name: one.value for name, one in self.intervals.items()}

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        spans = {name: {"value": v.value, "low": v.low, "high": v.high} for name, v in self.intervals.items()}
        words = {
            key: getattr(self, key)
            for key in ("name", "metric", "kind", "sentence", "n", "examples", "refines")
        }
        return {**words, "intervals": spans}


@dataclass(frozen=True)
class Ends:
    """First and last defined value of a series over steps."""

    first_step: int
    first: float
    last_step: int
    last: float


def ends(values: xr.DataArray) -> Ends | None:
    """First and last defined value of an array over `step`; None where every value is undefined.

    >>> ends(xr.DataArray([np.nan, 0.5, 0.25], coords={"step": [0, 10, 20]}, dims="step"))
    Ends(first_step=10, first=0.5, last_step=20, last=0.25)
    """
    defined = values.dropna("step")
    if defined.sizes["step"] == 0:
        return None
    steps, numbers = defined["step"].values, defined.values.astype(np.float64)
    return Ends(int(steps[0]), float(numbers[0]), int(steps[-1]), float(numbers[-1]))


def select(results: Datasets, metric: str, variable: str, **labels: str) -> xr.DataArray | None:
    """One series of a result by coordinate labels; None where the metric, variable or label is absent."""
    if metric not in results or variable not in results[metric]:
        return None
    array = results[metric][variable]
    for dim, label in labels.items():
        if dim not in array.dims or label not in array[dim].values:
            return None
        array = array.sel({dim: label})
    return array


def number_at(results: Datasets, metric: str, variable: str, step: int | None = None, **labels: str) -> float:
    """One number of a result, at a step where it has steps; NaN where there is none."""
    array = select(results, metric, variable, **labels)
    if array is not None and "step" in array.dims and step is not None:
        array = array.sel(step=step) if step in array["step"].values else None
    return float(array) if array is not None and array.ndim == 0 else float("nan")


def count(results: Datasets, metric: str, variable: str, **labels: str) -> int:
    """A count of a result; 0 where there is none."""
    value = number_at(results, metric, variable, None, **labels)
    return int(value) if np.isfinite(value) else 0


def whom(results: Datasets, probe: str, n: int) -> str:
    """Which examples: `128 of the 512 training examples` where the probe holds more."""
    total = watched(results, probe) or count(results, "generalization", "n_examples", probe=probe)
    of = f"{n:,} of the {total:,}" if n < total else f"{n:,}"
    return f"{of} {NAMES[probe]} examples" if probe in NAMES else f"{of} examples of {probe!r}"


def watched(results: Datasets, probe: str) -> int:
    """How many examples the probe holds, of which streams may hold fewer; 0 where no result says."""
    for data in results.values():
        try:
            return int(json.loads(data.attrs["probe_examples"])[probe])
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
    return 0


def kind_of(apart: bool) -> Kind:
    """Kind of a finding that looked for a difference."""
    return "difference" if apart else "no difference"


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage, with digits enough to tell it from 0 and 100, and one where it is not whole.

    >>> percent(0.0334), percent(0.05, 0), percent(0.025, 0), percent(0.0004), percent(-1e-17, 0)
    ('3.3%', '5%', '2.5%', '0.04%', '0%')
    """
    value = round(100 * value, 9)
    digits = max(digits, 1 if value % 1 else 0)
    while digits < 9 and any(value != end and round(value, digits) == end for end in (0, 100)):
        digits += 1
    return f"{number(value, digits)}%"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and no minus on zero.

    >>> number(-0.256), number(-0.001), number(1234.5, 0)
    ('−0.26', '0.00', '1,234')
    """
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def figures(value: float, digits: int = 3) -> str:
    """A number of any size in so many significant digits.

    >>> figures(0.08731), figures(-2.5), figures(-1.124e7)
    ('0.0873', '−2.5', '−1.12 × 10⁷')
    """
    text, _, power = f"{value:.{digits}g}".partition("e")
    return (text + (f" × 10{str(int(power)).translate(_RAISED)}" if power else "")).replace("-", "−")


def span(one: Interval, digits: int = 2, scale: float = 1.0) -> str:
    """The ends of an interval in words, with digits enough to tell an end from 0, and one from the other.

    >>> span(Interval(0.02, 0.003, 0.04)), span(Interval(0.0, -0.1, 0.1)), span(Interval(0.81, 0.807, 0.812))
    ('0.003 to 0.040', '−0.10 to 0.10', '0.807 to 0.812')
    """
    digits = enough(one, digits, scale)
    return f"{number(scale * one.low, digits)} to {number(scale * one.high, digits)}"


def told(one: Interval, digits: int = 2, scale: float = 1.0, unit: str = "") -> str:
    """A number with its interval, in as many digits: `0.10 (0.07 to 0.13)`.

    >>> told(Interval(0.0, -0.0004, 0.002), 1, 100, " percentage points")
    '0.00 percentage points (−0.04 to 0.20)'
    """
    return f"{number(scale * one.value, enough(one, digits, scale))}{unit} ({span(one, digits, scale)})"


def told_share(one: Interval) -> str:
    """A share with its interval: `62% (53% to 71%)`.

    >>> told_share(Interval(0.62, 0.53, 0.71)), told_share(Interval(1.0, 0.998, 1.0))
    ('62% (53% to 71%)', '100.0% (99.8% to 100.0%)')
    """
    digits = enough(one, 0, 100)
    while digits < 5 and any(x < 1 and round(100 * x, digits) == 100 for x in (one.value, one.low)):
        digits += 1
    value, low, high = (number(100 * x, digits) for x in (one.value, one.low, one.high))
    return f"{value}% ({low}% to {high}%)"


def sized(one: Interval) -> str:
    """The same of a number of any size, in the digits that the width of its interval leaves certain.

    >>> sized(Interval(0.1995, 0.05, 0.349)), sized(Interval(2150.0, 1900.0, 2400.0)), sized(Interval(2e7, 0.0, 4e7))
    ('0.20 (0.05 to 0.35)', '2,150 (1,900 to 2,400)', '2 × 10⁷ (0 to 4 × 10⁷)')
    """
    width, size = one.high - one.low, max(abs(one.low), abs(one.high))
    if not 1e-4 <= size < 1e6:
        return f"{figures(one.value)} ({figures(one.low)} to {figures(one.high)})"
    return told(one, max(0, 1 - math.floor(math.log10(width))) if 0 < width < math.inf else 2)


def enough(one: Interval, digits: int, scale: float = 1.0) -> int:
    """Digits with which neither end is taken for 0, nor one for the other; the latter only where five can do it."""
    ends = scale * one.low, scale * one.high
    while digits < 5 and any(end and round(end, digits) == 0 for end in ends):
        digits += 1
    apart = digits
    while apart < 5 and round(ends[0], apart) == round(ends[1], apart):
        apart += 1
    return apart if round(ends[0], apart) != round(ends[1], apart) else digits
