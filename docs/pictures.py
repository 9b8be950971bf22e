"""The pictures of the concepts page: probe, snapshot, site, path."""

from collections.abc import Callable
from html import escape

INK, SOFT, BLUE, ORANGE, GREEN = "#222", "#999", "#9cc3e6", "#f4b96a", "#b5d8a0"


def drawing(width: int, height: int, *shapes: str) -> str:
    """An SVG of shapes on white, so that it reads in any theme."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = f'font-family="sans-serif" font-size="12" fill="{INK}"'
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>'
    )
    return "\n".join(
        [
            f"{head} {style}>",
            marker,
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *shapes,
            "</svg>",
            "",
        ]
    )


def box(x: float, y: float, width: float, height: float, fill: str = "#fff", stroke: str = INK) -> str:
    """A rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="{fill}" stroke="{stroke}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", fill: str = INK) -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a tip."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" marker-end="url(#tip)"/>'


def probe() -> str:
    """A probe is a fixed set of examples; minibatches are what training draws."""
    shapes = [text(20, 24, "training set, by id"), text(20, 164, "test set")]
    for i in range(24):
        shapes.append(box(20 + 22 * i, 34, 18, 18, BLUE if i < 8 else "#fff"))
        shapes.append(box(20 + 22 * i, 174, 18, 18, ORANGE if i < 6 else "#fff"))
    for i in (3, 9, 14, 20):
        shapes.append(arrow(29 + 22 * i, 54, 300 + 0.2 * 22 * i, 92))
    shapes += [
        box(280, 96, 150, 26, GREEN),
        text(355, 113, "minibatch: ids recorded", "middle"),
        text(20, 104, "probe train: always these,"),
        text(20, 120, "looked at in every snapshot"),
        text(20, 212, "probe test"),
    ]
    return drawing(560, 226, *shapes)


def snapshot() -> str:
    """Updates make states; a row tells of each, a snapshot of some."""
    shapes = [text(20, 24, "state after so many updates")]
    taken = (0, 2, 4, 8)
    for s in range(9):
        x = 30 + 58 * s
        shapes += [
            f'<circle cx="{x}" cy="50" r="13" fill="{BLUE if s in taken else "#fff"}" stroke="{INK}"/>',
            text(x, 54, str(s), "middle"),
        ]
        if s < 8:
            shapes.append(arrow(x + 14, 50, x + 43, 50))
        shapes.append(box(x - 14, 80, 28, 16, GREEN))
        if s in taken:
            shapes.append(box(x - 16, 112, 32, 40, BLUE))
    shapes += [
        text(20, 176, "steps/: a row for every update (ids, loss, rate): green"),
        text(
            20,
            194,
            "snapshots, by schedule (outputs, masks, gradients, weights): blue; the first and the last always",
        ),
    ]
    return drawing(660, 208, *shapes)


def site() -> str:
    """A site is one call of a nonlinearity; a call, one execution of a layer; a layer owns parameters."""
    names = (
        ("0 Linear", "call, layer 0", BLUE),
        ("1 ReLU", "site 1", ORANGE),
        ("2 Linear", "call, layer 2", BLUE),
        ("3 ReLU", "site 3", ORANGE),
        ("4 Linear", "call, layer 4", BLUE),
    )
    shapes = [text(20, 24, "the network, row by row")]
    for i, (name, kind, fill) in enumerate(names):
        x = 20 + 106 * i
        shapes += [
            box(x, 40, 84, 34, fill),
            text(x + 42, 61, name, "middle"),
            text(x + 42, 94, kind, "middle"),
        ]
        if i < 4:
            shapes.append(arrow(x + 85, 57, x + 104, 57))
    shapes.append(
        text(
            20,
            126,
            "A ReLU called twice is two sites (1 and 1#2). Each site has units: its outputs for one example.",
        )
    )
    return drawing(640, 140, *shapes)


def path() -> str:
    """The path of an example: which units are on."""
    patterns = {"example 7": ("1011", "0110"), "example 12": ("1011", "0100")}
    shapes = []
    for row, (name, sites) in enumerate(patterns.items()):
        shapes.append(text(20, 46 + 60 * row, name))
        for s, bits in enumerate(sites):
            for u, bit in enumerate(bits):
                x, y = 120 + 170 * s + 32 * u, 28 + 60 * row
                shapes += [
                    box(x, y, 26, 26, ORANGE if bit == "1" else "#fff"),
                    text(x + 13, y + 17, bit, "middle"),
                ]
    shapes += [
        text(180, 18, "site 1", "middle"),
        text(350, 18, "site 3", "middle"),
        text(
            20,
            150,
            "on: pre-activation > 0. Both are on in units 1, 3, 4 of site 1 and 2 of site 3. A byte holds 8 examples.",
        ),
    ]
    return drawing(680, 164, *shapes)


PICTURES: dict[str, Callable[[], str]] = {
    "images/probe.svg": probe,
    "images/snapshot.svg": snapshot,
    "images/site.svg": site,
    "images/path.svg": path,
}
