"""Which few numbers tell a metric: which of its variables, along which labels of their dimensions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyze.tables import example_probe

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

EACH, FIRST, LAST, MEAN = "each", "first", "last", "mean"
# What a dimension's labels come down to unless a metric says otherwise.
USUAL = {
    "probe": EACH,
    "pair": EACH,
    "layer": "all",
    "site": LAST,
    "place": LAST,
    "example": MEAN,
    "train_example": MEAN,
    "test_example": MEAN,
    "id": MEAN,
}
# Dimensions whose entries are alike, so that their mean means something.
ALIKE = ("example", "train_example", "test_example", "id")
COUNTS = ("n_pairs", "n_examples")  # variables in which a metric says how many its numbers are of
QUALIFIERS = ("std", "n", "histogram")  # variables that only say how much another one rests on

Choice = Mapping[str, str | Iterable[str]]  # dimension to its label or labels
Summary = Mapping[str, Mapping[str, tuple[str, ...]]]  # variable to labels of each dimension but `step`


@dataclass(frozen=True)
class Line:
    """One number of a metric, over time where it has a step.

    values: (step,), or one number where `steps` is empty. n: how many examples or pairs the last one is made of, as
    far as they are counted.
    """

    metric: str
    variable: str
    labels: tuple[str, ...]
    steps: tuple[int, ...]
    values: NDArray[np.float64]
    n: int | None
    units: str = "1"

    @property
    def of(self) -> str:
        """Its labels in words, such as `train-train, all`."""
        return ", ".join(self.labels)

    @property
    def label(self) -> str:
        """Its full name, such as `stiffness.cosine[train-train, all]`."""
        name = f"{self.metric}.{self.variable}" if self.metric else self.variable
        return f"{name}[{self.of}]" if self.labels else name

    @property
    def first(self) -> float:
        """First defined value; NaN where there is none, or no step."""
        defined = self.values[~np.isnan(self.values)]
        return float(defined[0]) if self.steps and len(defined) else float("nan")

    @property
    def last(self) -> float:
        """Value at the last snapshot, NaN where it is undefined there."""
        return float(self.values[-1]) if len(self.values) else float("nan")

    def row(self) -> dict[str, Any]:
        """The line as plain values, None for what is undefined."""
        ends = {name: None if np.isnan(v) else v for name, v in (("first", self.first), ("last", self.last))}
        about = {"metric": self.metric, "variable": self.variable, "of": self.of}
        undefined = int(np.isnan(self.values).sum())
        return {**about, **ends, "units": self.units, "n": self.n, "undefined": undefined}


def declared(
    metric: str, variables: Mapping[str, Sequence[str]], summary: Iterable[str] | Mapping[str, Choice]
) -> dict[str, dict[str, tuple[str, ...]]]:
    """A metric's declaration with the labels of every dimension of every variable it names.

    `summary` names variables, or maps them to labels by dimension: a label or several, `each`, `first` or `last`, and
    of examples their `mean`, a number for each probe. Dimensions it does not mention come down to the usual: the
    whole network, the last site, each probe. TypeError, in a sentence, for what it cannot mean.

    >>> declared("m", {"cosine": ("step", "pair", "layer")}, ["cosine"])
    {'cosine': {'pair': ('each',), 'layer': ('all',)}}
    """
    chosen = {name: summary[name] if isinstance(summary, Mapping) else {} for name in summary}
    complete = {}
    for variable, labels in chosen.items():
        if variable not in variables:
            known = ", ".join(variables)
            raise TypeError(
                f"metric {metric!r}: summary= names {variable!r}, which is none of its variables ({known})"
            )
        dims = [dim for dim in variables[variable] if dim != "step"]
        for dim in labels:
            if dim not in dims:
                raise TypeError(
                    f"metric {metric!r}: summary= of {variable!r} names {dim!r}, which it does not have"
                )
        complete[variable] = {
            dim: _words(metric, variable, dim, labels.get(dim, USUAL.get(dim))) for dim in dims
        }
    return complete


def _words(metric: str, variable: str, dim: str, words: str | Iterable[str] | None) -> tuple[str, ...]:
    if words is None:
        raise TypeError(
            f"metric {metric!r}: summary= has to say which labels of {dim!r} tell {variable!r}; write "
            f"summary={{{variable!r}: {{{dim!r}: 'first'}}}}, a label of it, several, 'last' or 'each'"
        )
    words = (words,) if isinstance(words, str) else tuple(words)
    if MEAN in words and dim not in ALIKE:
        raise TypeError(
            f"metric {metric!r}: summary= takes the mean of {variable!r} over {dim!r}, whose entries are not alike; "
            "name labels of it, 'first', 'last' or 'each'"
        )
    return words


def usual(variables: Mapping[str, Sequence[str]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """What tells a metric that does not say it: variables whose dimensions all have a usual label.

    >>> list(usual({"a": ("step", "probe"), "n_a": ("step",), "matrix": ("label", "label_2")}))
    ['a']
    """
    chosen = [
        name
        for name, dims in variables.items()
        if not {name.partition("_")[0], name.rpartition("_")[2]} & set(QUALIFIERS)
        and set(dims) <= {"step", *USUAL}
    ]
    return declared("", variables, chosen)


def in_words(summary: Summary) -> str:
    """A declaration for people.

    >>> in_words({"cosine": {"pair": ("each",), "layer": ("all",)}, "n": {}})
    'cosine (each pair, layer all), n'
    """

    def of(dim: str, words: tuple[str, ...]) -> str:
        if words in ((EACH,), (FIRST,), (LAST,)):
            return f"{words[0]} {dim}"
        return "mean over examples" if words == (MEAN,) else f"{dim} {' and '.join(words)}"

    texts = {
        name: ", ".join(of(dim, words) for dim, words in labels.items()) for name, labels in summary.items()
    }
    return ", ".join(f"{name} ({text})" if text else name for name, text in texts.items())


def lines(metric: str, data: xr.Dataset) -> list[Line]:
    """The numbers that tell a result, as its metric declared them, or the usual ones where it did not."""
    found: list[Line] = []
    for variable, labels in _declaration(data).items():
        if variable in data and data[variable].dtype.kind in "fiu":
            found += _lines(metric, data, variable, labels)
    return found


def _declaration(data: xr.Dataset) -> Summary:
    """What the result's attributes say; a file may hold anything."""
    dims = {str(name): tuple(map(str, array.dims)) for name, array in data.items()}
    try:
        return declared("", dims, json.loads(data.attrs["summary"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return usual(dims)


def _lines(
    metric: str, data: xr.Dataset, variable: str, labels: Mapping[str, tuple[str, ...]]
) -> Iterator[Line]:
    array = data[variable]
    dims = [str(dim) for dim in array.dims if dim != "step"]
    in_time = "step" in array.dims
    values = np.asarray(array.transpose(*(["step"] if in_time else []), *dims).values, np.float64)
    values = values if in_time else values[None]
    steps = tuple(int(step) for step in array["step"].values) if in_time else ()
    choices = [list(_choices(array, dim, labels.get(dim, ("",)))) for dim in dims]
    for chosen in product(*choices):
        picked = values
        for _, places in chosen:
            picked = picked[:, places]
            picked = np.moveaxis(picked, 1, -1) if isinstance(places, np.ndarray) else picked
        picked = picked.reshape(len(values), -1)
        n = (~np.isnan(picked)).sum(-1)
        total = np.where(np.isnan(picked), 0.0, picked).sum(-1)
        means = np.divide(total, n, out=np.full(len(picked), np.nan), where=n > 0)
        names = tuple(name for name, _ in chosen if name)
        unit = str(array.attrs.get("units", "1"))
        averaged = any(isinstance(places, np.ndarray) for _, places in chosen)
        at = dict(zip(dims, (places for _, places in chosen), strict=True))
        behind = (int(n[-1]) if len(n) else 0) if averaged else _counted(data, at)
        yield Line(metric, variable, names, steps, means, behind, unit)


def _counted(data: xr.Dataset, at: Mapping[str, Any]) -> int | None:
    """How many pairs or examples the metric says are behind its numbers at such places, at the last snapshot."""
    for name in COUNTS:
        dims = data[name].dims if name in data else ("",)
        if set(dims) <= {"step", *at} and data[name].size:
            return int(data[name].isel({dim: -1 if dim == "step" else at[str(dim)] for dim in dims}))
    return None


def _choices(
    array: xr.DataArray, dim: str, words: tuple[str, ...]
) -> Iterator[tuple[str, int | NDArray[np.intp]]]:
    """Names of labels and where they are; of a mean, the places of each probe's examples."""
    size = array.sizes[dim]
    if not size:
        return
    if words == (MEAN,):
        named = any(
            name in array.coords and array[name].dims == (dim,) for name in ("example_probe", "probe")
        )
        probes = example_probe(array) if named else np.full(size, "")
        for probe in dict.fromkeys(probes.tolist()):
            yield str(probe), np.flatnonzero(probes == probe)
        return
    names = [str(value) for value in (array[dim].values if dim in array.coords else range(size))]
    if words == (EACH,):
        yield from zip(names, range(size), strict=True)
        return
    for word in words:
        if word in names:
            yield word, names.index(word)
        elif word in (FIRST, LAST):
            yield word, 0 if word == FIRST else size - 1


def table(results: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """The numbers that tell some results as one table, a row each, by its full name: see `Results.summary`."""
    import pandas as pd

    rows = [line for name, data in results.items() for line in lines(name, data)]
    columns = ["metric", "variable", "of", "first", "last", "units", "n", "undefined"]
    index = pd.Index([line.label for line in rows], name="measure", dtype=object)
    frame = pd.DataFrame([line.row() for line in rows], index=index, columns=columns)
    return frame.astype({"first": float, "last": float, "n": "Int64"})
