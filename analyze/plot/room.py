"""How much text fits along an axes, before it is drawn, and what is left out where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIGIT = 0.62  # of the size of letters: how wide a digit is


def lines_beside(axes: Axes) -> int:
    """How many names fit below one another beside an axes: at least two."""
    return max(2, int(points(axes, axes.bbox.height) / (1.2 * _label_size("y"))))


def names_below(axes: Axes, longest: int) -> int:
    """How many names of so many characters fit side by side below an axes: at least two."""
    return max(2, int(points(axes, axes.bbox.width) / width(longest + 1.5)))


def letters_across(axes: Axes) -> int:
    """How many letters of a name go into the width of an axes."""
    return int(points(axes, axes.bbox.width) / width(1))


def width(characters: float) -> float:
    """Points that so many characters of a number below an axes take."""
    return _DIGIT * _label_size("x") * characters


def points(axes: Axes, pixels: float) -> float:
    """Pixels of the figure of an axes in points."""
    figure = axes.get_figure()
    assert figure is not None
    return 72 / figure.dpi * pixels


def pick(items: Sequence[Any] | np.ndarray, limit: int) -> list[int]:
    """Positions of at most `limit` items, evenly spread, the first and the last among them.

    >>> pick("abcdefghij", 4)
    [0, 3, 6, 9]
    """
    if len(items) <= limit:
        return list(range(len(items)))
    return [int(i) for i in np.unique(np.linspace(0, len(items) - 1, limit).round())]


def _label_size(axis: str) -> float:
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    sizes: Any = rcParams
    return FontProperties(size=sizes[f"{axis}tick.labelsize"]).get_size_in_points()
