"""Figure defaults and the few shapes of figure the metrics share; a metric's own plot stays a dozen lines."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from analyze.plot import hover, time_axis
from analyze.plot.drawing import document
from analyze.plot.legends import legend as legend
from analyze.plot.room import lines_beside
from analyze.plot.room import pick as pick
from analyze.plot.ticks import fit_numbers, wrap_titles
from analyze.plot.ticks import log_scale as log_scale
from analyze.plot.ticks import name_ticks as name_ticks
from analyze.plot.time_axis import SCALE
from analyze.plot.time_axis import step_axis as step_axis
from analyze.plot.time_axis import time_scale as time_scale
from tracer.store.files import write_whole

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any common form of colour blindness, without the pale yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SPLIT_COLORS = {"train": PALETTE[0], "test": PALETTE[1], "val": PALETTE[2], "validation": PALETTE[2]}
GREY = "0.6"
APOSTROPHE = "'"
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
WIDTH = 7.2  # inches: 8 point text is then 11 pixels high in a report 700 pixels wide
ALONE = 4.4  # of a panel that has none beside it: as legible on a phone as those that wrap there
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tracer",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titley": 1.0,  # else the axes is measured again to place its title
    "axes.labelsize": 8,
    "axes.formatter.useoffset": False,  # a number above the axes would stand in its title
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    # About where the layout will leave the panels, so that their ticks are measured once.
    "figure.subplot.left": 0.07,
    "figure.subplot.right": 0.98,
    "figure.subplot.bottom": 0.11,
    "figure.subplot.top": 0.92,
    "figure.subplot.hspace": 0.5,
    "figure.subplot.wspace": 0.35,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "image.interpolation": "nearest",
    "savefig.transparent": False,
}


def draw(plot: Callable[[xr.Dataset, Figure], None], result: xr.Dataset) -> Figure:
    """Figure of a result in the house style, without touching pyplot's global state."""
    scale = SCALE.set(str(result.attrs.get("time_axis", "")))
    try:
        return styled(partial(plot, _described(result)))
    finally:
        SCALE.reset(scale)


def styled(plot: Callable[[Figure], None]) -> Figure:
    """Figure in the house style of what is no result."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), _uncollected():
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        plot(figure)
        wrap_titles(figure)
        for axes in figure.axes:
            _say_undefined(axes)
            fit_numbers(axes)
        return figure


def _say_undefined(axes: Axes) -> None:
    """A word where all that was drawn is NaN and nothing says so: else an empty panel looks like a fault."""
    if (axes.lines or axes.collections) and not axes.texts and not np.isfinite(axes.dataLim.x0):
        axes.text(0.5, 0.5, "undefined", ha="center", va="center", color=GREY, transform=axes.transAxes)


def _described(result: xr.Dataset) -> xr.Dataset:
    """The result with layers and sites called by name, kind and shape, as far as its attributes tell them."""
    try:
        names = json.loads(result.attrs.get("part_names", "{}"))
        layers, sites = (dict(names.get(kind, {})) for kind in ("layer", "site"))
    except (TypeError, ValueError, AttributeError, RecursionError):
        return result
    renamed = {}
    for dim in ("layer", "layer_2", "site", "site_2", "place"):
        known = layers if dim.startswith("layer") else sites
        if dim in result.coords and result[dim].dims == (dim,):
            told = [str(known.get(str(name), name)) for name in result[dim].values]
            if len(set(told)) == len(told):
                renamed[dim] = told
    return result.assign_coords(renamed)


def save_svg(figure: Figure, path: str | Path | IO[bytes], description: str = "") -> None:
    """Write a figure as SVG with selectable text; the same figure gives the same bytes.

    The group of each axes carries, in `data-panel`, what it shows as numbers (see `analyze.plot.hover`).
    """
    text = to_svg(figure, description).encode()
    if isinstance(path, str | Path):
        write_whole(path, text)
    else:
        path.write(text)


def to_svg(figure: Figure, description: str = "") -> str:
    """The SVG document of a figure, as `save_svg` writes it."""
    import matplotlib

    for number, axes in enumerate(figure.axes):
        axes.set_gid(f"panel_{number}")
        axes.xaxis.set_gid(f"time_{number}" if time_axis.carried(axes) else None)
        inner = axes.get_legend()
        if inner is not None:
            inner.set_gid(f"legend_of_{number}")
    about = {"Date": None, "Creator": None, "Description": description or None}
    with matplotlib.rc_context(STYLE), _uncollected():
        text, boxes = document(figure, about)
    # A hundredth of a point is finer than any screen, and a third of the bytes were beyond it.
    text = re.sub(r'(?<= )(?:d|x|y)="[^"]*"', _hundredths, text)
    for number, (axes, panel) in enumerate(zip(figure.axes, hover.panels(figure), strict=True)):
        shown = json.dumps(panel, ensure_ascii=False, separators=(",", ":"))
        held = f" data-panel='{escape(shown, quote=False).replace(APOSTROPHE, '&#39;')}'" if panel else ""
        kind = ' class="pale"' if hover.pale(axes) else ""
        kind += f' data-outer="{boxes[number]}"' if boxes[number] else ""
        text = text.replace(f'<g id="panel_{number}">', f'<g id="panel_{number}"{kind}{held}>', 1)
        text = text.replace(f'<g id="time_{number}">', '<g class="time">', 1)
        text = text.replace(f'<g id="legend_of_{number}">', '<g class="legend">', 1)
    return text


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage: a figure is tens of thousands of objects, all of them in use."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _hundredths(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])


def name_points(drawn: Any, names: Sequence[object]) -> None:
    """Give each point of a scatter a name, which the report shows to who points at it."""
    setattr(drawn, hover.NAMES, [str(name) for name in names])


def panels(
    figure: Figure,
    count: int,
    *,
    titles: Sequence[object] = (),
    columns: int = 3,
    height: float = 1.9,
    sharex: bool = True,
    sharey: bool = True,
) -> list[Axes]:
    """Lay out `count` small multiples, at most `columns` a row, and size the figure to hold them.

    >>> from matplotlib.figure import Figure
    >>> len(panels(Figure(), 4, titles="abcd"))
    4
    """
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure.set_size_inches(WIDTH if columns > 1 else ALONE, max(rows * height, 2.4))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for unused in grid[count:]:
        unused.remove()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(str(title))
    for axes in grid[:count]:
        axes.tick_params(labelbottom=True)  # each stands alone on a phone
    return list(grid[:count])


def depth_colors(count: int) -> list[Any]:
    """Colours for an ordered set (layers, steps), dark for the first and light for the last."""
    import matplotlib

    return list(matplotlib.colormaps[SEQUENTIAL](np.linspace(0.0, 0.88, max(count, 1))))


def color_of(name: str, position: int = 0) -> str:
    """Colour of a split or probe: the same one in every figure where the name is a usual one."""
    return SPLIT_COLORS.get(name, PALETTE[(position + 2) % len(PALETTE)])


def line(axes: Axes, x: ArrayLike, y: ArrayLike, **style: Any) -> None:
    """A line, with markers where points are few enough to be told apart."""
    y = np.asarray(y, np.float64)
    marker = "o" if np.isfinite(y).sum() <= 25 else None
    axes.plot(np.asarray(x), y, **{"marker": marker, **style})


def band(axes: Axes, x: ArrayLike, mean: ArrayLike, std: ArrayLike, **style: Any) -> None:
    """A line of means with a band of one standard deviation on each side."""
    x, mean, std = np.asarray(x), np.asarray(mean, np.float64), np.asarray(std, np.float64)
    line(axes, x, mean, **style)
    defined = np.isfinite(mean) & np.isfinite(std)
    color = style.get("color", axes.lines[-1].get_color())
    axes.fill_between(x, mean - std, mean + std, where=defined, color=color, alpha=0.18, linewidth=0)


def zero_line(axes: Axes, at: float = 0.0) -> None:
    """A quiet horizontal reference."""
    axes.axhline(at, color=GREY, linewidth=0.8, zorder=0)


def around_zero(values: ArrayLike) -> tuple[float, float]:
    """Limits of a diverging scale: as far on either side of 0 as all but the farthest hundredth of the values reach.

    >>> around_zero([0.1, -0.25, float("nan")])
    (-0.25, 0.25)
    """
    sizes = np.abs(np.asarray(values, np.float64))
    sizes = sizes[np.isfinite(sizes)]
    reach = float(np.quantile(sizes, 0.99, method="higher")) if sizes.size else 0.0
    return (-reach, reach) if reach > 0 else (-1.0, 1.0)


def heat(
    axes: Axes,
    values: ArrayLike,
    *,
    limits: tuple[float, float] | None = None,
    cmap: str = SEQUENTIAL,
    colorbar: str | None = None,
    origin: Literal["upper", "lower"] = "upper",
) -> Any:
    """Image of a (row, column) table; NaN is left blank. `colorbar` is the label of its scale."""
    table = np.asarray(values, np.float64)
    limits = limits or _extremes(table)
    image = axes.imshow(table, aspect="auto", cmap=cmap, vmin=limits[0], vmax=limits[1], origin=origin)
    if colorbar is not None:
        _color_bar(axes, image, colorbar)
    return image


def _extremes(table: np.ndarray) -> tuple[float, float]:
    finite = table[np.isfinite(table)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def _color_bar(axes: Axes, mappable: Any, label: str) -> None:
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(mappable, ax=axes, label=label, shrink=0.9)


def heat_over_time(
    axes: Axes,
    values: ArrayLike,
    steps: ArrayLike,
    rows: Sequence[object] | np.ndarray,
    *,
    limits: tuple[float, float] | None = None,
    cmap: str = SEQUENTIAL,
    colorbar: str | None = None,
    origin: Literal["upper", "lower"] = "upper",
) -> Any:
    """Heat map of (row, step) on the time axis that lines have: a snapshot reaches half way to its neighbours."""
    table = np.asarray(values, np.float64)
    mesh = _mesh_over_time(axes, table, steps, np.arange(len(table) + 1) - 0.5, limits, cmap)
    axes.set_ylim(*((-0.5, len(table) - 0.5) if origin == "lower" else (len(table) - 0.5, -0.5)))
    name_ticks(axes.yaxis, rows, limit=lines_beside(axes))
    if colorbar is not None:
        _color_bar(axes, mesh, colorbar)
    return mesh


def histogram_over_time(
    axes: Axes, shares: ArrayLike, steps: ArrayLike, edges: ArrayLike, *, limits: tuple[float, float]
) -> Any:
    """Distribution at each step as a column of a map on the time axis; `shares` (step, bin), `edges` (bin + 1)."""
    edges = np.asarray(edges, np.float64)
    mesh = _mesh_over_time(axes, np.asarray(shares, np.float64).T, steps, edges, limits, "Blues")
    axes.set_ylim(edges[0], edges[-1])
    return mesh


def _mesh_over_time(
    axes: Axes,
    table: np.ndarray,
    steps: ArrayLike,
    edges: np.ndarray,
    limits: tuple[float, float] | None,
    cmap: str,
) -> Any:
    low, high = limits or _extremes(table)
    steps, shown = np.asarray(steps), np.ma.masked_invalid(table)
    mesh = axes.pcolormesh(
        time_axis.columns(steps), edges, shown, cmap=cmap, vmin=low, vmax=high, rasterized=True
    )
    step_axis(axes, steps)
    setattr(mesh, hover.NAMES, [str(step) for step in steps])
    return mesh


def compared(result: xr.Dataset) -> xr.Dataset:
    """What compares a snapshot with an earlier one, from the first step at which it does; all where it never does."""
    floats = [one for one in result.data_vars.values() if one.dtype.kind == "f" and "step" in one.dims]
    known = np.zeros(result.sizes.get("step", 0), bool)
    for one in floats:
        known |= one.notnull().any([dim for dim in one.dims if dim != "step"]).values
    return result.isel(step=slice(int(known.argmax()), None)) if known.any() else result


def finite_limits(values: ArrayLike, within: Mapping[str, float] | None = None) -> tuple[float, float]:
    """Smallest and largest finite value with a margin of 5 %; (0, 1) where there is none.

    >>> finite_limits([0.0, 1.0, float("nan")])
    (-0.05, 1.05)
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.05 * (high - low) or 0.05 * max(abs(high), 1.0)
    bounds = within or {}
    return max(low - margin, bounds.get("low", -np.inf)), min(high + margin, bounds.get("high", np.inf))


def spread(axes: Axes, x: ArrayLike, values: ArrayLike, low: float, high: float, **style: Any) -> None:
    """A band from one percentile to another of (step, example) values; NaN is left out."""
    table = np.asarray(values, np.float64)
    rows = np.flatnonzero(np.isfinite(table).any(1))
    if len(rows):
        edges = np.array([np.percentile(row[np.isfinite(row)], [low, high]) for row in table[rows]])
        axes.fill_between(np.asarray(x)[rows], edges[:, 0], edges[:, 1], alpha=0.15, linewidth=0, **style)
