"""What a reader can point at in a drawn figure: lines, bars, points and cells, with places and values."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.plot import time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

SERIES, POINTS, CELLS = 12, 400, 4000  # most of a panel that can be pointed at; more is drawn only
Margins = tuple[float, float, float, float]
NAMES = "tracer_names"  # attribute of an axis or a collection: a name for each position or point


def panels(figure: Figure) -> list[dict[str, Any]]:
    """What can be pointed at in each axes of a figure that has been drawn, {} where nothing can.

    Places are in points from the left and the top, as in the SVG of the figure. `box` is left, top, right and
    bottom; `xs` are the distinct sets of abscissae (`at` places, `names`), which `lines` refer to by number.
    `points` carry their own place and text. `cells` is a table with names of rows and columns; its `box` is
    where it lies. `time` is the time axis on both scales. `map` is what a map over time is drawn again from: the
    `edges` of its columns, and a `png` of a pixel a cell, in base 64. Values have four significant digits; None is
    undefined. `shares`: the numbers of the vertical axis stand at the panel to the left.
    """
    return [_panel(axes) for axes in figure.axes]


def pale(axes: Axes) -> bool:
    """Whether the colours of an axes, or of its colour bar, mean nothing where they are lightest."""
    mappables = [*axes.images, *axes.collections, getattr(getattr(axes, "_colorbar", None), "mappable", None)]
    maps = [one.get_cmap() for one in mappables if one is not None and one.get_array() is not None]
    return any(_light(cmap(0.0)) > _light(cmap(1.0)) or _light(cmap(0.5)) > 0.8 for cmap in maps)


def outer_boxes(figure: Figure, margins: Mapping[Axes, Margins]) -> list[str]:
    """Left, top, right and bottom of each axes with all its labels, in points as in the SVG; empty where there is none.

    `margins` are the pixels around an axes that its layout measured; titles and names may reach farther. An axes and
    its colour bar have one box, so that who moves one moves the other.
    """
    from matplotlib.transforms import Bbox

    height = figure.get_size_inches()[1] * 72
    boxes = {axes: _with_labels(axes, margins.get(axes)) for axes in figure.axes}
    owner = {axes: axes for axes in figure.axes}
    for axes in figure.axes:
        mappable = getattr(getattr(axes, "_colorbar", None), "mappable", None)
        drawn_on = getattr(mappable, "axes", None)
        if drawn_on in boxes:
            owner[axes] = drawn_on
    told = []
    for axes in figure.axes:
        mine = (boxes[one] for one in figure.axes if owner[one] is owner[axes])
        together = [box for box in mine if box is not None]
        if not together:
            told.append("")
            continue
        box = Bbox.union(together)
        scale = 72 / figure.dpi
        edges = (box.x0 * scale, height - box.y1 * scale, box.x1 * scale, height - box.y0 * scale)
        told.append(" ".join(f"{edge:.1f}" for edge in edges))
    return told


def _with_labels(axes: Axes, margins: Margins | None) -> Any:
    from matplotlib.transforms import Bbox

    if margins is None:
        return axes.get_tightbbox()
    titles = [axes.title, axes.xaxis.label, axes.yaxis.label]
    shown = [title.get_window_extent() for title in titles if title.get_visible() and title.get_text()]
    return Bbox.union([around(axes, margins), *shown])


def around(axes: Axes, margins: Margins) -> Any:
    """The box of an axes with so many pixels to its left, below it, to its right and above it."""
    from matplotlib.transforms import Bbox

    inner = axes.get_window_extent()
    left, below, right, above = margins
    return Bbox.from_extents(inner.x0 - left, inner.y0 - below, inner.x1 + right, inner.y1 + above)


def _panel(axes: Axes) -> dict[str, Any]:
    if hasattr(axes, "_colorbar"):
        return {}
    cells, points = next(_tables(axes), None), list(islice(_points(axes), POINTS))
    curves = list(_curves(axes))
    if curves and any(not name.startswith("_") for name, *_ in curves):
        curves = [curve for curve in curves if not curve[0].startswith("_")]
    time = time_axis.carried(axes)
    if cells is None and not points and not curves and not time:
        return {}
    about: dict[str, Any] = {"box": _box(axes), "title": axes.get_title()}
    about |= {"x": _label(axes, "x"), "y": _label(axes, "y")}
    about |= {"time": time} if time else {}
    if len(axes.get_shared_y_axes().get_siblings(axes)) > 1 and not axes.yaxis.get_tick_params()["labelleft"]:
        about["shares"] = True
    about |= {} if (again := next(_maps(axes), None)) is None else {"map": again}
    xs: dict[tuple[float, ...], int] = {}
    lines = []
    for name, color, x, y in curves[:SERIES]:
        last = np.append(x[1:] != x[:-1], True)  # of the points of a vertical stretch
        x, y = x[last], y[last]
        keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
        x, y = x[keep], y[keep]
        number = xs.setdefault(tuple(x.tolist()), len(xs))
        places = _places(axes, x, y)[:, 1]
        shown = "" if name.startswith("_") else name
        lines.append({"name": shown, "color": color, "x": number, "y": _short(y), "at": _tenths(places)})
    low = axes.get_ylim()[0]
    rows = [
        {
            "at": _tenths(_places(axes, np.array(x), np.full(len(x), low))[:, 0]),
            "names": _names(axes.xaxis, x),
        }
        for x in xs
    ]
    panel = {"xs": rows, "lines": lines, "points": points, "cells": cells}
    return about | {key: value for key, value in panel.items() if value}


def _curves(axes: Axes) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    from matplotlib.colors import to_hex
    from matplotlib.container import BarContainer
    from matplotlib.patches import StepPatch

    for line in axes.lines:
        # Reference lines across the axes are placed by another transform.
        if line.get_transform() == axes.transData and line.get_visible():
            x, y = (np.asarray(values, np.float64) for values in line.get_data())
            if len(x):
                yield str(line.get_label()), to_hex(line.get_color()), x, y
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            centres = (np.asarray(edges)[1:] + np.asarray(edges)[:-1]) / 2
            yield (
                str(patch.get_label()),
                to_hex(patch.get_edgecolor()),
                centres,
                np.asarray(values, np.float64),
            )
    for bars in axes.containers:
        if isinstance(bars, BarContainer) and bars.orientation == "vertical" and len(bars):
            x = np.array([bar.get_x() + bar.get_width() / 2 for bar in bars])
            heights = np.array([bar.get_height() for bar in bars], np.float64)
            yield str(bars.get_label()), to_hex(bars[0].get_facecolor()), x, heights


def _points(axes: Axes) -> Iterator[dict[str, Any]]:
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer

    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            spots = np.ma.filled(drawn.get_offsets(), np.nan).astype(np.float64)
            array = drawn.get_array()
            values = None if array is None else _short(np.ma.filled(array, np.nan))
            names = getattr(drawn, NAMES, [""] * len(spots))
            for k, (x, y) in enumerate(spots):
                yield _point(axes, x, y, str(names[k])) | ({} if values is None else {"value": values[k]})
    for bars in axes.containers:
        if isinstance(bars, BarContainer) and bars.orientation == "horizontal":
            middles = [bar.get_y() + bar.get_height() / 2 for bar in bars]
            names = _names(axes.yaxis, [round(middle) for middle in middles])
            series = "" if str(bars.get_label()).startswith("_") else f", {bars.get_label()}"
            for bar, y, name in zip(bars, middles, names, strict=True):
                # The ordinate of a bar is its name.
                yield _point(axes, bar.get_width(), y, f"{name}{series}") | {"ys": None}


def _point(axes: Axes, x: float, y: float, name: str) -> dict[str, Any]:
    place = _tenths(_places(axes, np.array([x]), np.array([y]))[0])
    return {"at": place, "name": name, "xs": _short(np.array([x]))[0], "ys": _short(np.array([y]))[0]}


def _tables(axes: Axes) -> Iterator[dict[str, Any]]:
    yield from filter(None, (_mesh_table(axes, mesh) for mesh in _meshes(axes)))
    for image in axes.images:
        array = np.ma.filled(np.ma.asarray(image.get_array(), np.float64), np.nan)
        if array.ndim != 2 or array.size > CELLS:
            continue
        left, right, bottom, top = image.get_extent()
        (x0, y0), (x1, y1) = _places(axes, np.array([left, right]), np.array([top, bottom]))
        if image.origin == "lower":
            array = array[::-1]
        n_rows, n_columns = array.shape
        down, along = _centres(top, bottom, n_rows), _centres(left, right, n_columns)
        bar = image.colorbar
        yield {
            "box": _tenths([x0, y0, x1, y1]),
            "rows": _names(axes.yaxis, down),
            "columns": _names(axes.xaxis, along),
            "values": [_short(row) for row in array],
            "what": bar.ax.get_ylabel() if bar is not None else "",
        }


def _mesh_table(axes: Axes, mesh: QuadMesh) -> dict[str, Any] | None:
    array, corners = _upright(axes, mesh)
    if array.size > CELLS:
        return None
    (x0, y0), (x1, y1) = _places(axes, *corners[[0, -1], [0, -1]].T)
    bar = mesh.colorbar
    return {
        "box": _tenths([x0, y0, x1, y1]),
        "rows": _names(axes.yaxis, (corners[1:, 0, 1] + corners[:-1, 0, 1]) / 2),
        "columns": list(getattr(mesh, NAMES)),
        "values": [_short(row) for row in array],
        "what": bar.ax.get_ylabel() if bar is not None else "",
    }


def _meshes(axes: Axes) -> Iterator[QuadMesh]:
    from matplotlib.collections import QuadMesh

    return (one for one in axes.collections if isinstance(one, QuadMesh) and hasattr(one, NAMES))


def _upright(axes: Axes, mesh: QuadMesh) -> tuple[np.ndarray, np.ndarray]:
    """Values and corners of a mesh, the row that is drawn highest first."""
    array = np.ma.filled(np.ma.asarray(mesh.get_array(), np.float64), np.nan)
    corners = np.asarray(mesh.get_coordinates())
    low, high = axes.get_ylim()
    return (array, corners) if high < low else (array[::-1], corners[::-1])


def _maps(axes: Axes) -> Iterator[dict[str, Any]]:
    from PIL import Image

    for mesh in _meshes(axes):
        array, corners = _upright(axes, mesh)
        buffer = io.BytesIO()
        Image.fromarray(mesh.to_rgba(np.ma.masked_invalid(array), bytes=True)).save(buffer, "PNG")
        edges = _places(axes, *corners[0].T)[:, 0]
        yield {"edges": _tenths(edges), "png": base64.b64encode(buffer.getvalue()).decode()}


def _centres(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * (k + 0.5) / count for k in range(count)]


def _names(axis: Any, values: Any) -> list[str]:
    """Names of positions on an axis: those it was given, else its tick labels, else the numbers."""
    labels = dict(enumerate(getattr(axis, NAMES, ())))
    if not labels and type(axis.get_major_formatter()).__name__ == "FixedFormatter":
        labels = dict(zip(axis.get_majorticklocs(), axis.get_major_formatter().seq, strict=False))
    return [str(labels.get(value, f"{value:.{10 if float(value).is_integer() else 4}g}")) for value in values]


def _label(axes: Axes, which: str) -> str:
    """Label of an axis, or of one that shares it."""
    shared = axes.get_shared_x_axes() if which == "x" else axes.get_shared_y_axes()
    labels = [getattr(one, f"get_{which}label")() for one in (axes, *shared.get_siblings(axes))]
    return next((label for label in labels if label), "")


def _box(axes: Axes) -> list[float]:
    figure = axes.figure
    width, height = figure.get_size_inches() * 72  # type: ignore[union-attr]
    spot = axes.get_position()
    return _tenths([spot.x0 * width, (1 - spot.y1) * height, spot.x1 * width, (1 - spot.y0) * height])


def _places(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    figure = axes.figure
    scale = 72 / figure.dpi
    places = axes.transData.transform(np.stack([x, y], 1)) * scale
    places[:, 1] = figure.get_size_inches()[1] * 72 - places[:, 1]  # type: ignore[union-attr]
    return places


def _tenths(values: Any) -> list[Any]:
    return [round(float(value), 1) if np.isfinite(value) else None for value in values]


def _short(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]


def _light(color: tuple[float, float, float, float]) -> float:
    red, green, blue = color[:3]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
