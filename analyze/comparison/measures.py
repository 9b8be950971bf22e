"""From results over time to one number a measure and run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.comparison.plain import plain
from analyze.comparison.runs import Run
from analyze.saved.documents import document
from analyze.saved.store import ResultStore
from analyze.summary import lines
from tracer.errors import ArgumentError, MissingTraceError, did_you_mean
from tracer.store.files import write_whole

if TYPE_CHECKING:
    import xarray as xr

At = str | int
KEPT = "measures.json"
TARGETS = {
    "gap_error": "generalization.gap_error",
    "gap_loss": "generalization.gap_loss",
    "test_error": "generalization.error[test]",
    "test_loss": "generalization.loss[test]",
}
WORDS = {
    "gap_error": "gap in error",
    "gap_loss": "gap in loss",
    "test_error": "test error",
    "test_loss": "test loss",
}
PERIODS = {"early": 0.25, "mid": 0.5}
Series = tuple[list[int], list[float]]


def series(data: xr.Dataset, metric: str) -> dict[str, Series]:
    """The numbers that tell a result: label such as `stiffness.cosine[train-train, all]` to steps and values.

    A variable without `step` has one value and no step.
    """
    return {line.label: (list(line.steps), line.values.tolist()) for line in lines(metric, data)}


def final_of_summary(entry: Mapping[str, Any]) -> dict[str, float] | None:
    """Last value of every measure from a metric's part of `summary.json`; None where it does not tell."""
    told = entry.get("summary")
    if told is None:
        return None
    return {label: math.nan if ends["last"] is None else float(ends["last"]) for label, ends in told.items()}


def measures_of(run: Run, names: Sequence[str], at: At) -> dict[str, float]:
    """Every measure of the metrics at one time of a run, and every target."""
    stored = run.stored(names)
    finals: dict[str, float] = {}
    if at == "final":
        finals, names = _finals(run, names, stored)
    cache = Kept(run, stored)
    targets = dict(_chosen(cache.of("generalization"), None)) if at not in ("final", "best") else {}
    step = _step(at, cache) if names or at != "final" else None
    for name in names:
        finals |= _chosen(cache.of(name), step)
    cache.write()
    # What is to be explained is where training ended, however early a measure is taken.
    ends = targets or finals
    finals = {label: value for label, value in finals.items() if label not in TARGETS.values()}
    return finals | {name: ends[label] for name, label in TARGETS.items() if label in ends}


class Kept:
    """Series of a run's results, kept in `measures.json` so that large results are read only once."""

    def __init__(self, run: Run, stored: Mapping[str, Mapping[str, Any]]) -> None:
        self.run, self.stored, self.changed = run, stored, False
        self.path = run.analysis / KEPT
        self.content: dict[str, Any] = document(self.path)

    def of(self, metric: str) -> dict[str, Series]:
        """Series of one metric; none where it is not stored."""
        if metric not in self.stored:
            return {}
        mark = str(self.stored[metric].get("fingerprint", ""))
        entry = self.content.get(metric)
        if entry is None or entry["fingerprint"] != mark:
            read = series(ResultStore(self.run.analysis).read(metric), metric)
            entry = self.content[metric] = {"fingerprint": mark, "series": read}
            self.changed = True
        # JSON has no word for undefined and infinite numbers: they are null and text.
        return {
            label: (steps, [math.nan if value is None else float(value) for value in values])
            for label, (steps, values) in entry["series"].items()
        }

    def write(self) -> None:
        """Keep what was read for the next time."""
        if self.changed:
            write_whole(self.path, json.dumps(plain(self.content)))


def select(labels: Sequence[str], measures: Sequence[str] | None) -> list[str]:
    """Labels that were asked for, by metric, by `metric.variable` or in full; all by default.

    Raises MissingTraceError, with the nearest name, where nothing is called so.

    >>> select(["cna.pearson[train]", "cna.pearson[test]", "margin.gamma[test]"], ["cna"])
    ['cna.pearson[train]', 'cna.pearson[test]']
    """
    if measures is None:
        return list(labels)
    chosen: list[str] = []
    for asked in measures:
        names = [
            label for label in labels if asked in (label, label.partition("[")[0], label.partition(".")[0])
        ]
        if not names:
            known = {
                part for label in labels for part in (label, label.partition("[")[0], label.partition(".")[0])
            }
            raise MissingTraceError(
                f"no run has a measure called {asked!r}; {did_you_mean(asked, sorted(known))}"
            )
        chosen += names
    return list(dict.fromkeys(chosen))


def check_at(at: At) -> None:
    """ArgumentError for a time that is none of `final`, `best`, `early`, `mid` or a step."""
    if isinstance(at, bool) or not (isinstance(at, int) or at in ("final", "best", *PERIODS)):
        raise ArgumentError(f"at= is 'final', 'best', 'early', 'mid' or a step, got {at!r}")


def _finals(
    run: Run, names: Sequence[str], stored: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, float], list[str]]:
    """Last values from `summary.json`, and the metrics it does not answer for."""
    entries = document(run.analysis / "summary.json").get("metrics", {})
    finals, left = dict[str, float](), list[str]()
    for name in names:
        current = name in entries and (
            name in stored and entries[name].get("fingerprint") == stored[name].get("fingerprint")
        )
        values = final_of_summary(entries[name]) if current else None
        if values is None:
            left.append(name)
        else:
            finals |= values
    return finals, left


def _step(at: At, last: Kept) -> int | None:
    """The step meant; None is the last one of each measure."""
    if isinstance(at, int) or at == "final":
        return at if isinstance(at, int) else None
    outcome = last.of("generalization")
    if at in PERIODS:
        steps = next(iter(outcome.values()), ([0], []))[0]
        return int(PERIODS[at] * steps[-1]) if steps else None
    steps, losses = outcome.get(TARGETS["test_loss"], ([], []))
    if not steps or np.isnan(losses).all():
        return -1  # before any snapshot: without a test loss nothing is best
    return steps[int(np.nanargmin(losses))]


def _chosen(finals: Mapping[str, Series], step: int | None) -> Iterator[tuple[str, float]]:
    """Value of each series at the last snapshot up to a step; NaN where it begins later."""
    for label, (steps, values) in finals.items():
        if not steps:
            yield label, values[0]
            continue
        place = len(steps) if step is None else int(np.searchsorted(steps, step, side="right"))
        yield label, values[place - 1] if place else math.nan
