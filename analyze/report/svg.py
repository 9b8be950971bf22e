"""A matplotlib figure as a fragment of HTML: inline SVG that shares a page with other figures."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from analyze import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 900_000  # characters; beyond this a picture of the figure is smaller and scrolls better
DARK = (0x16 / 255, 0x19 / 255, 0x1C / 255)  # the page's paper where the reader prefers a dark one
INK = (0xE6 / 255, 0xE3 / 255, 0xDC / 255)  # and its ink
CONTRAST = 4.0  # of a coloured line with dark paper

_SHAPES = frozenset(
    "svg defs style g path use clipPath rect text tspan image circle ellipse line polyline polygon pattern "  # noqa: SIM905
    "linearGradient radialGradient stop filter feColorMatrix marker mask".split()
)
_TAG = re.compile(r"""<(/?)([A-Za-z]+)((?:\s+[A-Za-z][\w:.-]*=(?:"[^"<>]*"|'[^'<]*'))*)\s*(/?)>""")
_ATTRIBUTE = re.compile(r"""([A-Za-z][\w:.-]*)=(?:"([^"]*)"|'([^']*)')""")
_UNSAFE = re.compile(r"url\((?!#)|javascript:|expression|@|\\|behavior", re.IGNORECASE)


def fragment(draw: Callable[[], Figure], key: str, label: str, drawn: Path | None = None) -> str:
    """A figure as `<svg>` for a page, ids prefixed by `key`; as an embedded PNG where that is far smaller.

    `label` is what a screen reader says. `drawn` is an SVG file of the same figure, which spares drawing it
    again where it is nothing but a drawing. Nothing in the fragment refers to anything outside it.
    """
    if drawn is not None and drawn.is_file() and drawn.stat().st_size <= 2 * LIMIT:
        shown = _inline_or_nothing(drawn.read_text(encoding="utf-8", errors="replace"), key, label)
        if shown:
            return shown
    figure = draw()
    text = plot.to_svg(figure)
    return inline(text, key, label) if len(text) <= LIMIT else _picture(figure, label)


def _inline_or_nothing(text: str, key: str, label: str) -> str:
    # One without its end would be looked for to the end of the text, each time.
    ended = all(text.rfind(a) <= text.rfind(b) for a, b in (("<metadata>", "</metadata>"), ("<!--", "-->")))
    if len(text) > LIMIT or "<svg" not in text or not ended:
        return ""
    shown = inline(text, key, label)
    return shown if is_drawing(shown) else ""


def is_drawing(text: str) -> bool:
    """Whether an element is made of the shapes and texts of a figure alone: no script, no link, no other markup.

    >>> is_drawing('<svg><g id="a"><path d="M0 0"/></g></svg>'), is_drawing('<svg onload="x()"></svg>')
    (True, False)
    """
    at, opened = 0, list[str]()
    for tag in _TAG.finditer(text):
        between = text[at : tag.start()]
        closing, name, attributes, empty = tag.groups()
        if name not in _SHAPES or "<" in between or (not opened and (between or at)):
            return False
        if opened[-1:] == ["style"] and _UNSAFE.search(between):
            return False
        if not all(_is_harmless(*one.groups()) for one in _ATTRIBUTE.finditer(attributes)):
            return False
        if closing and (not opened or opened.pop() != name):
            return False
        if not closing and not empty:
            opened.append(name)
        at = tag.end()
    return at == len(text) > 0 and not opened


def _is_harmless(name: str, quoted: str, bare: str) -> bool:
    value = html.unescape(quoted or bare or "")
    if name.lower().endswith("href"):
        return value.startswith(("#", "data:image/png;base64,"))
    return not name.lower().startswith("on") and (name == "data-panel" or not _UNSAFE.search(value))


def inline(text: str, key: str, label: str) -> str:
    """Turn an SVG document into an element that can stand in HTML beside others.

    >>> text = '<?xml version="1.0"?><svg xmlns="http://w3.org/svg"><g id="a"/><use href="#a"/></svg>'
    >>> inline(text, "cna", "CNA over steps")
    '<svg role="img" aria-label="CNA over steps"><g id="cna-a"/><use href="#cna-a"/></svg>'
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, count=4)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{key}-", text)
    # The page's own fonts and paper are used; spaces between elements and turns by nothing say nothing.
    text = re.sub(r""" ?font-family: (?:'[^']*'|[\w -]|, )*;?| transform="rotate\(-?0 [^"]*\"""", "", text)
    text = re.sub(r">\s+<", "><", text).replace('style="fill: #ffffff"', 'style="fill: none"')
    text = re.sub(r"(?<=[\"; ])(stroke|fill): (#[0-9a-f]{6})(?=[\";])", _themed, text)
    text = re.sub(r'<g([^>]*)>(<use [^>]* style="([^"]*)"/>(?:<use [^>]* style="\3"/>)*)</g>', _shared, text)
    # A narrower figure is as wide on the page as its letters have the size of those in the others.
    width = re.match(r'<svg[^>]*? width="([\d.]+)pt"', text)
    share = f' style="--share: {float(width[1]) / (72 * plot.WIDTH):.3f}"' if width else ""
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"{share}', 1).strip()


def on_dark(color: str) -> str:
    """What a colour becomes on dark paper: greys change places, colours become light enough to be seen.

    >>> on_dark("#000000"), on_dark("#56b4e9"), on_dark("#440154")
    ('#e6e3dc', '#56b4e9', '#936c9c')
    """
    shown = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    if max(shown) - min(shown) < 0.06:
        shown = [ink + (paper - ink) * shown[0] for ink, paper in zip(INK, DARK, strict=True)]
    else:
        while (luminance(shown) + 0.05) / (luminance(DARK) + 0.05) < CONTRAST:
            shown = [part + 0.02 * (1 - part) for part in shown]
    return "#" + "".join(f"{round(255 * part):02x}" for part in shown)


def dark_inks(page: str) -> str:
    """CSS that gives the colours of a page's figures their values on dark paper, outside `pale` groups."""
    used = {ink: on_dark(f"#{ink}") for ink in sorted(set(re.findall(r"var\(--ink-([0-9a-f]{6}),", page)))}
    dark = "".join(f"--ink-{ink}:{shown};" for ink, shown in used.items())
    light = "".join(f"--ink-{ink}:initial;" for ink in used)
    return f":root{{{dark}}} .pale{{{light}}}"


def luminance(color: Sequence[float]) -> float:
    """Relative luminance of red, green and blue in [0, 1], as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _themed(match: re.Match[str]) -> str:
    kind, color = match[1], match[2]
    if color == "#000000":
        return f"{kind}: currentColor"
    return match[0] if on_dark(color) == color else f"{kind}: var(--ink-{color[1:]},{color})"


def _shared(match: re.Match[str]) -> str:
    """A group whose marks all have one style states it once."""
    return f'<g{match[1]} style="{match[3]}">' + match[2].replace(f' style="{match[3]}"', "") + "</g>"


def _picture(figure: Figure, label: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, transparent=True, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(label)}" src="data:image/png;base64,{data}">'
