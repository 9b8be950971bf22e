"""The time axis: one scale for all figures of a page, lines and maps alike, which the page can change."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from analyze.plot.room import names_below, points, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALE: ContextVar[str] = ContextVar("time scale of the run that is drawn", default="")
STEPS = "tracer_steps"  # attribute of an axis of time: the first and the last step on it
_ONE = (
    10 / 9
)  # where step 1 lies on a logarithmic axis, in decades from step 0: as matplotlib's `symlog` has it


def time_scale(steps: ArrayLike) -> Literal["linear", "log"]:
    """Scale of the time axis of a run with snapshots at these steps: logarithmic where a third are in its first tenth.

    >>> time_scale([0, 1, 2, 4, 8, 16, 100]), time_scale(range(0, 100, 10))
    ('log', 'linear')
    """
    steps = np.asarray(steps)
    early = len(steps) >= 5 and steps[-1] >= 20 and (steps < steps[-1] / 10).mean() > 1 / 3
    return "log" if early else "linear"


def step_axis(axes: Axes, steps: ArrayLike, label: str = "step") -> None:
    """Label the time axis, with the scale of the run: the same in all figures of it."""
    steps = np.asarray(steps)
    axes.set_xlabel(label)
    if len(steps) == 1:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    if len(steps) < 2:
        return
    first, last = float(steps[0]), float(steps[-1])
    scale = _scale(steps)
    if scale == "log":
        axes.set_xscale("symlog", linthresh=1)
        if first >= 1 and last < 100 * first:
            # One power of ten alone would tell nothing of where the others are.
            locator: Any = axes.xaxis.get_major_locator()
            locator.set_params(subs=(1.0, 2.0, 5.0))
    else:
        axes.xaxis.set_major_locator(_locator())
    axes.set_xlim(*limits(scale, first, last))
    axes.xaxis.set_major_formatter(_formatter())
    setattr(axes.xaxis, STEPS, (first, last))


def _locator() -> Any:
    """Round steps, as many as have room for their numbers."""
    from matplotlib.ticker import MaxNLocator

    class Round(MaxNLocator):
        def tick_values(self, vmin: float, vmax: float) -> Any:
            axis: Any = self.axis
            self.set_params(nbins=min(9, names_below(axis.axes, len(_told(round(vmax))))))
            return super().tick_values(vmin, vmax)

    return Round(steps=[1, 2, 2.5, 5, 10])


def _formatter() -> Any:
    """Steps as numbers; one that has no room beside that to its left is left out."""
    from matplotlib.ticker import Formatter

    class Clear(Formatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return _told(x)

        def format_ticks(self, values: Any) -> list[str]:
            axis: Any = self.axis
            numbers, ends = [_told(step) for step in values], axis.get_view_interval()
            low, high, *places = axis.get_transform().transform([*ends, *values])
            scale = points(axis.axes, axis.axes.bbox.width) / ((high - low) or 1)
            taken = -np.inf
            for k, place in enumerate(places):
                middle, half = (place - low) * scale, width(len(numbers[k]) + 1) / 2
                if middle - half < taken:
                    numbers[k] = ""
                elif low <= place <= high:
                    taken = middle + half
            return numbers

    return Clear()


def _told(step: float) -> str:
    return f"{step:,.10g}"


def limits(scale: str, first: float, last: float) -> tuple[float, float]:
    """Ends of a time axis from the first to the last step.

    >>> limits("linear", 0, 100), limits("log", 0, 100)
    ((-5.0, 105.0), (-0.4, 130.0))
    """
    if scale == "log":
        return first / 1.3 if first >= 1 else first - 0.4, 1.3 * last
    return first - 0.05 * (last - first), last + 0.05 * (last - first)


def columns(steps: ArrayLike) -> np.ndarray:
    """Edges, in steps, of the columns of a map: a snapshot reaches half way to its neighbours, as the axis shows it.

    >>> columns([0, 10, 100])
    array([ -5.,   5.,  55., 105.])
    """
    steps = np.asarray(steps, np.float64)
    if len(steps) == 1:
        return np.array([steps[0] - 1, steps[0] + 1])
    scale = _scale(steps)
    places = _places(steps) if scale == "log" else steps
    middles = (places[1:] + places[:-1]) / 2
    low, high = limits(scale, steps[0], steps[-1])
    return np.concatenate([[low], _steps(middles) if scale == "log" else middles, [high]])


def carried(axes: Axes) -> dict[str, Any]:
    """What the page needs to draw the time axis of an axes on either scale; {} where it has none.

    `scale` is how it is drawn, `linear` and `log` are the ends of the axis on each, in steps.
    """
    shared = axes.get_shared_x_axes().get_siblings(axes)
    steps = next((getattr(one.xaxis, STEPS) for one in shared if hasattr(one.xaxis, STEPS)), None)
    if steps is None:
        return {}
    drawn = "log" if axes.get_xscale() == "symlog" else "linear"
    told: dict[str, Any] = {"scale": drawn}
    for scale in ("linear", "log"):
        ends = axes.get_xlim() if scale == drawn else limits(scale, *steps)
        told[scale] = [float(f"{end:.9g}") for end in ends]
    return told


def _scale(steps: np.ndarray) -> str:
    return SCALE.get() or time_scale(steps)


def _places(steps: np.ndarray) -> np.ndarray:
    return np.where(steps > 1, _ONE + np.log10(np.maximum(steps, 1)), steps * _ONE)


def _steps(places: np.ndarray) -> np.ndarray:
    return np.where(places > _ONE, 10 ** (np.maximum(places, _ONE) - _ONE), places / _ONE)
