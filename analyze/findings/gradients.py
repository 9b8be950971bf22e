"""Whether a step on one example helps the others: on average, in how many pairs, and between which classes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import xarray as xr

from analyze.findings.evidence import (
    Datasets,
    Finding,
    count,
    ends,
    kind_of,
    number,
    number_at,
    percent,
    select,
    told,
    whom,
)
from analyze.findings.intervals import Interval, difference, mean, quantile


def stiffness(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Mean cosine between the gradients of two training examples, and what share of pairs helps and harms."""
    series = select(results, "stiffness", "cosine", pair="train-train", layer="all")
    last = None if series is None or series.dims != ("step",) else ends(series)
    if last is None:
        return None
    step = last.last_step
    n = _examples_of(count(results, "stiffness", "n_pairs", pair="train-train"))
    own = mean(*_cosine(results, step, "train-train"), n)
    if own is None:
        return None
    examples = whom(results, "train", n)
    text = (
        f"At step {step:,} a step on one training example {_effect(own, 'others')} on average: mean cosine "
    )
    text += f"{told(own)} over pairs of {examples}."
    if select(results, "stiffness", "cosine_sketch_error") is not None:
        text += " Gradients were sketched, and the interval holds the error of that too."
    text += _pairs(results, step, own)
    intervals = {"cosine": own}
    start = _cosine(results, last.first_step, "train-train")
    change = difference(start, _cosine(results, step, "train-train"), n) if last.first_step < step else None
    if change is not None:
        intervals["change"] = change
        if change.excludes(0):
            text += f" It was {number(start[0])} at step {last.first_step:,}."
    text += _unseen(results, step, own, n, intervals)
    kind = kind_of(any(one.excludes(0) for one in intervals.values()))
    return Finding("stiffness", "stiffness", text, kind, intervals, n, examples)


def _cosine(results: Datasets, step: int, pair: str) -> tuple[float, float]:
    """Mean cosine and its standard error at a step."""
    value, error = (
        number_at(results, "stiffness", name, step, pair=pair, layer="all")
        for name in ("cosine", "cosine_error")
    )
    sketched = number_at(results, "stiffness", "cosine_sketch_error", step, pair=pair, layer="all")
    return value, float(np.hypot(error, np.nan_to_num(sketched)))


def _examples_of(pairs: int) -> int:
    """How many examples make so many pairs."""
    return round((1 + np.sqrt(1 + 8 * pairs)) / 2)


def _effect(one: Interval, whom: str) -> str:
    if one.above(0):
        return f"lowers the loss of {whom}"
    if one.below(0):
        return f"raises the loss of {whom}"
    return f"neither lowers nor raises the loss of {whom} by an amount that can be told"


def _pairs(results: Datasets, step: int, own: Interval) -> str:
    """How many pairs help and harm: a mean near 0 may be many of both."""
    sign = number_at(results, "stiffness", "sign", step, pair="train-train", layer="all")
    undefined = number_at(results, "stiffness", "n_undefined", step, pair="train-train", layer="all")
    total = number_at(results, "stiffness", "n_pairs", pair="train-train")
    if not np.isfinite(sign) or not total > 0:
        return ""
    moved = 1 - (undefined if np.isfinite(undefined) else 0.0) / total
    helps, harms = ((moved + side * sign) / 2 for side in (1, -1))
    lead = "" if own.excludes(0) else "This is the balance of both kinds: "
    return f" {lead}{percent(helps, 0)} of the pairs help each other and {percent(harms, 0)} harm each other."


def _unseen(results: Datasets, step: int, own: Interval, n: int, intervals: dict[str, Interval]) -> str:
    """What the same step does to test examples, and whether that is less."""
    cross = _cosine(results, step, "train-test")
    one = mean(*cross, n)
    if one is None:
        return ""
    intervals["train_test"] = one
    less = difference(cross, _cosine(results, step, "train-train"), n)
    text = f" It {_effect(one, 'test examples')}: {told(one)}"
    if less is not None:
        intervals["less"] = less
        text += (
            f", {'less' if less.above(0) else 'more'} than among training examples by {told(_size(less))}"
            if less.excludes(0)
            else "; no difference from training examples can be told"
        )
    return text + "."


def _size(one: Interval) -> Interval:
    return one if one.value >= 0 else Interval(-one.value, -one.high, -one.low)


def classes(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """The same within classes and between them: what a mean over all pairs may hide."""
    series = select(results, "class_stiffness", "cosine_within", layer="all")
    last = None if series is None or series.dims != ("step",) else ends(series)
    if last is None:
        return None
    step = last.last_step
    pairs = select(results, "class_stiffness", "n_pairs")
    table = select(results, "class_stiffness", "cosine", layer="all")
    if pairs is None or table is None:
        return None
    n = _examples_of(int(np.triu(pairs.values).sum()))
    both = {}
    for where in ("within", "between"):
        value, error = (
            number_at(results, "class_stiffness", f"cosine_{where}{end}", step, layer="all")
            for end in ("", "_error")
        )
        both[where] = value, error
    within, between = (mean(*both[where], n) for where in ("within", "between"))
    apart = difference(both["between"], both["within"], n)
    if within is None or between is None or apart is None:
        return None
    intervals = {"within": within, "between": between, "within less between": apart}
    count_of = table.sizes["label"]
    lead = "Behind this mean, between" if "stiffness" in said else "Between"
    if not apart.excludes(0):
        text = (
            f"{lead} pairs of one class and pairs of two no difference can be told: mean cosine {told(within)} within "
            f"the {count_of} classes, {told(between)} between them."
        )
    else:
        lead = "Behind this mean, pairs" if "stiffness" in said else "Pairs"
        text = (
            f"{lead} of one class {_verb(within)}, mean cosine {told(within)}; pairs of two classes {_verb(between)}, "
            f"{told(between)}. {_upshot(within, between)}"
        )
    text += _cells(results, step, intervals)
    kind = kind_of(apart.excludes(0))
    refines = "stiffness" if "stiffness" in said else ""
    return Finding(
        "class_stiffness", "class_stiffness", text, kind, intervals, n, whom(results, "train", n), refines
    )  # fmt: skip


def _verb(one: Interval) -> str:
    if one.excludes(0):
        return "help each other" if one.above(0) else "harm each other"
    return "on average do neither"


def _upshot(within: Interval, between: Interval) -> str:
    if within.above(0) and between.below(0):
        return "What one class learns costs the others on average."
    if within.above(0) and between.above(0):
        return (
            "A class helps itself more than others, and others too."
            if within.value > between.value
            else ("Classes help each other more than themselves.")
        )
    return (
        "A class helps itself more than others."
        if within.value > between.value
        else ("A class helps others more than itself.")
    )


def _cells(results: Datasets, step: int, intervals: dict[str, Interval]) -> str:
    """How many pairs of classes help or harm each other for certain, and which do most."""
    values, errors = (
        select(results, "class_stiffness", name, layer="all") for name in ("cosine", "cosine_error")
    )
    if values is None or errors is None:
        return ""
    labels = values["label"].values
    cells = list(combinations(range(len(labels)), 2))
    one, error = (_upper(array, step, cells) for array in (values, errors))
    half = quantile(looks=max(1, len(cells))) * error
    helps, harms = one - half > 0, one + half < 0
    if not (helps.any() or harms.any()):
        return ""
    rest = len(cells) - int(helps.sum() + harms.sum())
    counts = f"{helps.sum():,} help each other and {harms.sum():,} harm each other for certain"
    text = f" Taken one by one, of {len(cells):,} pairs of classes {counts}"
    text += f", and of {rest:,} neither can be told" if rest else ""
    named = (
        int(np.nanargmax(np.where(helps, one, -np.inf)))
        if helps.any()
        else int(np.argmin(np.where(harms, one, 2)))
    )
    first, second = (labels[k] for k in cells[named])
    intervals["strongest pair"] = Interval(
        float(one[named]), float((one - half)[named]), float((one + half)[named])
    )
    most = "help each other" if helps.any() else "harm each other"
    return f"{text}; classes {first} and {second} {most} most, {told(intervals['strongest pair'])}."


def _upper(array: xr.DataArray, step: int, cells: list[tuple[int, int]]) -> np.ndarray:
    table = array.sel(step=step).values
    return np.array([table[cell] for cell in cells], np.float64)
