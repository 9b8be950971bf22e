"""What stands along the axes and above the panels: numbers, names and titles."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.plot import hover
from analyze.plot.room import names_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTER = 4.2  # points that a letter of a title takes


def name_ticks(axis: Any, names: Sequence[object] | np.ndarray, limit: int = 24, **style: Any) -> None:
    """Write names at positions 0, 1, ... of an axis, thinned to `limit`, and to what fits side by side.

    Of a long name the end is written, which tells layers apart; who points at it in the report sees it whole.
    """
    if axis.axis_name == "x" and not style.get("rotation"):
        limit = min(
            limit, names_below(axis.axes, max((len(_shortened(str(name))) for name in names), default=1))
        )
    stride = max(1, -(-len(names) // limit))
    shown = range((len(names) - 1) % stride, len(names), stride)  # the last of layers is all of them
    axis.set_ticks(shown, [_shortened(str(names[i])) for i in shown], **style)
    setattr(axis, hover.NAMES, [str(name) for name in names])


def _shortened(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def log_scale(axes: Axes) -> None:
    """Logarithmic vertical axis with plain numbers; what is not positive is left out."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        # matplotlib chooses which ticks have room for a label, but would write 0.8 as 8e-01.
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axes.set_yscale("log", nonpositive="mask")
    axes.yaxis.set_major_formatter(
        lambda x, _: f"{x:g}" if 1e-4 <= x < 1e6 else f"$10^{{{np.log10(x):.0f}}}$"
    )
    axes.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def wrap_titles(figure: Figure) -> None:
    """Break titles that are longer than their panel is wide."""
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is None or not axes.get_title():
            continue
        wide = 72 * figure.get_figwidth() * len(spec.colspan) / spec.get_gridspec().ncols
        lines = axes.get_title().split("\n")
        axes.title.set_text("\n".join(fill(line, int(wide / LETTER)) for line in lines))
