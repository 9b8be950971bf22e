"""The SVG document of a figure, laid out, drawn and measured by one renderer: each text is measured once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analyze.plot import hover

if TYPE_CHECKING:
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
    try:
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.draw(renderer)
        boxes = hover.outer_boxes(figure)
        renderer.finalize()
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)
    return buffer.getvalue(), boxes
