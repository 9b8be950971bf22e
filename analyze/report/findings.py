"""Findings: sentences in plain words, computed from results and never written in advance.

Each rule looks at one metric, reads its first and last defined values and chooses its words by them. A rule
that finds nothing to say (metric absent, values undefined) says nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

Datasets = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class Finding:
    """A sentence or two about one metric, and the numbers in it by name."""

    metric: str
    sentence: str
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ends:
    """First and last defined value of a series over steps, and the one farthest outside them."""

    first_step: int
    first: float
    last_step: int
    last: float
    far_step: int
    far: float

    @property
    def change(self) -> float:
        """Last value less the first."""
        return self.last - self.first


def findings(results: Datasets) -> list[Finding]:
    """Everything the rules have to say about the results of one run, most telling first."""
    said = (rule(results) for rule in RULES)
    return [finding for finding in said if finding is not None]


def ends(values: xr.DataArray) -> Ends | None:
    """First and last defined value of an array over `step`; None where every value is undefined.

    >>> ends(xr.DataArray([np.nan, 0.5, 0.25], coords={"step": [0, 10, 20]}, dims="step"))
    Ends(first_step=10, first=0.5, last_step=20, last=0.25, far_step=10, far=0.5)
    """
    defined = values.dropna("step")
    if defined.sizes["step"] == 0:
        return None
    steps, numbers = defined["step"].values, defined.values.astype(np.float64)
    beyond = np.maximum(numbers - max(numbers[0], numbers[-1]), min(numbers[0], numbers[-1]) - numbers)
    far = int(beyond.argmax())
    return Ends(
        int(steps[0]),
        float(numbers[0]),
        int(steps[-1]),
        float(numbers[-1]),
        int(steps[far]),
        float(numbers[far]),
    )


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


def _generalization(results: Datasets) -> Finding | None:
    train = _last(results, "generalization", "error", probe="train")
    test = _last(results, "generalization", "error", probe="test")
    if train is None or test is None:
        return None
    gap = test.last - train.last
    text = (
        f"After {train.last_step:,} updates the network gets {percent(train.last)} of the training examples "
        f"and {percent(test.last)} of the test examples wrong: a generalization gap of "
        f"{number(100 * gap, 1)} percentage points."
    )
    chance = _chance(results)
    if chance is not None and test.last > 0.8 * chance > 1.6 * train.last:
        text += " It has learned its training labels by heart and guesses on examples it has not seen."
    elif chance is not None and train.last > 0.8 * chance:
        text += " It has not learned its training labels yet."
    elif gap < 0.05:
        text += " What it has learned carries over to examples it has not seen."
    else:
        text += " Part of what it has learned holds for its training examples only."
    return Finding("generalization", text, {"train": train.last, "test": test.last, "gap": gap})


def _stiffness(results: Datasets) -> Finding | None:
    train = _last(results, "stiffness", "cosine", pair="train-train", layer="all")
    if train is None:
        return None
    cross = _last(results, "stiffness", "cosine", pair="train-test", layer="all")
    text = (
        f"Stiffness, the mean cosine between the gradients of two training examples, {_moved(train)}: at the "
        f"end a step that lowers the loss of one training example {_effect(train.last)}"
    )
    values = {"first": train.first, "last": train.last}
    if cross is not None:
        values["train_test"] = cross.last
        same = _effect(cross.last) == _effect(train.last)
        unseen = "the same holds for unseen ones" if same else f"it {_effect(cross.last, 'unseen ones')}"
        text += f", and {unseen} (train–test cosine {number(cross.last)})"
    return Finding("stiffness", text + ".", values)


def _class_stiffness(results: Datasets) -> Finding | None:
    within = _last(results, "class_stiffness", "cosine_within", layer="all")
    between = _last(results, "class_stiffness", "cosine_between", layer="all")
    if within is None or between is None:
        return None
    text = (
        f"Between classes the cosine {_moved(between)}; within a class it {_moved(within)}. "
        f"{_classes(within.last, between.last)}"
    )
    return Finding("class_stiffness", text, {"within": within.last, "between": between.last})


def _paths(results: Datasets) -> Finding | None:
    array = select(results, "path_self_similarity", "mean", probe="train")
    if array is None or "site" not in array.dims:
        return None
    mean = ends(array.mean("site"))
    if mean is None:
        return None
    at_end = array.sel(step=mean.last_step)
    restless = str(at_end["site"].values[int(at_end.argmin("site"))])
    settled = (
        "have settled" if mean.last > 0.97 else "are still changing" if mean.last < 0.9 else "change little"
    )
    text = (
        f"Paths through the network {settled}: the similarity of an example's path with its own path one "
        f"comparison earlier {_moved(mean)} (mean over sites)"
    )
    if float(at_end.min()) < mean.last - 0.005:
        text += f"; site {restless} still moves most ({number(float(at_end.min()))})"
    return Finding("path_self_similarity", text + ".", {"first": mean.first, "last": mean.last})


def _cna(results: Datasets) -> Finding | None:
    train = _last(results, "cna", "pearson", probe="train")
    if train is None:
        return None
    strength = _strength(train.last)
    text = (
        f"The correlation between how complex an image is and how its layer sums grow with depth (CNA) "
        f"{_moved(train)} on the training examples: {strength}"
    )
    return Finding("cna", text + ".", {"first": train.first, "last": train.last})


def _margin(results: Datasets) -> Finding | None:
    gamma = _last(results, "margin", "gamma", probe="train")
    if gamma is None:
        return None
    share = float(results["margin"].attrs.get("epsilon", 0.05))
    if gamma.last > 0:
        text = (
            f"All but the worst {percent(share, 0)} of the training examples are classified with a margin of "
            f"at least γ = {number(gamma.last)}; at step {gamma.first_step:,} it was {number(gamma.first)}."
        )
    else:
        text = (
            f"At least {percent(share, 0)} of the training examples are not classified as labelled (γ = "
            f"{number(gamma.last)}), so capacity measures divided by the margin are undefined."
        )
    return Finding("margin", text, {"first": gamma.first, "last": gamma.last})


def _complexity(results: Datasets) -> Finding | None:
    error = select(results, "error_by_complexity", "error")
    if error is None or error.sizes.get("group", 0) < 2:
        return None
    final = error.isel(step=-1)
    easy, hard = float(final.isel(group=0)), float(final.isel(group=-1))
    if not np.isfinite([easy, hard]).all():
        return None
    words = "are the harder ones" if hard > easy + 0.05 else "are no harder"
    if hard < easy - 0.05:
        words = "are the easier ones"
    text = (
        f"Complex test images {words}: of the least complex group {percent(easy)} are wrong at the end, of "
        f"the most complex {percent(hard)}."
    )
    return Finding("error_by_complexity", text, {"least": easy, "most": hard})


RULES: tuple[Callable[[Datasets], Finding | None], ...] = (
    _generalization,
    _stiffness,
    _class_stiffness,
    _cna,
    _paths,
    _margin,
    _complexity,
)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.0334), percent(0.05, 0)
    ('3.3%', '5%')
    """
    return f"{100 * share:.{digits}f}%"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and no minus on zero.

    >>> number(-0.256), number(-0.001), number(1234.5, 0)
    ('−0.26', '0.00', '1,234')
    """
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def _last(results: Datasets, metric: str, variable: str, **labels: str) -> Ends | None:
    array = select(results, metric, variable, **labels)
    return None if array is None or array.dims != ("step",) else ends(array)


def _moved(series: Ends) -> str:
    if series.first_step == series.last_step:
        return f"is {number(series.last)} at step {series.last_step:,}"
    detour = max(series.far - max(series.first, series.last), min(series.first, series.last) - series.far)
    if detour > 0.05:
        verb, back = ("rose", "fell") if series.far > series.first else ("fell", "rose")
        way = f"{verb} from {number(series.first)} (step {series.first_step:,}) to {number(series.far)}"
        return f"{way} (step {series.far_step:,}) and {back} to {number(series.last)}"
    if abs(series.change) < 0.02:
        return f"stayed near {number(series.last)}"
    verb = "rose" if series.change > 0 else "fell"
    return f"{verb} from {number(series.first)} (step {series.first_step:,}) to {number(series.last)}"


def _effect(cosine: float, whom: str = "the others") -> str:
    if cosine > 0.2:
        return f"lowers that of {whom} too"
    if cosine > 0.05:
        return f"helps {whom} a little"
    if cosine >= -0.05:
        return f"hardly touches {whom}"
    return f"raises that of {whom}"


def _classes(within: float, between: float) -> str:
    own = "A class helps itself" if within > 0.1 else "A class does little for itself"
    if between < -0.05:
        return f"{own}; learning one costs the others."
    if between > 0.1:
        return f"{own}, and classes help each other."
    return f"{own}; learning one hardly touches the others."


def _strength(correlation: float) -> str:
    size = abs(correlation)
    if size < 0.1:
        return "complex images use depth no differently from simple ones"
    grade = "strongly" if size > 0.5 else "clearly" if size > 0.3 else "weakly"
    return (
        f"complex images use the deep layers {grade} {'more' if correlation > 0 else 'less'} than simple ones"
    )


def _chance(results: Datasets) -> float | None:
    """Error of guessing, from the number of classes, where a result tells it."""
    for dataset in results.values():
        if "label" in dataset.coords:
            classes = len(np.unique(dataset["label"].values))
            return 1 - 1 / classes if classes > 1 else None
    return None
