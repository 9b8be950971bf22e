"""Legends that stand off the curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyze.plot.room import pick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARED = "tracer_names_and_handles"  # attribute of a legend that several axes of a figure share
BELOW = 0.45  # inches from an axes to a legend below it: the numbers and the name of the axis are between
MANY, FEW = 16, 8  # names in a legend at most, and how many are left where there are more
LEGEND = 95 / 7.2  # characters that stand in an inch of its row


def legend(axes: Axes, *, below: bool = False, **options: Any) -> None:
    """Legend of an axes, off its curves: above the panels, together with that of the others of the figure.

    Where two axes give one colour and style two names, each keeps its own, `below` it; a place given in `options` is
    kept too. Of more lines than anyone tells apart (the layers of a deep network) a few are named, evenly spread.
    """
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    handles, names = axes.get_legend_handles_labels()
    named = pick(names, FEW if len(names) > MANY else MANY)
    handles, names = [handles[k] for k in named], [names[k] for k in named]
    if not handles or figure is None:
        return
    old = next((one for one in figure.legends if getattr(one, SHARED, None) is not None), None)
    shared = dict(getattr(old, SHARED)) if old is not None else {}
    looks = {name: _look(handle) for name, handle in shared.items()}
    clash = any(
        (name in looks and looks[name] != _look(handle))
        or (name not in looks and _look(handle) in looks.values())
        for handle, name in zip(handles, names, strict=True)
    )
    wide, room = sum(len(name) + 5 for name in {*shared, *names}), LEGEND * figure.bbox.width / figure.dpi
    if "bbox_to_anchor" in options or not _constrained(figure):
        axes.legend(**options)
        return
    if clash or below:
        columns = max(1, int(0.45 * room / (max(map(len, names)) + 5)))
        # Inches below the axes, whatever height the layout will leave it.
        place = axes.transAxes + ScaledTranslation(0, -BELOW, figure.dpi_scale_trans)
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": place, "ncols": columns}
        axes.legend(**{**options, **where, "title": None})
        return
    shared |= dict(zip(names, handles, strict=True))
    if old is not None:
        old.remove()
    columns = len(shared) if wide <= room else max(1, int(room / (max(map(len, shared)) + 5)))
    about = {name: value for name, value in options.items() if name in ("title", "markerscale")}
    drawn = figure.legend([*shared.values()], [*shared], loc="outside upper left", ncols=columns, **about)
    if "title" in about:
        drawn.set_title("")
    setattr(drawn, SHARED, shared)


def _look(handle: Any) -> tuple[Any, ...]:
    color = (
        handle.get_color()
        if hasattr(handle, "get_color")
        else getattr(handle, "get_facecolor", lambda: None)()
    )
    style = handle.get_linestyle() if hasattr(handle, "get_linestyle") else ""
    return str(color), str(style), type(handle).__name__


def _constrained(figure: Any) -> bool:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)
