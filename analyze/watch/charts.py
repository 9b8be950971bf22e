"""The charts of the page: which there are, and their lines, of runs or of groups of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.comparison.curves import ABSENT, Axis, gathered

if TYPE_CHECKING:
    import xarray as xr


CHOSEN = "chosen"  # what the probe of interest is called in a chart, whatever its name in a run
PARTS = (("y", "mean"), ("low", "low"), ("high", "high"))  # of a band, as the page calls them


@dataclass(frozen=True)
class Chart:
    """One panel of the page: a variable of a metric, and labels; `probe` is the split of one."""

    name: str
    title: str
    metric: str
    variable: str
    labels: Mapping[str, str] = field(default_factory=dict)
    log: bool = False


CHARTS = (
    Chart("training_loss", "Training loss, every update", "training", "loss", log=True),
    Chart("train_error", "Error on train", "generalization", "error", {"probe": "train"}),
    Chart("test_error", "Error on test", "generalization", "error", {"probe": "test"}),
    Chart("train_loss", "Loss on train", "generalization", "loss", {"probe": "train"}, log=True),
    Chart("test_loss", "Loss on test", "generalization", "loss", {"probe": "test"}, log=True),
    Chart("gap_error", "Gap in error, test − train", "generalization", "gap_error"),
    Chart("stiffness", "Stiffness, train with train", "stiffness", "cosine", {"pair": "train-train"}),
    Chart("stiffness_test", "Stiffness, train with test", "stiffness", "cosine", {"pair": "train-test"}),
    Chart(
        "path_change", "Path self similarity, last site", "path_self_similarity", "mean", {"probe": "train"}
    ),
    Chart(
        "path_overlap",
        "Path similarity of examples, last site",
        "path_cross_similarity",
        "mean",
        {"probe": "train"},
    ),
    Chart("cna", "CNA on train", "cna", "pearson", {"probe": "train"}),
    Chart("margin", "Margin on train", "margin", "gamma", {"probe": "train"}),
)


@dataclass(frozen=True)
class Drawn:
    """A run as it was when a page asked, while the thread goes on."""

    name: str
    key: str
    data: Mapping[str, xr.Dataset]
    lines: dict[tuple[str, str], list[dict[str, Any]]]
    probes: Mapping[str, str]
    attributes: Mapping[str, Any]

    def holds(self, chart: Chart) -> bool:
        """Whether there is something to draw."""
        return holds(self.data.get(chart.metric), chart.variable, self.labels(chart))

    def labels(self, chart: Chart) -> dict[str, str]:
        """Labels of a chart, with the name of the probe in this run."""
        named = {"probe": self.probes.get(chart.labels["probe"], "")} if "probe" in chart.labels else {}
        return {**chart.labels, **named}


def draw(runs: Sequence[Drawn], by: str, x: Axis) -> list[dict[str, Any]]:
    """Every chart that has a line: one a run, or a band for each value of an attribute."""
    grouped = by and any(by in run.attributes for run in runs)
    told = []
    for chart in CHARTS:
        some = [run for run in runs if run.holds(chart)]
        lines = _bands(chart, some, by, x) if grouped else _each(chart, some, x)
        if any(line["x"] for line in lines):
            told.append({"name": chart.name, "title": chart.title, "log": chart.log, "lines": lines})
    return told


def _each(chart: Chart, runs: Sequence[Drawn], x: Axis) -> list[dict[str, Any]]:
    """A line for each run, made once of what is known of it."""
    told = []
    for one in runs:
        key = chart.name, x
        if key not in one.lines:
            drawn: list[tuple[str, str, dict[str, Any], xr.Dataset]] = [
                (one.key, one.key, {}, one.data[chart.metric])
            ]
            bands = gathered(drawn, chart.metric, chart.variable, x=x, labels=one.labels(chart)).bands()
            line: dict[str, Any] = {"group": one.name, "key": one.key, "n": 1}
            one.lines[key] = [line | {"x": _numbers(bands[x]), "y": _numbers(bands["mean"])}]
        told += one.lines[key]
    return told


def _bands(chart: Chart, runs: Sequence[Drawn], by: str, x: Axis) -> list[dict[str, Any]]:
    """A band for each value of an attribute. Runs go by their keys: two folders may hold runs of one name."""
    if not runs:
        return []
    found = [
        (
            one.key,
            one.key,
            {by: one.attributes.get(by, ABSENT)},
            _probe(one.data[chart.metric], one.labels(chart)),
        )
        for one in runs
    ]
    labels = {name: CHOSEN if name == "probe" else value for name, value in chart.labels.items()}
    curves = gathered(found, chart.metric, chart.variable, by=by, x=x, labels=labels)
    told = []
    for group, table in curves.bands().groupby(curves.by[0], sort=True):
        line = {"group": plain(group), "key": "", "n": int(table["n_runs"].max()), "x": _numbers(table[x])}
        told.append(line | {name: _numbers(table[part]) for name, part in PARTS})
    return told


def _probe(data: xr.Dataset, labels: Mapping[str, str]) -> xr.Dataset:
    """A result whose probe of interest is called alike in all runs."""
    if "probe" not in labels or "probe" not in data.dims:
        return data
    names = [CHOSEN if str(name) == labels["probe"] else str(name) for name in data["probe"].values]
    return data.assign_coords(probe=names)


def holds(data: xr.Dataset | None, variable: str, labels: Mapping[str, str]) -> bool:
    """Whether a result has a variable at these labels."""
    if data is None or variable not in data:
        return False
    return all(dim in data and value in map(str, data[dim].values) for dim, value in labels.items())


def plain(value: Any) -> Any:
    """A value as JSON takes it; undefined numbers are null."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _numbers(values: Any) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in np.asarray(values, float)]
