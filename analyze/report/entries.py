"""One metric's part of the report, from its card and its result."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analyze import plot
from analyze.contract import Metric
from analyze.report import svg
from analyze.report.choice import changed
from analyze.report.explore import explore
from analyze.summary import Line, lines

# In reading order; a metric's folder is its chapter, and what the folder says of itself the chapter's line.
CHAPTERS = (
    *("outcome", "gradients", "paths", "depth", "representations", "capacity", "landscape", "examples"),
    "other measures",
)
HEADLINES = (
    "generalization",
    "stiffness",
    "class_stiffness",
    "path_cross_similarity",
    "path_self_similarity",
    "cna",
)


COMING: dict[str, Any] = {
    "figure": None,
    "no_figure": "This figure is being drawn: load the page again.",
    "views": None,
    "files": [],
}


def entry(name: str, data: xr.Dataset, card: Metric | None) -> dict[str, Any]:
    """What the report says of one metric, even of one that is not installed here; `drawing` adds its figure."""
    told = lines(name, data)
    about = {key: str(data.attrs.get(key, "")) for key in ("meaning", "formula", "reading")}
    return {
        "name": name,
        "title": title_of(name, data),
        "chapter": chapter_of(card),
        "reads": card.reads if card else (),
        "meaning": tidy(about["meaning"]),
        "formula": formula(about["formula"]),
        "references": card.reference if card else (),
        "drawable": card is not None and card.plot is not None,
        "reading": tidy(about["reading"]),
        "undefined": undefined(data, card),
        "options": options(data),
        "summary": values(name, data),
        "variables": variables(data),
        "beside": card.beside if card else "",
        "also": [],
        "score": changed(told),
        "line": line_of(told),
        "empty": is_empty(data),
    }


def drawing(name: str, data: xr.Dataset, card: Metric | None, figures: Path | None = None) -> dict[str, Any]:
    """The figure of one metric in the report, its values for the pointer, and the files beside the page."""
    figure, trouble = _figure(name, data, card, figures)
    return {
        "figure": figure,
        "no_figure": trouble,
        "views": explore(data, card.variables if card else ()) if figure else None,
        "files": files_of(name, figures),
    }


def is_empty(data: xr.Dataset) -> bool:
    """Whether not one of its numbers is defined."""
    numbers = [array for array in data.values() if array.dtype.kind == "f" and array.size]
    return bool(numbers) and not any(bool(array.notnull().any()) for array in numbers)


def line_of(told: Sequence[Line]) -> str:
    """What a metric shows, in a line: its first number that moved, else the first that is defined, at both ends."""
    defined = [line for line in told if np.isfinite(line.last)]
    line = next((one for one in defined if one.first != one.last), defined[0] if defined else None)
    if line is None:
        return ""
    first = f"{_shown(line.first)} → " if len(line.steps) > 1 and np.isfinite(line.first) else ""
    return f"{line.variable.replace('_', ' ')}{f' ({line.of})' if line.of else ''} {first}{_shown(line.last)}"


def files_of(name: str, figures: Path | None) -> list[tuple[str, str]]:
    """Names and addresses, from the page, of the files beside it with the figure and the numbers of a metric."""
    if figures is None or not re.fullmatch(r"\w+", name):
        return []
    places = [("figure", figures.name, "svg"), ("numbers", "tables", "csv")]
    return [
        (what, f"{folder}/{name}.{kind}")
        for what, folder, kind in places
        if (figures.parent / folder / f"{name}.{kind}").is_file()
    ]


def joined(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries without those that say the same as another, which have become part of that one's section."""
    by_name = {one["name"]: one | {"also": []} for one in entries}
    for one in by_name.values():
        if one["beside"] in by_name:
            by_name[one["beside"]]["also"].append(one)
    return [one for one in by_name.values() if one["beside"] not in by_name]


def title_of(name: str, data: xr.Dataset) -> str:
    """Title of a result, or its name where it has none."""
    return str(data.attrs.get("title") or name)


def options(data: xr.Dataset) -> str:
    """The options a result was computed with, and what it compares if it compares snapshots.

    >>> options(xr.Dataset(attrs={"options": '{"k": 10, "bins": [1, 2]}', "lag": "epoch"}))
    'k = 10, bins = 1, 2; compares with the previous snapshot by epoch'
    """
    try:
        chosen = text(json.loads(data.attrs.get("options", "{}")))
    except (TypeError, ValueError):
        chosen = str(data.attrs["options"])
    lag = f"compares with the previous snapshot by {data.attrs['lag']}" if data.attrs.get("lag") else ""
    return "; ".join(part for part in (chosen, lag, str(data.attrs.get("sketches", ""))) if part)


def formula(plain: str) -> Any:
    """A card's formula in HTML: `_x` and `^x` lowered and raised, two spaces a new line, all else escaped.

    >>> str(formula("g_i·g_j < x^{2}"))
    'g<sub>i</sub>·g<sub>j</sub> &lt; x<sup>2</sup>'
    """
    from markupsafe import Markup, escape

    lines = "<br>".join(str(escape(part.rstrip(";,"))) for part in re.split(r"\s{2,}|\n", plain.strip()))
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        # A bare index is letters and digits; ² after it is a power of the whole.
        lines = re.sub(mark + r"\{([^{}]*)\}", rf"<{tag}>\1</{tag}>", lines)
        lines = re.sub(mark + r"([A-Za-z0-9α-ω]+)", rf"<{tag}>\1</{tag}>", lines)
    return Markup(lines)


def chapters(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group entries by chapter, those everybody looks for first."""
    claimed: dict[str, list[dict[str, Any]]] = {name: [] for name in CHAPTERS}
    for one in sorted(entries, key=_rank):
        claimed[one["chapter"]].append(one)
    return [
        {
            "name": name.capitalize(),
            "about": _about(name),
            "line": _line(claimed[name]),
            "anchor": f"chapter-{number}",
            "entries": claimed[name],
        }
        for number, name in enumerate(CHAPTERS, start=1)
        if claimed[name]
    ]


def chapter_of(card: Metric | None) -> str:
    """The folder of `analyze/metrics` a metric is in; `other measures` for one from elsewhere."""
    folder = card.module.removeprefix("analyze.metrics.").partition(".")[0] if card else ""
    return folder if folder in CHAPTERS else CHAPTERS[-1]


def _line(entries: Sequence[dict[str, Any]]) -> str:
    """What a chapter shows, in a line: its metrics that changed most."""
    told = [one for one in sorted(entries, key=lambda one: -one.get("score", 0.0)) if one.get("line")]
    return "; ".join(f"{one['title']}: {one['line']}" for one in told[:3])


def _about(chapter: str) -> str:
    if chapter == CHAPTERS[-1]:
        return "From other packages."
    return (import_module(f"analyze.metrics.{chapter}").__doc__ or "").strip()


def undefined(data: xr.Dataset, card: Metric | None) -> dict[str, str]:
    """Which values are NaN and how many (`count`), and the metric's own rule for them (`rule`)."""
    counts = {str(name): (int(np.isnan(a).sum()), a.size) for name, a in data.items() if a.dtype.kind == "f"}
    alike: dict[tuple[int, int], list[str]] = {}
    for name, count in counts.items():
        alike.setdefault(count, []).append(name)
    holes = [f"{k:,} of {n:,} values of {' and of '.join(names)}" for (k, n), names in alike.items() if k]
    left_out = {str(n): int(a.sum()) for n, a in data.items() if str(n).startswith("n_undefined")}
    holes += [f"{count:,} terms left out of means ({name})" for name, count in left_out.items() if count]
    gone, size = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    told = f"{gone:,} of {size:,} values undefined" if gone else f"none of {size:,} values undefined"
    if not holes:
        return {"count": told, "rule": ""}
    rules = rules_for_nan(card.definition) if card else []
    if card is not None and card.lag:
        rules.insert(0, "The first snapshot has no earlier one to be compared with.")
    return {"count": told, "rule": " ".join([", ".join(holes) + ".", *rules])}


def rules_for_nan(definition: str) -> list[str]:
    r"""Sentences of a docstring that say when a value is undefined.

    >>> rules_for_nan("Mean of x.\n\n``x`` is (step,). NaN where\nno x is left. Fine.")
    ['NaN where no x is left.']
    """
    prose = " ".join(definition.split(">>>")[0].split())
    sentences = re.split(r"(?<=\.)\s+(?=[^a-z])", prose)
    return [tidy(sentence) for sentence in sentences if "NaN" in sentence or "undefined" in sentence]


def tidy(doc: str) -> str:
    """Docstring text without its mark-up.

    >>> tidy("Share of ``x`` that `y` holds")
    'Share of x that y holds'
    """
    return doc.replace("`", "")


def values(name: str, data: xr.Dataset) -> dict[str, Any]:
    """The numbers that tell the result, where first defined and at the last snapshot.

    What is undefined throughout is counted beneath the table; it has a row where nothing else has.
    """
    told = list(lines(name, data))
    defined = [line for line in told if not np.isnan(line.values).all()] or told
    rows = [
        [
            f"{line.variable} [{line.of}]" if line.of else line.variable,
            _shown(line.first) if line.steps else "",
            _shown(line.last),
            "" if line.units == "1" else line.units,
        ]
        for line in defined
    ]
    head = ["number", "first", "last", "unit"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    caption = "What tells this metric in a few numbers, first where defined and at the last snapshot."
    return grid(head, rows, numeric=(1, 2), caption=caption, shown=True)


def variables(data: xr.Dataset) -> str:
    """Every variable with its axes.

    >>> variables(xr.Dataset({"cosine": (("step", "layer"), np.zeros((2, 3))), "n": ((), 1)}))
    'cosine (step 2 × layer 3), n (one number)'
    """
    axes = {name: " × ".join(f"{dim} {n}" for dim, n in data[name].sizes.items()) for name in data.data_vars}
    return ", ".join(f"{name} ({shown or 'one number'})" for name, shown in axes.items())


def grid(
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numeric: Sequence[int] = (),
    *,
    caption: str,
    shown: bool = False,
) -> dict[str, Any]:
    """A table as the template expects it; `numeric` lists the columns set flush right.

    The `caption` tells a screen reader what the table is, and everybody else where it is `shown`.
    """
    flags = [column in numeric for column in range(len(head))]
    table = {"head": list(head), "rows": [list(row) for row in rows], "numeric": flags}
    return table | {"caption": caption, "caption_shown": shown}


def text(value: Any) -> str:
    """Plain text of a number, a list or a mapping.

    >>> text({"k": 10, "bins": [1, 2]})
    'k = 10, bins = 1, 2'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text(item) for item in value)
    return str(value)


def _rank(one: dict[str, Any]) -> tuple[int, str]:
    first = HEADLINES.index(one["name"]) if one["name"] in HEADLINES else len(HEADLINES)
    return first, one["title"].lower()


def _figure(name: str, data: xr.Dataset, card: Metric | None, figures: Path | None) -> tuple[Any, str]:
    from markupsafe import Markup

    plotted = card.plot if card else None
    if card is None or plotted is None:
        return None, "This metric has no figure; its values are below."
    drawn = None if figures is None else figures / f"{name}.svg"
    try:
        return Markup(
            svg.fragment(lambda: plot.draw(plotted, data), name, f"Figure: {card.title}", drawn)
        ), ""
    except Exception as error:  # one broken figure must not cost the reader the rest of the page
        return None, f"The figure could not be drawn ({type(error).__name__}: {error}); the values are below."


def _shown(value: float) -> str:
    """Four significant digits, and no power of ten that can be read as a number.

    >>> _shown(0.00123456), _shown(-10020.3), _shown(float("nan"))
    ('0.001235', '−10,020', 'undefined')
    """
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return "undefined" if np.isnan(value) else text.replace("-", "−")
