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

HELP = "pairs that help"  # a share, which is above 0 whatever is so


def stiffness(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Mean cosine between the gradients of two training examples, and what share of pairs helps and harms."""
    series = select(results, "stiffness", "cosine", pair="train-train", layer="all")
    last = None if series is None or series.dims != ("step",) else ends(series)
    if last is None:
        return None
    step = last.last_step
    n = _examples_of(count(results, "stiffness", "n_pairs", pair="train-train"))
    own = _of_cosines(*_cosine(results, step, "train-train"), n)
    if own is None:
        return None
    examples = whom(results, "train", n)
    text = (
        f"At step {step:,} the gradients of two training examples {_agree(own)}: mean cosine {told(own)} over pairs "
        f"of {examples}."
    )
    if select(results, "stiffness", "cosine_sketch_error") is not None:
        text += " Gradients were sketched, and the interval holds the error of that too."
    intervals = {"cosine": own}
    text += _pairs(results, step, own, n, intervals)
    start = _cosine(results, last.first_step, "train-train")
    change = difference(start, _cosine(results, step, "train-train"), n) if last.first_step < step else None
    if change is not None:
        intervals["change"] = change
        if change.excludes(0):
            text += f" The mean cosine was {number(start[0])} at step {last.first_step:,}."
    text += _unseen(results, step, own, n, intervals)
    kind = kind_of(any(one.excludes(0) for name, one in intervals.items() if name != HELP))
    return Finding("stiffness", "stiffness", text, kind, intervals, n, examples)


def _cosine(results: Datasets, step: int, pair: str) -> tuple[float, float]:
    """Mean cosine and its standard error at a step."""
    value, error = (
        number_at(results, "stiffness", name, step, pair=pair, layer="all")
        for name in ("cosine", "cosine_error")
    )
    sketched = number_at(results, "stiffness", "cosine_sketch_error", step, pair=pair, layer="all")
    return value, float(np.hypot(error, np.nan_to_num(sketched)))


def _of_cosines(value: float, error: float, n: int) -> Interval | None:
    one = mean(value, error, n)
    return None if one is None else one.within(-1, 1)


def _examples_of(pairs: int) -> int:
    """How many examples make so many pairs."""
    return round((1 + np.sqrt(1 + 8 * pairs)) / 2)


def _agree(one: Interval) -> str:
    if one.excludes(0):
        return "agree on average" if one.above(0) else "oppose each other on average"
    return "neither agree nor oppose each other on average by an amount that can be told"


def _pairs(results: Datasets, step: int, own: Interval, n: int, intervals: dict[str, Interval]) -> str:
    """How many pairs help and harm: a mean near 0 may be many of both."""
    sign, error, undefined = (
        number_at(results, "stiffness", name, step, pair="train-train", layer="all")
        for name in ("sign", "sign_error", "n_undefined")
    )
    total = number_at(results, "stiffness", "n_pairs", pair="train-train")
    if not np.isfinite(sign) or not total > 0:
        return ""
    moved = 1 - (undefined if np.isfinite(undefined) else 0.0) / total
    helps, harms = ((moved + side * sign) / 2 for side in (1, -1))
    lead = "" if own.excludes(0) else "This is the balance of both kinds: a"
    one = mean(helps, error / 2, n)
    around = ""
    if one is not None:
        one = one.within(0, 1)
        one = intervals[HELP] = Interval(helps, max(0.0, one.low), min(1.0, one.high))
        around = f" ({percent(one.low, 0)} to {percent(one.high, 0)})"
    return (
        f" {lead or 'A'} step on one example lowers the loss of the other in {percent(helps, 0)}{around} of the pairs "
        f"and raises it in {percent(harms, 0)}."
    )


def _unseen(results: Datasets, step: int, own: Interval, n: int, intervals: dict[str, Interval]) -> str:
    """Whether they agree with those of test examples, and whether less than with one another."""
    cross = _cosine(results, step, "train-test")
    one = _of_cosines(*cross, n)
    if one is None:
        return ""
    intervals["train_test"] = one
    less = difference(cross, _cosine(results, step, "train-train"), n)
    text = f" Gradients of a training and a test example {_agree(one)}: {told(one)}"
    if less is not None:
        intervals["less"] = less
        text += (
            f", {'less' if less.above(0) else 'more'} than two training examples by {told(_size(less))}"
            if less.excludes(0)
            else "; no difference from two training examples can be told"
        )
    return text + "."


def _size(one: Interval) -> Interval:
    return one if one.value >= 0 else -one


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
    both = {where: _mean(results, step, where) for where in ("within", "between")}
    within, between = (_of_cosines(*both[where], n) for where in ("within", "between"))
    apart = difference(both["between"], both["within"], n)
    if within is None or between is None or apart is None:
        return None
    intervals = {"within": within, "between": between, "within less between": apart}
    count_of = table.sizes["label"]
    lead = "Behind this mean, between" if "stiffness" in said else "Between"
    told_apart = apart.excludes(0)
    if not told_apart:
        text = (
            f"{lead} pairs of one class and pairs of two no difference can be told: mean cosine {told(within)} within "
            f"the {count_of} classes, {told(between)} between them."
        )
    else:
        lead = "Behind this mean, gradients" if "stiffness" in said else "Gradients"
        text = (
            f"{lead} of one class {_verb(within)}, mean cosine {told(within)}; those of two classes {_verb(between)}, "
            f"{told(between)}."
        )
        start, always = _start(results, last.first_step, step, apart, n, intervals)
        text += start
        told_apart = not always
    text += _cells(results, step, intervals)
    refines = "stiffness" if "stiffness" in said else ""
    return Finding(
        "class_stiffness", "class_stiffness", text, kind_of(told_apart), intervals, n,
        whom(results, "train", n), refines,
    )  # fmt: skip


def _verb(one: Interval) -> str:
    if one.excludes(0):
        return "agree" if one.above(0) else "oppose each other"
    return "on average do neither"


def _start(
    results: Datasets, first: int, step: int, apart: Interval, n: int, intervals: dict[str, Interval]
) -> tuple[str, bool]:
    """How far classes were apart at the first snapshot, and whether they have been as far ever since.

    Labels set gradients of classes apart in a network that has learned nothing, too: scores that know no class are
    raised by its own examples, and lowered by those of all others.
    """
    within, between = (_mean(results, first, where) for where in ("within", "between"))
    start = difference(between, within, n)
    if first == step or start is None:
        return "", False
    # As if of different examples, which is wider than need be where both go together.
    half = float(np.hypot(apart.high - apart.value, start.high - start.value))
    moved = apart.value - start.value
    change = intervals["change of within less between"] = Interval(moved, moved - half, moved + half)
    values = f"{number(within[0])} and {number(between[0])} at step {first:,}"
    if change.excludes(0) or not start.excludes(0):
        return f" They were {values}.", False
    why = ", when labels alone set them apart" if first == 0 else ""
    return f" They were as far apart before ({values}){why}: no change can be told.", True


def _mean(results: Datasets, step: int, where: str) -> tuple[float, float]:
    """Mean cosine within or between classes and its standard error at a step."""
    value, error = (
        number_at(results, "class_stiffness", f"cosine_{where}{end}", step, layer="all")
        for end in ("", "_error")
    )
    return value, error


def _cells(results: Datasets, step: int, intervals: dict[str, Interval]) -> str:
    """How many pairs of classes agree or oppose each other for certain, and which do most; of two classes nothing."""
    values, errors = (
        select(results, "class_stiffness", name, layer="all") for name in ("cosine", "cosine_error")
    )
    if values is None or errors is None or values.sizes["label"] < 3:
        return ""
    labels = values["label"].values
    cells = list(combinations(range(len(labels)), 2))
    one, error = (_upper(array, step, cells) for array in (values, errors))
    half = quantile(looks=len(cells)) * error
    agree, oppose = one - half > 0, one + half < 0
    if not (agree.any() or oppose.any()):
        return ""
    rest = len(cells) - int(agree.sum() + oppose.sum())
    text = (
        f" Taken one by one, the classes of {agree.sum():,} of {len(cells):,} pairs agree for certain and those of "
        f"{oppose.sum():,} oppose each other"
    )
    text += f"; of {rest:,} neither can be told" if rest else ""
    for sure, what, verb in ((agree, 1, "agree"), (oppose, -1, "oppose each other")):
        if sure.any():
            named = int(np.argmax(np.where(sure, what * one, -np.inf)))
            first, second = (labels[k] for k in cells[named])
            span = Interval(float(one[named]), float((one - half)[named]), float((one + half)[named]))
            intervals[f"classes that {verb} most"] = span
            text += f"; classes {first} and {second} {verb} most, {told(span)}"
    return text + "."


def _upper(array: xr.DataArray, step: int, cells: list[tuple[int, int]]) -> np.ndarray:
    table = array.sel(step=step).values
    return np.array([table[cell] for cell in cells], np.float64)
