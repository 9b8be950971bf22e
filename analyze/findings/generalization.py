"""How well the network does, on what it was trained on and on what it was not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analyze.findings.evidence import (
    NAMES,
    Datasets,
    Finding,
    Kind,
    count,
    ends,
    enough,
    figures,
    kind_of,
    number_at,
    percent,
    select,
    sized,
    told,
    told_share,
    whom,
)
from analyze.findings.intervals import Interval, difference, difference_of_shares, mean, share
from tracer.errors import how_many

GENERALIZATION = "generalization"
TOKENS = "token_prediction"


def unseen(results: Datasets) -> str:
    """The split that the generalization gap is taken against."""
    return str(results[GENERALIZATION].attrs.get("against", "test")) if GENERALIZATION in results else "test"


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
    """Last defined step and value of the two probes that are told of: train and the unseen first."""
    array = select(results, GENERALIZATION, variable)
    probes = [] if array is None or "probe" not in array.dims else array["probe"].values.tolist()
    found = {}
    for probe in sorted(map(str, probes), key=lambda name: (name != "train", name != unseen(results))):
        series = select(results, GENERALIZATION, variable, probe=probe)
        last = None if series is None or series.dims != ("step",) else ends(series)
        if last is not None:
            found[probe] = last.last_step, last.last
    return dict(list(found.items())[:2])


def _known(results: Datasets, variable: str, probe: str, step: int) -> int:
    """How many examples a mean is of, without those of which it is undefined."""
    if variable == "error":
        return _whole(number_at(results, GENERALIZATION, "n_classified", step, probe=probe))
    gone = number_at(results, GENERALIZATION, "n_undefined", step, probe=probe)
    return count(results, GENERALIZATION, "n_examples", probe=probe) - _whole(gone)


def _whole(value: float) -> int:
    return int(value) if np.isfinite(value) else 0


def _of_shares(results: Datasets, shares: Mapping[str, tuple[int, float]]) -> Finding | None:
    wrong, known = {}, {}
    for probe, (at, value) in shares.items():
        known[probe] = _known(results, "error", probe, at)
        one = share(value, known[probe])
        if one is not None:
            wrong[probe] = one
    if not wrong:
        return None
    kind: Kind
    step, other = max(at for at, _ in shares.values()), unseen(results)
    examples = {probe: whom(results, probe, known[probe]) for probe in wrong}
    # Where an example is right in part, as a text of many tokens is, its share that is wrong is what has a mean.
    counts = [one.value * known[probe] for probe, one in wrong.items()]
    parts = any(abs(n - round(n)) > 1e-3 for n in counts)
    each, often = ("each of ", "on average ") if parts else ("", "")
    both = {"train", other} <= set(wrong)
    gap = difference_of_shares(wrong["train"], wrong[other]) if both else None
    # Of two, the gap between them has the interval, and its digits tell them apart.
    shown = {
        probe: told_share(one) if gap is None else percent(one.value, enough(gap, 1, 100))
        for probe, one in wrong.items()
    }
    listed = [f"{shown[probe]} of {each}{examples[probe]}" for probe in wrong]
    text = f"After {how_many(step, 'update')} the network gets {often}{' and '.join(listed)} wrong"
    kind, intervals = "description", dict(wrong)
    if gap is not None:
        intervals["gap"] = gap
        kind = kind_of(gap.excludes(0))
        points = told(-gap if gap.below(0) else gap, 1, 100, " percentage points")
        if gap.above(0):
            text += f": a generalization gap of {points}."
        elif gap.below(0):
            text += f": fewer of the {NAMES.get(other, other)} examples, by {points}."
        else:
            text += f"; no gap between them can be told, the difference being {points}."
    else:
        text += "."
    text += _against_guessing(results, shares, wrong)
    n = sum(known[probe] for probe in wrong)
    return Finding(GENERALIZATION, GENERALIZATION, text, kind, intervals, n, " and ".join(examples.values()))


def _against_guessing(
    results: Datasets, shares: Mapping[str, tuple[int, float]], wrong: Mapping[str, Interval]
) -> str:
    """How the errors compare with those of the best answer that is always the same, for the labels of each probe."""
    levels = {
        probe: number_at(results, GENERALIZATION, "guessing_error", shares[probe][0], probe=probe)
        for probe in ("train", unseen(results))
        if probe in wrong
    }
    levels = {probe: level for probe, level in levels.items() if np.isfinite(level)}
    told_apart = {probe: wrong[probe].below(level) for probe, level in levels.items()}
    if not told_apart.get("train", True):
        on = " On its training examples that is not told to be better than"
        return f"{on} {_guessing({'train': levels['train']})}: nothing shows that it has learned from them."
    if all(told_apart.values()):
        return f" That is better than {_guessing(levels)}." if levels else ""
    new, level = wrong[unseen(results)], max(levels.values())
    # Answers drawn by the shares of the training labels alone are wrong at least as often on any examples as the
    # commonest is on the training examples; and few unseen examples leave open how near to guessing the network is.
    if "train" in levels and not new.below(level) and new.above((wrong["train"].value + level) / 2):
        return (
            " What it knows of its training labels it has learned by heart: on examples it has not seen it does no "
            f"better than {_guessing(levels)}."
        )
    alone = _guessing({unseen(results): levels[unseen(results)]})
    return f" On examples it has not seen that is not told to be better than {alone}."


def _guessing(levels: Mapping[str, float]) -> str:
    """Guessing and how often it is wrong, once where that is the same on all probes."""
    texts = {probe: percent(level, 0) for probe, level in levels.items()}
    if len(set(texts.values())) == 1:
        alike = "" if any(levels.values()) else ", as all are of one class"
        return f"guessing ({next(iter(texts.values()))} wrong{alike})"
    told_of = [
        f"{text} {'' if k else 'wrong '}on the {NAMES.get(probe, probe)} examples"
        + ("" if levels[probe] else ", which are all of one class")
        for k, (probe, text) in enumerate(texts.items())
    ]
    return f"guessing ({', '.join(told_of)})"


def _of_losses(results: Datasets, losses: Mapping[str, tuple[int, float]]) -> Finding | None:
    intervals: dict[str, Interval] = {}
    texts = []
    what = "mean loss"
    known = {probe: _known(results, "loss", probe, at) for probe, (at, _) in losses.items()}
    examples = {probe: whom(results, probe, n) for probe, n in known.items()}
    gap = _gap_of_losses(results, losses)
    told_apart = []
    for probe, (step, last) in losses.items():
        series = select(results, GENERALIZATION, "loss", probe=probe)
        first = None if series is None else ends(series)
        if first is None:
            continue
        perplexity = number_at(results, TOKENS, "perplexity", step, probe=probe)
        also = f" (perplexity {figures(perplexity)})" if np.isfinite(perplexity) else ""
        if perplexity > 0 and abs(float(np.log(perplexity)) - last) < 1e-3:  # and not that of a whole text
            what = "mean loss of a token"
        value = figures(last)
        start, end = (probe, first.first_step), (probe, step)
        change = _difference(results, start, end) if start != end else None
        alone = mean(last, *_error_and_n(results, probe, step)) if change is None and gap is None else None
        if alone is not None:
            intervals[probe] = alone
            value = sized(alone)
        text = f"{value}{also} on {examples[probe]}"
        if change is not None:
            intervals[f"change of {probe}"] = change
            told_apart.append(change.excludes(0))
            moved = f"{'up' if change.value > 0 else 'down'} from {figures(first.first)} at step {first.first_step:,}"
            text += (
                f", {moved}"
                if change.excludes(0)
                else f", which cannot be told from {figures(first.first)} at the start"
            )
        texts.append(text)
    if gap is not None:
        intervals["gap"] = gap
        told_apart.append(gap.excludes(0))
    if not intervals:
        return None
    step = max(at for at, _ in losses.values())
    text = f"After {how_many(step, 'update')} the {what} is {', and '.join(texts)}"
    if gap is None:
        text += "."
    elif gap.excludes(0):
        text += f": a generalization gap of {sized(gap)}."
    else:
        text += f"; no gap can be told ({sized(gap)})."
    kind: Kind = kind_of(any(told_apart)) if told_apart else "description"
    about = " and ".join(examples.values())
    return Finding(GENERALIZATION, GENERALIZATION, text, kind, intervals, sum(known.values()), about)


def _error_and_n(results: Datasets, probe: str, step: int) -> tuple[float, int]:
    """Standard error of a mean loss, and of how many examples it is."""
    error = number_at(results, GENERALIZATION, "loss_error", step, probe=probe)
    return error, _known(results, "loss", probe, step)


def _gap_of_losses(results: Datasets, losses: Mapping[str, tuple[int, float]]) -> Interval | None:
    other = unseen(results)
    if not {"train", other} <= set(losses):
        return None
    return _difference(results, ("train", losses["train"][0]), (other, losses[other][0]))


def _difference(
    results: Datasets, first: tuple[str, int], second: tuple[str, int], looks: int = 1
) -> Interval | None:
    """Of the mean loss of the second probe and step less that of the first."""
    pairs, known = [], []
    for probe, step in (first, second):
        error, n = _error_and_n(results, probe, step)
        pairs.append((number_at(results, GENERALIZATION, "loss", step, probe=probe), error))
        known.append(n)
    return difference(pairs[0], pairs[1], min(known), looks)


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
        f"down by then, and step {steps[last]:,} is the last with finite numbers."
    )
    held = {
        str(name): count(results, GENERALIZATION, "n_examples", probe=str(name))
        for name in loss["probe"].values
    }
    about = " and ".join(whom(results, probe, n) for probe, n in held.items())
    return Finding("divergence", GENERALIZATION, text, "description", {}, sum(held.values()), about)


def turned(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Whether the test loss had its least value before the end, and has risen since."""
    series = select(results, GENERALIZATION, "loss", probe="test")
    if series is None or series.dims != ("step",) or not bool(series.notnull().any()):
        return None
    last = ends(series)
    assert last is not None
    best = int(series["step"].values[int(np.nanargmin(series.values))])
    rise = _difference(results, ("test", best), ("test", last.last_step), looks=series.sizes["step"])
    if rise is None or not rise.above(0):
        return None
    n = _known(results, "loss", "test", last.last_step)
    about = whom(results, "test", n)
    text = (
        f"The loss on {about} was least at step {best:,} ({figures(float(series.sel(step=best)))}) and has "
        f"risen to {figures(last.last)} since, by {sized(rise)}: by that measure the network was better then."
    )
    return Finding(
        "turning point", GENERALIZATION, text, "difference", {"rise": rise}, n, about,
        GENERALIZATION if GENERALIZATION in said else "",
    )  # fmt: skip


def margin(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """The margin that all but a few of the training examples have, and how it grew."""
    series = select(results, "margin", "gamma", probe="train")
    last = None if series is None or series.dims != ("step",) else ends(series)
    if last is None:
        return None
    epsilon = float(results["margin"].attrs.get("epsilon", 0.05))
    at_end, at_first = (_gamma(results, step) for step in (last.last_step, last.first_step))
    if at_end is None:
        return None
    gone = number_at(results, "margin", "n_undefined", last.last_step, probe="train")
    n = count(results, "margin", "n_examples", probe="train") - _whole(gone)
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


def _gamma(results: Datasets, step: int) -> Interval | None:
    """The margin with the interval of the quantile that it stands for; None where that is undefined."""
    names = ("gamma", "gamma_low", "gamma_high")
    one = Interval(*(number_at(results, "margin", name, step, probe="train") for name in names))
    return one if np.isfinite([one.low, one.high]).all() else None
