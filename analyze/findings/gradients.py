"""Whether a step on one example helps the others: on average, in how many pairs, and between which classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from analyze.findings.evidence import (
    Datasets,
    Finding,
    count,
    kind_of,
    number,
    number_at,
    select,
    told,
    told_share,
    whom,
)
from analyze.findings.intervals import FEWEST, Interval, difference, mean, quantile, share

if TYPE_CHECKING:
    import xarray as xr

SHARES = ("pairs that help", "pairs that harm")  # above 0 whatever is so
FEWEST_OF_CLASS = 6  # examples, of the smaller of two classes


def stiffness(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Mean cosine between the gradients of two training examples, and what share of pairs helps and harms."""
    series = select(results, "stiffness", "cosine", pair="train-train", layer="all")
    if series is None or series.dims != ("step",):
        return None
    found = _first_and_last(series, lambda step: _examples(results, step, "train"))
    if found is None:
        return None
    first, step, n = found
    own = _of_one_set(*_cosine(results, step, "train-train"), n)
    if own is None:
        return None
    examples = whom(results, "train", n)
    text = (
        f"At step {step:,} the gradients of two training examples {_agree(own)}: mean cosine {told(own)} over pairs "
        f"of {examples}"
    )
    text += _left_out(results, step, n) + "."
    text += _since(results, step, int(series["step"].values[-1]))
    if select(results, "stiffness", "cosine_sketch_error") is not None:
        text += " Gradients were sketched, and the interval holds the error of that too."
    intervals = {"cosine": own}
    text += _pairs(results, step, own, n, intervals)
    start, n_start = _cosine(results, first, "train-train"), _examples(results, first, "train")
    change = (
        difference(start, _cosine(results, step, "train-train"), min(n, n_start), fewest=FEWEST)
        if first < step
        else None
    )
    before = _of_one_set(*start, n_start)
    if change is not None and (own.excludes(0) or (before is not None and before.excludes(0))):
        intervals["change"] = change
        if change.excludes(0):
            text += f" The mean cosine was {number(start[0])} at step {first:,}."
    text += _unseen(results, step, n, intervals)
    kind = kind_of(any(one.excludes(0) for name, one in intervals.items() if name not in SHARES))
    return Finding("stiffness", "stiffness", text, kind, intervals, n, examples)


def _first_and_last(series: xr.DataArray, n_at: Callable[[int], int]) -> tuple[int, int, int] | None:
    """First step with a value, the last with values of FEWEST examples or more, and of how many it has them."""
    steps = [int(step) for step in series.dropna("step")["step"].values]
    for step in reversed(steps):
        if (n := n_at(step)) >= FEWEST:
            return steps[0], step, n
    return None


def _cosine(results: Datasets, step: int, pair: str) -> tuple[float, float]:
    """Mean cosine and its standard error at a step."""
    value, error = (
        number_at(results, "stiffness", name, step, pair=pair, layer="all")
        for name in ("cosine", "cosine_error")
    )
    sketched = number_at(results, "stiffness", "cosine_sketch_error", step, pair=pair, layer="all")
    return value, float(np.hypot(error, np.nan_to_num(sketched)))


def _of_cosines(value: float, error: float, n: float, fewest: int = FEWEST) -> Interval | None:
    one = mean(value, error, n, fewest=fewest)
    return None if one is None else one.within(-1, 1)


def _of_one_set(value: float, error: float, n: float, fewest: int = FEWEST) -> Interval | None:
    """Of examples with one another: of all that might be drawn it is the squared length of a mean, never below 0.

    Of n that are drawn it may come down to -1 / (n - 1), and the jackknife then finds that nothing varies.
    """
    one = _of_cosines(value, error, n, fewest)
    return None if one is None else Interval(one.value, one.low, max(one.high, 0.0))


def _examples(results: Datasets, step: int, split: str, without: str = "n_undefined") -> int:
    """How many examples of a split have a defined gradient with a direction at a step; 0 for fewer than two.

    Where `without` counts the pairs without a sign: a defined gradient.
    """
    pair = f"{split}-{split}"
    undefined = number_at(results, "stiffness", without, step, pair=pair, layer="all")
    return int(_in_pairs(count(results, "stiffness", "n_pairs", pair=pair) - np.nan_to_num(undefined)))


def _in_pairs(pairs: ArrayLike) -> np.ndarray:
    """How many examples make so many pairs; 0 for none, which one example makes too."""
    numbers = np.asarray(pairs, np.float64)
    return np.where(numbers > 0, np.rint((1 + np.sqrt(1 + 8 * numbers)) / 2), 0).astype(np.int64)


def _left_out(results: Datasets, step: int, n: int) -> str:
    """Of how many examples of which inner products were recorded there was nothing to compare, and why."""
    recorded = int(_in_pairs(count(results, "stiffness", "n_pairs", pair="train-train")))
    known = _examples(results, step, "train", "n_undefined_sign")
    text = f"; {known - n:,} had no gradient to follow" if known > n else ""
    return text + (f"; the gradients of {recorded - known:,} are undefined" if recorded > known else "")


def _since(results: Datasets, step: int, final: int) -> str:
    """That since then too few examples have had a gradient with a direction; of those that are undefined nothing."""
    known, n = (_examples(results, final, "train", *of) for of in (("n_undefined_sign",), ()))
    if final == step or not known:
        return ""
    some = f"only {n:,} of {known:,} training examples" if n else "no two training examples"
    return f" At step {final:,} {some} have a gradient to follow."


def _agree(one: Interval) -> str:
    if one.excludes(0):
        return "agree on average" if one.above(0) else "oppose each other on average"
    return "neither agree nor oppose each other on average by an amount that can be told"


def _pairs(results: Datasets, step: int, own: Interval, n: int, intervals: dict[str, Interval]) -> str:
    """How many pairs help and harm: a mean near 0 may be many of both."""
    sign, error, undefined, unsigned, zero = (
        number_at(results, "stiffness", name, step, pair="train-train", layer="all")
        for name in ("sign", "sign_error", "n_undefined", "n_undefined_sign", "n_zero")
    )
    total = count(results, "stiffness", "n_pairs", pair="train-train")
    compared = total - undefined
    if not np.isfinite([sign, error, zero, compared]).all() or not compared > 0:
        return ""
    more, either = sign * (total - unsigned), total - unsigned - zero
    helps, harms = (
        _of_pairs(float(np.clip((either + side * more) / 2 / compared, 0, 1)), error / 2, n)
        for side in (1, -1)
    )
    if helps is None or harms is None:
        return ""
    intervals |= dict(zip(SHARES, (helps, harms), strict=True))
    balance = not own.excludes(0) and helps.above(0) and harms.above(0)
    return (
        f" {'This is the balance of both kinds: a' if balance else 'A'} step on one example lowers the loss of the "
        f"other in {told_share(helps)} of the pairs and raises it in {told_share(harms)}."
    )


def _of_pairs(value: float, error: float, n: int) -> Interval | None:
    """Of a share of all pairs of n examples: the wider of the jackknife and of n / 2 pairs that share no example.

    No mean over all pairs varies more than one over these; the jackknife is 0 where all pairs of the sample are alike.
    """
    one = share(value, n // 2)
    half = quantile(n - 1) * error
    if one is None:
        return None
    return Interval(value, min(one.low, value - half), max(one.high, value + half)).within(0, 1)


def _unseen(results: Datasets, step: int, n: int, intervals: dict[str, Interval]) -> str:
    """Whether they agree with those of test examples, and whether less than with one another."""
    cross, n_test = _cosine(results, step, "train-test"), _examples(results, step, "test")
    one = _of_cosines(*cross, min(n, n_test))
    if one is None:
        return ""
    intervals["train_test"] = one
    less = difference(cross, _cosine(results, step, "train-train"), min(n, n_test), fewest=FEWEST)
    text = (
        f" Gradients of a training and a test example {_agree(one)}: {told(one)} over pairs with "
        f"{whom(results, 'test', n_test)}"
    )
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
    if series is None or series.dims != ("step",):
        return None
    found = _first_and_last(series, lambda step: int(_of_classes(results, step).sum()))
    if found is None:
        return None
    first, step, n = found
    within, between = (
        of(*_mean(results, step, where), fewest=3)
        for of, where in ((_of_one_set, "within"), (_of_cosines, "between"))
    )
    apart = mean(*_apart(results, step))
    if within is None or between is None or apart is None:
        return None
    intervals = {"within": within, "between": between, "within less between": apart}
    count_of = results["class_stiffness"].sizes["label"]
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
        start, always = _start(results, first, step, intervals)
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


def _start(results: Datasets, first: int, step: int, intervals: dict[str, Interval]) -> tuple[str, bool]:
    """How far classes were apart at the first snapshot, and whether that may be all there is.

    Labels set gradients of classes apart in a network that has learned nothing, too: scores that know no class are
    raised by its own examples, and lowered by those of all others.
    """
    if first == step == 0:
        return " Labels alone set them apart before anything is learned.", True
    then, now = _apart(results, first), _apart(results, step)
    # As if of different examples, which is wider than need be where both go together.
    change = difference(then[:2], now[:2], float(np.fmin(then[2], now[2])))
    if change is None or first == step:
        return " Labels alone may set them apart, and no earlier snapshot says how far.", True
    intervals["change of within less between"] = change
    within, between = (_mean(results, first, where)[0] for where in ("within", "between"))
    values = f"{number(within)} and {number(between)} at step {first:,}"
    start = mean(*then)
    if change.excludes(0) or start is None or not start.excludes(0):
        return f" They were {values}.", False
    why = ", when labels alone set them apart" if first == 0 else ""
    return f" They were as far apart before ({values}){why}: no change can be told.", True


def _mean(results: Datasets, step: int, where: str) -> tuple[float, float, float]:
    """Mean cosine within or between classes, its standard error, and of how many examples it is worth, at a step."""
    value, error, degrees = (
        number_at(results, "class_stiffness", f"cosine_{where}{end}", step, layer="all")
        for end in ("", "_error", "_degrees")
    )
    return value, error, degrees + 1


def _apart(results: Datasets, step: int) -> tuple[float, float, float]:
    """The same of how much larger it is within classes than between them."""
    within, between = (_mean(results, step, where) for where in ("within", "between"))
    return (
        within[0] - between[0],
        float(np.hypot(within[1], between[1])),
        float(np.fmin(within[2], between[2])),
    )


def _of_classes(results: Datasets, step: int) -> np.ndarray:
    """How many examples of each class have a gradient with a direction at a step; 0 for fewer than two."""
    pairs = select(results, "class_stiffness", "n_pairs")
    undefined = select(results, "class_stiffness", "n_undefined", layer="all")
    if pairs is None or undefined is None:
        return np.zeros(0, np.int64)
    return _in_pairs(np.diagonal(pairs.values - undefined.sel(step=step).values))


def _cells(results: Datasets, step: int, intervals: dict[str, Interval]) -> str:
    """How many pairs of classes agree or oppose each other for certain, and which do most; of two classes nothing."""
    values, errors = (
        select(results, "class_stiffness", name, layer="all") for name in ("cosine", "cosine_error")
    )
    sizes = _of_classes(results, step)
    if values is None or errors is None or len(sizes) < 3:
        return ""
    labels = values["label"].values
    table, spread = (array.sel(step=step).values for array in (values, errors))
    cells = list(combinations(range(len(labels)), 2))
    agree, oppose = dict[tuple[int, int], Interval](), dict[tuple[int, int], Interval]()
    for a, b in cells:
        n = int(min(sizes[a], sizes[b]))
        one = mean(float(table[a, b]), float(spread[a, b]), n, len(cells), FEWEST_OF_CLASS)
        if one is not None and one.excludes(0):
            (agree if one.above(0) else oppose)[a, b] = one.within(-1, 1)
    if not (agree or oppose):
        return ""
    rest = len(cells) - len(agree) - len(oppose)
    text = (
        f" Taken one by one, the classes of {len(agree):,} of {len(cells):,} pairs agree for certain and those of "
        f"{len(oppose):,} oppose each other"
    )
    text += f"; of {rest:,} neither can be told" if rest else ""
    for sure, verb in ((agree, "agree"), (oppose, "oppose each other")):
        if sure:
            (a, b), one = max(sure.items(), key=lambda item: abs(item[1].value))
            intervals[f"classes that {verb} most"] = one
            text += (
                f"; classes {labels[a]} and {labels[b]} {verb} most, {told(one)} over {sizes[a]:,} and {sizes[b]:,} "
                "examples"
            )
    return text + "."
