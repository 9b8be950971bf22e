"""What an analysis leaves on disk beside its results: summary.json, tables, figures and the report."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from analyze import plot
from analyze.catalogue import available_metrics
from analyze.contract import Metric
from analyze.findings import findings
from analyze.numerics.processes import cores, leave_a_core, pool
from analyze.report import render
from analyze.saved.documents import document, folder
from analyze.saved.seals import Seals
from analyze.saved.store import ResultStore, made_of
from analyze.summary import lines
from analyze.tables import PROVENANCE, neutral, tidy
from tracer.store.files import write_whole

if TYPE_CHECKING:
    import xarray as xr

    from analyze.results import Results

FEW = 6  # figures that are drawn sooner here than in another process
LARGEST_TABLE = 1_000_000  # values of one variable; larger ones are in results.zarr alone
Work = tuple[Metric | None, "xr.Dataset", Path | None, Path | None]  # of `write_files`
SHARE = 5  # times as long as the page took to write, before it is written again


class Pages:
    """Tables, figures, summary and report of an analysis, written as results arrive.

    workers: whether figures are drawn in a process beside this one too, which is made ready while this one computes.
    """

    def __init__(self, path: str | Path, *, workers: bool = False) -> None:
        self.path, self._workers = Path(path), workers and cores() > 1
        self._before, self._seals = _fingerprints(self.path), Seals(self.path)
        self._waiting: dict[str, tuple[xr.Dataset, Path | None, Path | None]] = {}
        self._drawn: dict[str, tuple[str, str]] = {}
        self._under_way: dict[str, tuple[str, Future[str], Work]] = {}
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        self._pool: Executor | None = None
        self._alone: Callable[[], None] = lambda: None  # gives this process all cores again
        self._took, self._ended = 0.0, -math.inf

    @property
    def due(self) -> bool:
        """Whether the page may be written again: writing takes a fifth of the time at most, however often asked."""
        return time.perf_counter() - self._ended >= SHARE * self._took

    def __enter__(self) -> Self:
        if self._workers and not self._before:
            self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._alone()

    def add(self, name: str, data: xr.Dataset) -> None:
        """Begin with the table and the figure of a result, if there is a process for it."""
        mark = _mark(data)
        if self._drawn.get(name, ("",))[0] == mark != "" or self._under_way.get(name, ("",))[0] == mark != "":
            return
        table, figure = self._missing(name, data)
        if table is figure is None:
            self._drawn[name] = mark, ""
            return
        self._waiting[name] = data, table, figure
        if self._workers and self._pool is None and len(self._waiting) >= FEW:
            self._start()
        for waiting in list(self._waiting) if self._pool is not None else ():
            self._begin(waiting)

    def _start(self) -> None:
        self._pool = pool(1)
        self._pool.submit(ready)
        self._alone = leave_a_core()

    def _begin(self, name: str) -> None:
        card = available_metrics().get(name)
        if self._pool is None or card is None or card.module == "__main__":
            return  # only this process knows it
        waiting = self._waiting.pop(name)
        work = card, *waiting
        try:
            self._under_way[name] = _mark(waiting[0]), self._pool.submit(write_files, *work), work
        except BrokenExecutor:
            self._waiting[name], self._pool, self._workers = waiting, None, False

    def write(self, results: Results, *, whole: bool = True) -> Path:
        """Write everything; figures that cannot be drawn are named in `summary.json` and cost nothing else.

        Unless `whole`, the page need not wait for tables and figures that do not come first on it: they are made
        by another process meanwhile, or for a later page.
        """
        begun = time.perf_counter()
        for part in ("tables", "figures"):
            folder(self.path / part)
        store = ResultStore(self.path)
        for name, data in results.items():
            if not store.holds(name, str(data.attrs.get("fingerprint"))):
                store.save(name, data)
            self.add(name, data)
        store.consolidate()

        def drawn(first: Collection[str]) -> Collection[str]:
            self._draw(results if whole else first, results.cards)
            return results.keys() - self._waiting.keys() - self._under_way.keys()

        figures = self.path / "figures"
        page = render(results, results.archive, figures=figures, entries=self._entries, drawn=drawn)
        self._seals.unseal(*(file for name in (*self._waiting, *self._under_way) for file in made_of(name)))
        notes = {name: note for name, (_, note) in self._drawn.items() if note}
        write_whole(self.path / "summary.json", json.dumps(summary(results, notes), indent=1))
        write_whole(self.path / "report.html", page)
        self._ended = time.perf_counter()
        self._took = self._ended - begun
        return self.path

    def _draw(self, names: Collection[str], own: dict[str, Metric]) -> None:
        """Make the tables and figures of these metrics, and take over what the other process has made by now."""
        fresh = []
        cards = available_metrics() | own
        for name in [one for one in self._waiting if one in names]:
            data, table, figure = self._waiting.pop(name)
            self._drawn[name] = _mark(data), write_files(cards.get(name), data, table, figure)
            fresh.append(name)
        for name, (mark, future, work) in reversed(list(self._under_way.items())):
            if name in names or future.done():
                # What the other process has not begun is drawn here, sooner than waiting for it.
                note = write_files(*work) if future.cancel() else _returned(future, work)
                self._drawn[name] = mark, note
                del self._under_way[name]
                fresh.append(name)
        # Only this process writes the list of digests: two would lose entries of each other's.
        made = [file for name in fresh for file in made_of(name)]
        self._seals.seal(*(file for file in made if (self.path / file).is_file()))

    def _missing(self, name: str, data: xr.Dataset) -> tuple[Path | None, Path | None]:
        """Where the table and the figure of a result go, None for one that is there and is of this very result."""
        mark, places = _mark(data), made_of(name)
        same = self._before.get(name) == mark != ""
        there = [same and self._seals.holds(place) for place in places]
        table, figure = (
            None if held else self.path / place for held, place in zip(there, places, strict=True)
        )
        return table, figure


def _returned(future: Future[str], work: Work) -> str:
    """What drawing in the other process came to, or drawing here where that process died."""
    try:
        return future.result()
    except BrokenExecutor:
        return write_files(*work)


def _mark(data: xr.Dataset) -> str:
    """What tells a result from any other of its name; nothing where it does not say."""
    return str(data.attrs.get("fingerprint", ""))


def _fingerprints(path: Path) -> dict[str, str]:
    """Fingerprints of the results whose tables and figures a directory holds."""
    try:
        known = document(path / "summary.json").get("metrics", {})
        return {name: str(entry.get("fingerprint", "")) for name, entry in known.items()}
    except AttributeError:
        return {}


def save(results: Results, path: Path) -> Path:
    """Write results, tables, figures, summary and report to a directory."""
    with Pages(path) as pages:
        return pages.write(results)


def ready() -> None:
    """Import what a figure takes, before there is one."""
    import matplotlib.backends.backend_svg  # noqa: F401

    available_metrics()
    gc.freeze()  # searches for garbage, one a figure, need not go through all that was imported


def write_files(card: Metric | None, data: xr.Dataset, table: Path | None, figure: Path | None) -> str:
    """Write the table and the figure of a result; returns why there is no figure, or nothing."""
    for path in filter(None, (table, figure)):
        folder(path.parent)
    if table is not None:
        write_table(data, table)
    return "" if figure is None else write_figure(card, data, figure)


def write_table(data: xr.Dataset, path: Path) -> None:
    """Tidy CSV of a result, without variables of more than a million values."""
    small = [name for name in data.data_vars if data[name].size <= LARGEST_TABLE]
    write_whole(path, neutral(tidy(data[small])).to_csv(index=False))


def write_figure(card: Metric | None, data: xr.Dataset, path: Path) -> str:
    """Draw a metric's own figure; returns why there is none, or nothing."""
    if card is None or card.plot is None:
        return "no figure: the metric has no plot"
    try:
        plot.save_svg(plot.draw(card.plot, data), path, str(data.attrs.get("fingerprint", "")))
    except Exception as error:  # a figure is not worth losing the numbers for
        return f"no figure: {type(error).__name__}: {error}"
    return ""


def summary(results: Results, notes: Mapping[str, str]) -> dict[str, Any]:
    """What was computed, from what, and where it ended, as JSON-able values."""
    first = next(iter(results.values()), None)
    about = {} if first is None else {name: first.attrs.get(name) for name in PROVENANCE}
    return {
        **about,
        "findings": [finding.to_dict() for finding in findings(results)],
        "metrics": {name: _entry(name, data, notes.get(name, "")) for name, data in results.items()},
        "skipped": dict(results.skipped),
        **({"coming": list(results.coming)} if getattr(results, "coming", ()) else {}),
    }


def _entry(name: str, data: xr.Dataset, note: str) -> dict[str, Any]:
    names = ("title", "meaning", "reference", "options", "lag", "created")
    about = {name: data.attrs[name] for name in (*names, "fingerprint") if name in data.attrs}
    told = {
        line.label: {"first": _number(line.first), "last": _number(line.last)} for line in lines(name, data)
    }
    variables = {str(name): _variable(data[name]) for name in data.data_vars}
    entry = {**about, "summary": told, "variables": variables}
    return entry | ({"note": note} if note else {})


def _variable(array: xr.DataArray) -> dict[str, Any]:
    finite = array.values[np.isfinite(array.values)]
    return {
        "dims": {str(dim): int(extent) for dim, extent in array.sizes.items()},
        "units": array.attrs.get("units", "1"),
        "n_nan": int(array.attrs.get("n_nan", 0)),
        "smallest": _number(finite.min()) if finite.size else None,
        "largest": _number(finite.max()) if finite.size else None,
    }


def _number(value: Any) -> Any:
    # JSON has no word for these two; a reader must not take them for numbers.
    value = float(value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def read_skipped(path: Path) -> dict[str, str]:
    """Metrics a saved analysis skipped, with the reasons."""
    return dict(document(path / "summary.json").get("skipped", {}))
