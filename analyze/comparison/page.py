"""The page of a comparison: what follows generalization across runs, with nothing to fetch or run."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import xarray as xr

from analyze import plot
from analyze.comparison import figures, over_training
from analyze.comparison.measures import WORDS
from analyze.report import page, svg
from analyze.report.entries import grid
from analyze.saved.documents import folder as plain_folder
from tracer.errors import how_many
from tracer.store.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analyze.comparison.comparison import Comparison

Draw = Callable[["Comparison", "Figure", str], None]
COLOURED = 3  # attributes by which curves are coloured on the page
ROWS = 60  # measures in the table of the page; correlations.csv has all
FALLS = "−\N{NO-BREAK SPACE}"  # before a measure that falls as the target grows
HEAD = (
    "measure", "Kendall", "95 % interval", "p", "Pearson", "Spearman", "granulated", "CMI", "sign error", "worst",
    "runs",
)  # fmt: skip


def write(comparison: Comparison, folder: Path) -> Path:
    """Write `figures/*.svg` and `comparison.html` into a folder."""
    drawn = plain_folder(folder / "figures")
    for old in drawn.glob("*.svg"):
        old.unlink()
    shown = []
    for name, target, title, reading, draw in _figures(comparison):
        file, drawing = drawn / f"{name}.svg", _drawing(draw, comparison, target)
        plot.save_svg(drawing(), file)
        shown.append({"name": name, "title": title, "reading": reading, "file": file, "draw": drawing})
    path = folder / "comparison.html"
    write_whole(path, render(comparison, shown, folder))
    return path


def render(comparison: Comparison, shown: list[dict[str, Any]], folder: Path) -> str:
    """The page as HTML: names are escaped, links lead from `folder` to the reports of the runs."""
    from markupsafe import Markup

    for one in shown:
        one["figure"] = Markup(svg.fragment(one["draw"], one["name"], one["title"], one["file"]))
    attrs = comparison.correlations.attrs
    axes = [name for name in str(attrs.get("axes", "")).split(", ") if name]
    tables = [
        {
            "target": name,
            "title": WORDS[name],
            "answer": comparison.answer_for(name),
            "grid": _table(comparison, name),
            "apart": _apart(comparison, name),
        }
        for name in comparison.targets
    ]
    return page.render(
        "comparison.html",
        topics=_topics(shown, tables, bool(comparison.skipped)),
        answer=comparison.answer,
        notes=comparison.notes,
        lede=_lede(comparison, axes),
        tiles=_tiles(comparison, axes),
        figures=shown,
        tables=tables,
        runs=_runs(comparison, axes, folder),
        skipped=_skipped(comparison),
        settings=[(str(name), str(value) or "none") for name, value in attrs.items()],
        rows=ROWS,
    )


def _topics(shown: list[dict[str, Any]], tables: list[dict[str, Any]], skipped: bool) -> list[dict[str, Any]]:
    appendix = [("runs", "Runs"), ("statistics", "What the numbers are"), ("settings", "Settings")]
    if skipped:
        appendix.insert(2, ("skipped", "Not computed"))
    return [
        page.topic("Figures", [(one["name"], one["title"]) for one in shown]),
        page.topic("Measures against", [(f"against-{one['target']}", one["title"]) for one in tables]),
        page.topic("Appendix", appendix),
    ]


def _figures(comparison: Comparison) -> list[tuple[str, str, str, str, Draw]]:
    panels: list[tuple[str, str, str, str, Draw]] = []
    for target in comparison.targets[:1]:
        word = WORDS[target]
        panels.append((
            "bars", target, f"Correlation with the {word}",
            "One row a variable, its closest label; + and − say whether it grows or falls with the target. "
            "Whiskers span 95 % of resamples of the runs; one that crosses 0 is no evidence, nor is none.",
            figures.bars,
        ))  # fmt: skip
        panels.append((
            "scatters", target, f"Closest measures against the {word}",
            "A point a run. A correlation can rest on two groups of runs: look before you believe it.",
            figures.scatters,
        ))  # fmt: skip
        if comparison.correlations.sizes["environment"]:
            panels.append((
                "environments", target, "Sign error over environments",
                "How often the measure orders two runs wrongly, in each environment. A measure that explains "
                "the target rises at the left; one that reaches the top late fails somewhere.",
                figures.environments,
            ))  # fmt: skip
        if figures.OVERLAP in comparison.measures and comparison.table[figures.OVERLAP].notna().any():
            panels.append((
                "path_overlap", target, f"Early-to-mid path similarity against the {word}",
                "Whether paths that settle before the learning rate first falls go with generalization: "
                "a point a run.",
                figures.overlap,
            ))  # fmt: skip
        panels += _over_training(comparison, target)
    return panels


def _over_training(comparison: Comparison, target: str) -> list[tuple[str, str, str, str, Draw]]:
    """Curves, once coloured by each attribute that was varied, else a line a run."""
    table = over_training.series(comparison, target)
    if table.empty:
        return []
    varied = [name for name in str(comparison.correlations.attrs.get("axes", "")).split(", ") if name]
    panels: list[tuple[str, str, str, str, Draw]] = []
    for k, name in enumerate(varied[:COLOURED] or [""]):
        by = f", by {name}" if name else ""
        lines = _reading(comparison, table, name) if name else "A line a run."
        panels.append((
            f"over_training{f'_{k + 1}' if k else ''}", target,
            f"The {WORDS[target]} and the closest measures over training{by}", lines,
            partial(_draw_curves, table=table, by=name),
        ))  # fmt: skip
    return panels


def _reading(comparison: Comparison, table: pd.DataFrame, name: str) -> str:
    """What lines and bands by an attribute say: a band of one run has no width, and nothing to say of others."""
    said = f"A line is the mean of all runs of one {name}, its band reaches from the lowest of them to the highest"
    known = table.dropna(subset="value")
    groups = known.groupby([over_training.COLUMN, known["run"].map(comparison.table[name].astype(object))])
    fewest = int(groups["run"].nunique().min()) if len(known) else 0
    if fewest < 2:
        return f"{said}; of one run there is none, so that lines apart may be no more than seeds."
    apart = "what bands do not overlap differs by more than seeds and all else that was varied"
    return f"{said}: {apart}, of {fewest} runs or more each."


def _draw_curves(comparison: Comparison, figure: Figure, _: str, table: pd.DataFrame, by: str) -> None:
    over_training.grouped(comparison, table, by).draw(figure)


def _drawing(draw: Draw, comparison: Comparison, target: str) -> Callable[[], Figure]:
    return lambda: plot.draw(lambda _, figure: draw(comparison, figure, target), xr.Dataset())


def _lede(comparison: Comparison, axes: list[str]) -> str:
    listed = [", ".join(axes[:-1]), axes[-1]] if axes[1:] else axes
    varied = f", which differ in {' and '.join(listed)}" if axes else ""
    return f"{how_many(len(comparison.measures), 'measure')} of {len(comparison.table):,} runs{varied}."


def _tiles(comparison: Comparison, axes: list[str]) -> list[dict[str, str]]:
    tiles = [{"name": "runs", "value": f"{len(comparison.table):,}", "note": ""}]
    for target in comparison.targets:
        values = comparison.table[target].to_numpy(float)
        values = values[np.isfinite(values)]
        if len(values):
            note = f"{_number(values.min())} to {_number(values.max())}"
            name = f"median {WORDS[target]}"
            tiles.append({"name": name, "value": _number(float(np.median(values))), "note": note})
    return tiles


def _table(comparison: Comparison, target: str) -> dict[str, Any]:
    rows = [
        [
            f"{FALLS if row['falls'] else ''}{row['measure']}"
            + (f" (as {row['also']})" if row["also"] else ""),
            _share(row["kendall"]),
            "–"
            if row["kendall_low"] is None
            else f"{_share(row['kendall_low'])} to {_share(row['kendall_high'])}",
            _share(row["p_corrected"]),
            *(_share(row[key]) for key in ("pearson", "spearman", "granulated", "cmi")),
            *(_share(row[key]) for key in ("sign_error_mean", "sign_error_max")),
            f"{row['runs']:,}",
        ]
        for row in comparison.rows(target)[:ROWS]
        if not row["apart"]
    ]
    caption = f"Agreement of each measure with the {WORDS[target]} across runs"
    return grid(HEAD, rows, numeric=range(1, len(HEAD)), caption=caption)


def _apart(comparison: Comparison, target: str) -> dict[str, Any] | None:
    """Measures that read what the target is made of, and why they do not compete."""
    rows = [
        [
            f"{FALLS if row['falls'] else ''}{row['measure']}",
            _share(row["kendall"]),
            row["apart"],
        ]
        for row in comparison.rows(target)
        if row["apart"]
    ]
    head = ["measure", "Kendall", "why it does not compete"]
    caption = f"Measures that do not compete for the {WORDS[target]}"
    return grid(head, rows, numeric=[1], caption=caption) if rows else None


def _runs(comparison: Comparison, axes: list[str], folder: Path) -> dict[str, Any]:
    """Head and rows of the table of runs, each with the address of its report where there is one."""
    columns = [*axes, *comparison.targets]
    links = {run.name: _link(run.analysis / "report.html", folder) for run in comparison.runs}
    rows = []
    for name, row in comparison.table.iterrows():
        cells = [_number(row[c]) if isinstance(row[c], float) else str(row[c]) for c in columns]
        rows.append({"name": str(name), "link": links.get(str(name), ""), "cells": cells})
    return {"head": ["run", *(WORDS.get(c, c) for c in columns)], "rows": rows, "axes": len(axes)}


def _link(report: Path, folder: Path) -> str:
    if not report.is_file():
        return ""
    return quote(os.fsencode(Path(os.path.relpath(report, folder)).as_posix()))


def _skipped(comparison: Comparison) -> dict[str, Any] | None:
    alike: dict[tuple[str, str], list[str]] = {}
    for run, reasons in comparison.skipped.items():
        for metric, reason in reasons.items():
            alike.setdefault((metric, reason), []).append(run)
    rows = [[metric, f"{len(runs):,}", reason] for (metric, reason), runs in alike.items()]
    head, caption = ["metric", "runs", "what is missing"], "Metrics that were not computed, of how many runs"
    return grid(head, rows, numeric=[1], caption=caption) if rows else None


def _share(value: float | None) -> str:
    """Two decimals are more than the intervals leave certain."""
    return "–" if value is None or np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _number(value: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return f"{value:.3g}".replace("-", "−")
