"""How well the network does, on what it was trained on and on what it was not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analyze.findings.evidence import (
    Datasets,
    Finding,
    Kind,
    count,
    ends,
    figures,
    kind_of,
    number_at,
    percent,
    select,
    sized,
    span,
    told,
    whom,
)
from analyze.findings.intervals import Interval, difference, difference_of_shares, quantile, share

GENERALIZATION = "generalization"
TOKENS = "token_prediction"


def outcome(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """What share of examples is wrong, or the loss of whatever is no classifier, and the gap to unseen examples.

    Of a model that answers at every token too: no example is wrong or right as a whole.
    """
    if GENERALIZATION not in results or "probe" not in results[GENERALIZATION].coords:
        return None
    shares, losses = (_last(results, variable) for variable in ("error", "loss"))
    if shares and not (TOKENS in results and losses):
        return _of_shares(results, shares)
    return _of_losses(results, losses) if losses else None


def _last(results: Datasets, variable: str) -> dict[str, tuple[int, float]]:
    """Last defined step and value by probe; train first, then test."""
    array = select(results, GENERALIZATION, variable)
    probes = [] if array is None or "probe" not in array.dims else array["probe"].values.tolist()
    found = {}
    for probe in sorted(map(str, probes), key=lambda name: (name != "train", name != "test")):
        series = select(results, GENERALIZATION, variable, probe=probe)
        last = None if series is None or series.dims != ("step",) else ends(series)
        if last is not None:
            found[probe] = last.last_step, last.last
    return found


def _of_shares(results: Datasets, shares: Mapping[str, tuple[int, float]]) -> Finding | None:
    wrong: dict[str, Interval] = {}
    for probe, (_, value) in shares.items():
        one = share(value, count(results, GENERALIZATION, "n_examples", probe=probe))
        if one is not None:
            wrong[probe] = one
    if not wrong:
        return None
    kind: Kind
    names, step = list(wrong), max(step for step, _ in shares.values())
    # Where an example is right in part, as a text of many tokens is, its share that is wrong is what has a mean.
    each, often = ("each of ", "on average ") if _in_parts(results, wrong) else ("", "")
    both = {"train", "test"} <= set(wrong)
    # Of two, the gap between them has the interval.
    around = ["" if both else f" ({span(wrong[name], 1, 100)}%)" for name in names[:2]]
    listed = [
        f"{percent(wrong[name].value)}{interval} of {each}{_examples(results, name)}"
        for name, interval in zip(names, around, strict=False)
    ]
    text = f"After {step:,} updates the network gets {often}{' and '.join(listed)} wrong"
    kind, intervals = "description", dict(wrong)
    if both:
        gap = intervals["gap"] = difference_of_shares(wrong["train"], wrong["test"])
        kind = kind_of(gap.excludes(0))
        points = f"{100 * gap.value:.1f} percentage points ({span(gap, 1, 100)})".replace("-", "−")
        text += f": a generalization gap of {points}." if gap.above(0) else ""
        text += f": fewer of the test examples, by {points}." if gap.below(0) else ""
        text += (
            "" if gap.excludes(0) else f"; no gap between them can be told, the difference being {points}."
        )
    else:
        text += "."
    text += _against_guessing(results, wrong)
    n = sum(count(results, GENERALIZATION, "n_examples", probe=name) for name in names)
    about = " and ".join(_examples(results, name) for name in names)
    return Finding(GENERALIZATION, GENERALIZATION, text, kind, intervals, n, about)


def _in_parts(results: Datasets, wrong: Mapping[str, Interval]) -> bool:
    """Whether errors are no counts of whole examples."""
    counts = [
        one.value * count(results, GENERALIZATION, "n_examples", probe=name) for name, one in wrong.items()
    ]
    return any(abs(n - round(n)) > 1e-3 for n in counts)


def _against_guessing(results: Datasets, wrong: Mapping[str, Interval]) -> str:
    """How the errors compare with those of always giving the answer that is most often right."""
    chance = guessing(results)
    if chance is None:
        return ""
    level = f"guessing ({percent(chance, 0)} wrong)"
    train, test = wrong.get("train"), wrong.get("test")
    if train is not None and not train.below(chance):
        on = " On its training examples that cannot be told from"
        return f"{on} {level}: nothing shows that it has learned from them."
    if test is not None and not test.below(chance):
        learned = (
            "What it knows of its training labels it has learned by heart: on" if train is not None else "On"
        )
        return f" {learned} examples it has not seen it does no better than {level}."
    return f" That is better than {level}." if test is not None or train is not None else ""


def guessing(results: Datasets) -> float | None:
    """Error of always giving the most common label of the examples; None where no result knows their labels."""
    for data in results.values():
        if "label" in data.coords and data["label"].dims == ("example",):
            _, sizes = np.unique(data["label"].values, return_counts=True)
            return 1 - float(sizes.max()) / float(sizes.sum()) if len(sizes) > 1 else None
    for data in results.values():
        if data.coords.get("label") is not None and data["label"].dims == ("label",):
            return 1 - 1 / data.sizes["label"] if data.sizes["label"] > 1 else None
    return None


def _of_losses(results: Datasets, losses: Mapping[str, tuple[int, float]]) -> Finding | None:
    intervals: dict[str, Interval] = {}
    texts = []
    what = "mean loss"
    for probe, (step, last) in list(losses.items())[:2]:
        n = count(results, GENERALIZATION, "n_examples", probe=probe)
        series = select(results, GENERALIZATION, "loss", probe=probe)
        first = None if series is None else ends(series)
        if first is None:
            continue
        pairs = [
            (value, number_at(results, GENERALIZATION, "loss_error", at, probe=probe))
            for at, value in ((first.first_step, first.first), (step, last))
        ]
        change = difference(pairs[0], pairs[1], n) if step > first.first_step else None
        perplexity = number_at(results, TOKENS, "perplexity", step, probe=probe)
        also = f" (perplexity {figures(perplexity)})" if np.isfinite(perplexity) else ""
        if perplexity > 0 and abs(float(np.log(perplexity)) - last) < 1e-3:  # and not that of a whole text
            what = "mean loss of a token"
        text = f"{figures(last)}{also} on {_examples(results, probe)}"
        if change is not None:
            intervals[f"change of {probe}"] = change
            moved = f"{'up' if change.value > 0 else 'down'} from {figures(first.first)} at step {first.first_step:,}"
            text += (
                f", {moved}"
                if change.excludes(0)
                else f", which cannot be told from {figures(first.first)} at the start"
            )
        texts.append(text)
    step = max(step for step, _ in losses.values())
    if not intervals:
        return None
    text = f"After {step:,} updates the {what} is {', and '.join(texts)}"
    gap = _gap_of_losses(results, losses)
    told_apart = [one.excludes(0) for one in intervals.values()]
    if gap is not None:
        intervals["gap"] = gap
        apart = sized(gap)
        text += (
            f": a generalization gap of {apart}." if gap.excludes(0) else f"; no gap can be told ({apart})."
        )
        told_apart.append(gap.excludes(0))
    else:
        text += "."
    n = sum(count(results, GENERALIZATION, "n_examples", probe=name) for name in losses)
    kind = kind_of(any(told_apart))
    about = " and ".join(_examples(results, name) for name in losses)
    return Finding(GENERALIZATION, GENERALIZATION, text, kind, intervals, n, about)


def _gap_of_losses(results: Datasets, losses: Mapping[str, tuple[int, float]]) -> Interval | None:
    if not {"train", "test"} <= set(losses):
        return None
    pairs = [
        (losses[name][1], number_at(results, GENERALIZATION, "loss_error", losses[name][0], probe=name))
        for name in ("train", "test")
    ]
    n = min(count(results, GENERALIZATION, "n_examples", probe=name) for name in ("train", "test"))
    return difference(pairs[0], pairs[1], n)


def broken(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Whether no probe has a finite loss at the last snapshots, so that all else is said of earlier ones."""
    loss = select(results, GENERALIZATION, "loss")
    if loss is None or set(loss.dims) != {"step", "probe"}:
        return None
    whole = np.isfinite(loss.transpose("step", "probe").values).any(1)
    if not len(whole) or whole[-1]:
        return None
    steps = loss["step"].values.tolist()
    last = int(np.flatnonzero(whole)[-1]) if whole.any() else None
    text = (
        "The mean loss is no finite number at any snapshot: nothing can be said of what the network has learned."
        if last is None
        else f"From step {steps[last + 1]:,} on the mean loss of the probes is no finite number: training has broken "
        f"down by then, and step {steps[last]:,} is the last whose numbers tell of a network that works."
    )
    probes = [str(name) for name in loss["probe"].values]
    n = sum(count(results, GENERALIZATION, "n_examples", probe=name) for name in probes)
    about = " and ".join(_examples(results, name) for name in probes)
    return Finding("divergence", GENERALIZATION, text, "description", {}, n, about)


def turned(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Whether the test loss had its least value before the end, and has risen since."""
    series = select(results, GENERALIZATION, "loss", probe="test")
    if series is None or series.dims != ("step",) or not bool(series.notnull().any()):
        return None
    last = ends(series)
    assert last is not None
    best = int(series["step"].values[int(np.nanargmin(series.values))])
    pairs = [
        (number_at(results, GENERALIZATION, "loss", at, probe="test"),
         number_at(results, GENERALIZATION, "loss_error", at, probe="test"))
        for at in (best, last.last_step)
    ]  # fmt: skip
    n = count(results, GENERALIZATION, "n_examples", probe="test")
    rise = difference(pairs[0], pairs[1], n, looks=series.sizes["step"])
    if rise is None or not rise.above(0):
        return None
    text = (
        f"The loss on {_examples(results, 'test')} was least at step {best:,} ({figures(pairs[0][0])}) and has "
        f"risen to {figures(pairs[1][0])} since, by {sized(rise)}: by that measure the network was better then."
    )
    return Finding(
        "turning point", GENERALIZATION, text, "difference", {"rise": rise}, n, _examples(results, "test"),
        GENERALIZATION if GENERALIZATION in said else "",
    )  # fmt: skip


def margin(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """The margin that all but a few of the training examples have, and how it grew."""
    series = select(results, "margin", "gamma", probe="train")
    last = None if series is None or series.dims != ("step",) else ends(series)
    n = count(results, "margin", "n_examples", probe="train")
    if last is None or n < 1:
        return None
    epsilon = float(results["margin"].attrs.get("epsilon", 0.05))
    at_end, at_first = (_gamma(results, step, epsilon, n) for step in (last.last_step, last.first_step))
    if at_end is None:
        return None
    about = whom(results, "train", n)
    text = f"All but the worst {percent(epsilon, 0)} of {about} have a margin of at least γ = {told(at_end)}"
    apart = at_first is not None and (at_end.low > at_first.high or at_end.high < at_first.low)
    if apart and at_first is not None:
        moved = "up" if at_end.value > at_first.value else "down"
        text += f", {moved} from {told(at_first)} at step {last.first_step:,}"
    text += (
        "."
        if at_end.above(0)
        else "; as it is not above 0 for certain, capacity measures divided by it are undefined or rest on noise."
    )
    kind: Kind = "difference" if apart else "description"
    return Finding("margin", "margin", text, kind, {"gamma": at_end}, n, about)


def _gamma(results: Datasets, step: int, epsilon: float, n: int) -> Interval | None:
    """A quantile with the quantiles that its rank may turn out to be; None where these were not computed."""
    table = select(results, "margin", "quantile", probe="train")
    if table is None or "q" not in table.dims:
        return None
    q, values = table["q"].values.astype(float), table.sel(step=step).values
    half = quantile() * float(np.sqrt(epsilon * (1 - epsilon) / n))
    if epsilon - half < q.min() or epsilon + half > q.max() or not np.isfinite(values).all():
        return None
    low, high = (float(np.interp(at, q, values)) for at in (epsilon - half, epsilon + half))
    return Interval(number_at(results, "margin", "gamma", step, probe="train"), low, high)


def _examples(results: Datasets, probe: str) -> str:
    return whom(results, probe, count(results, GENERALIZATION, "n_examples", probe=probe))
