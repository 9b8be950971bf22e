"""What stands along the axes and above the panels: numbers, names and titles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.plot import hover
from analyze.plot.room import letters_across, lines_beside, names_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTER = 4.2  # points that a letter of a title takes
PANEL = 0.86  # of the width of a column, without what stands between panels
LEAST, MOST = 14, 28  # characters of a name beside an axes
_EASY = 1e-4, 1e6  # the largest number of an axis that needs no power
_SHORT = 4  # of a word that was cut


def name_ticks(axis: Any, names: Sequence[object] | np.ndarray, limit: int = 24, **style: Any) -> None:
    """Write names at positions 0, 1, ... of an axis, thinned to `limit`, and to what fits side by side.

    The longest words of a long name are cut, so that numbers tell layers apart; who points at it in the report sees
    it whole. Names beside a panel take two fifths of its width at most.
    """
    room = int(letters_across(axis.axes) * 0.4) if axis.axis_name == "y" else MOST
    short = [_shortened(str(name), max(LEAST, min(room, MOST))) for name in names]
    if axis.axis_name == "x" and not style.get("rotation"):
        limit = min(limit, names_below(axis.axes, max(map(len, short), default=1)))
    stride = max(1, -(-len(names) // limit))
    shown = range((len(names) - 1) % stride, len(names), stride)  # the last of layers is all of them
    axis.set_ticks(shown, [short[i] for i in shown], **style)
    setattr(axis, hover.NAMES, [str(name) for name in names])


def _shortened(name: str, limit: int) -> str:
    """A name of at most so many characters: its longest words lose their ends, then it loses what comes last.

    >>> _shortened("12.convolution conv2d 8→8 3×3", 24), _shortened("12.convolution conv2d 8→8 3×3", 14)
    ('12.convo… conv2d 8→8 3×3', '12.con… conv2d')
    """
    parts = re.split(r"([^\W\d]{5,})", name)
    words = range(1, len(parts), 2)
    while (over := sum(map(len, parts)) - limit) > 0 and words:
        longest = max(words, key=lambda k: len(parts[k]))
        if len(parts[longest]) <= _SHORT:
            break
        parts[longest] = parts[longest].rstrip("…")[: max(_SHORT - 1, len(parts[longest]) - over - 1)] + "…"
    whole = "".join(parts)
    if len(whole) <= limit:
        return whole
    fewer = name.rpartition(" ")[0]
    return _shortened(fewer, limit) if fewer else "…" + whole[1 - limit :].lstrip("….")


def fit_numbers(axes: Axes) -> None:
    """Let no number of an axis stand in another or in the title.

    Very small and very large ones are written in full, not as parts of a power above the axis; an axis that is
    logarithmic on both sides of 0, which has a number at every power, has as many as there is room for.
    """
    from matplotlib.ticker import ScalarFormatter

    for axis in (axes.xaxis, axes.yaxis):
        size = np.abs(axis.get_view_interval()).max()
        if isinstance(axis.get_major_formatter(), ScalarFormatter) and not _EASY[0] <= size < _EASY[1]:
            axis.set_major_formatter(
                lambda value, _: re.sub(r"e([-+])0*", r"e\1", f"{value:.3g}").replace("-", "−")
            )
    if axes.get_yscale() == "symlog":
        locator: Any = axes.yaxis.get_major_locator()
        locator.set_params(numticks=max(4, lines_beside(axes) // 2))


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
        wide = PANEL * 72 * figure.get_figwidth() * len(spec.colspan) / spec.get_gridspec().ncols
        lines = axes.get_title().split("\n")
        axes.title.set_text("\n".join(fill(line, int(wide / LETTER)) for line in lines))
