"""How much text fits along an axes, before it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIGIT = 0.62  # of the size of letters: how wide a digit is


def lines_beside(axes: Axes) -> int:
    """How many names fit below one another beside an axes: at least two."""
    return max(2, int(points(axes, axes.bbox.height) / (1.2 * _label_size("y"))))


def names_below(axes: Axes, longest: int) -> int:
    """How many names of so many characters fit side by side below an axes: at least two."""
    return max(2, int(points(axes, axes.bbox.width) / width(longest + 1.5)))


def width(characters: float) -> float:
    """Points that so many characters of a number below an axes take."""
    return _DIGIT * _label_size("x") * characters


def points(axes: Axes, pixels: float) -> float:
    """Pixels of the figure of an axes in points."""
    figure = axes.get_figure()
    assert figure is not None
    return 72 / figure.dpi * pixels


def _label_size(axis: str) -> float:
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    sizes: Any = rcParams
    return FontProperties(size=sizes[f"{axis}tick.labelsize"]).get_size_in_points()
