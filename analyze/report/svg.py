"""A matplotlib figure as a fragment of HTML: inline SVG that shares a page with other figures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from analyze import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 900_000  # characters; beyond this a picture of the figure is smaller and scrolls better


def fragment(draw: Callable[[], Figure], key: str, label: str, drawn: Path | None = None) -> str:
    """A figure as `<svg>` for a page, ids prefixed by `key`; as an embedded PNG where that is far smaller.

    `label` is what a screen reader says. `drawn` is an SVG file of the same figure, which spares drawing it
    again. Nothing in the fragment refers to anything outside it.
    """
    if drawn is not None and drawn.is_file():
        text, figure = drawn.read_text(encoding="utf-8"), None
    else:
        figure = draw()
        text = _svg(figure)
    return inline(text, key, label) if len(text) <= LIMIT else _picture(figure or draw(), label)


def inline(text: str, key: str, label: str) -> str:
    """Turn an SVG document into an element that can stand in HTML beside others.

    >>> text = '<?xml version="1.0"?><svg xmlns="http://w3.org/svg"><g id="a"/><use href="#a"/></svg>'
    >>> inline(text, "cna", "CNA over steps")
    '<svg role="img" aria-label="CNA over steps"><g id="cna-a"/><use href="#cna-a"/></svg>'
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, count=4)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{key}-", text)
    # The page's own paper shows through, which is dark where the reader prefers it.
    text = text.replace('style="fill: #ffffff"', 'style="fill: none"')
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1).strip()


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(plot.STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def _picture(figure: Figure, label: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, transparent=True, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(label)}" src="data:image/png;base64,{data}">'
