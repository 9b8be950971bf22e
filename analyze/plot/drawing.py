"""The SVG document of a figure, laid out, drawn and measured by one renderer: each axes is measured once."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analyze.plot import hover

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 72  # of an SVG document: its unit is the point
MAP_DPI = 150  # of maps over time; anything else in a figure is lines and text


def document(figure: Figure, about: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What `figure.savefig(format="svg", metadata=about, dpi=MAP_DPI)` writes, and `hover.outer_boxes` as it was drawn.

    The figure is laid out for good: with a layout engine set, saving draws all of it twice to the same end.
    """
    from matplotlib.backends.backend_mixed import MixedModeRenderer
    from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG

    canvas, dpi, engine = figure.canvas, figure.dpi, figure.get_layout_engine()
    width, height = figure.get_size_inches()
    buffer = io.StringIO()
    sheet: Any = FigureCanvasSVG(figure)
    figure.dpi = DPI
    renderer: Any = MixedModeRenderer(
        figure,
        width,
        height,
        MAP_DPI,
        RendererSVG(DPI * width, DPI * height, buffer, image_dpi=MAP_DPI, metadata=about),
    )
    sheet.get_renderer = lambda: renderer
    margins: dict[Axes, hover.Margins] = {}
    try:
        if engine is not None:
            with _measured_once(figure, margins) as moved:
                engine.execute(figure)
                if moved():  # ticks that the new places have are not those that were measured
                    engine.execute(figure)
            figure.set_layout_engine(None)
        figure.draw(renderer)
        boxes = hover.outer_boxes(figure, margins)
        renderer.finalize()
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)
    return buffer.getvalue(), boxes


@contextmanager
def _measured_once(figure: Figure, margins: dict[Axes, hover.Margins]) -> Iterator[Callable[[], bool]]:
    """An axes that is asked again where it reaches to answers by its margins: ticks and labels move along with it.

    A layout engine asks time and again, and to measure is most of drawing. Yields whether any has other numbers now
    than those that were measured.
    """
    ticks: dict[Axes, list[float]] = {}  # of the ordinate, whose labels are as wide as their numbers are long
    spines = [(spine, spine.get_in_layout()) for axes in figure.axes for spine in axes.spines.values()]
    for spine, _ in spines:
        spine.set_in_layout(False)  # it measures the ticks again, which the labels are outside of
    for axes in figure.axes:
        vars(axes)["get_tightbbox"] = _once(axes, axes.get_tightbbox, margins, ticks)
    try:
        yield lambda: any(_numbers(axes) != measured for axes, measured in ticks.items())
    finally:
        for axes in figure.axes:
            vars(axes).pop("get_tightbbox", None)
        for spine, measured in spines:
            spine.set_in_layout(measured)


def _once(
    axes: Axes,
    measure: Callable[..., Any],
    margins: dict[Axes, hover.Margins],
    ticks: dict[Axes, list[float]],
) -> Callable[..., Any]:
    def box(renderer: Any = None, *, for_layout_only: bool = False, **how: Any) -> Any:
        if not for_layout_only:
            return measure(renderer, **how)
        now = _numbers(axes)
        if axes not in margins or now != ticks[axes]:
            whole = measure(renderer, for_layout_only=True, **how)
            if whole is None:
                return None
            inner = axes.get_window_extent(renderer)
            margins[axes] = inner.x0 - whole.x0, inner.y0 - whole.y0, whole.x1 - inner.x1, whole.y1 - inner.y1
            ticks[axes] = now
        else:
            locator: Any = axes.get_axes_locator()
            axes.apply_aspect(locator(axes, renderer) if locator else None)
        return hover.around(axes, margins[axes])

    return box


def _numbers(axes: Axes) -> list[float]:
    return list(axes.yaxis.get_majorticklocs())
