"""The rooms of both packages and how they lie above one another, from the real imports: a picture and a table."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("analyze", "tracer")
WIDTH, ROW, GAP, CHARACTER = 960, 34, 8, 7.2


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")] + [ROOT / "cli.py"]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def room(module: str) -> str:
    """A room is a folder or a loose file of a package.

    >>> room("analyze.replay.paths.chain"), room("cli")
    ('analyze.replay', 'cli')
    """
    return ".".join(module.split(".")[:2])


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else str(node.module) for name in names}
    return found & modules().keys()


@cache
def below() -> dict[str, set[str]]:
    """For each room, the rooms it imports. Front doors only name things: they lead to the recorder and the engine."""
    doors = {"tracer": "tracer.recorder", "analyze": "analyze.engine"}
    rooms: dict[str, set[str]] = {}
    for name, path in modules().items():
        if name not in {*doors, "tracer.__main__"}:
            others = {room(doors.get(other, other)) for other in imported(path)}
            rooms.setdefault(room(name), set()).update(others - {room(name), "tracer.__main__"})
    return rooms


def storeys() -> list[list[str]]:
    """Rooms by height, the highest first: each imports only from below its storey. Rooms in a circle share one."""
    graph = below()
    reach: dict[str, set[str]] = {}
    for start in graph:
        reach[start], waiting = set(), [start]
        while waiting:
            for other in graph[waiting.pop()] - reach[start]:
                reach[start].add(other)
                waiting.append(other)
    circle = {name: min({name} | {other for other in reach[name] if name in reach[other]}) for name in graph}
    joined = {circle[name]: {circle[other] for other in reach[name]} - {circle[name]} for name in graph}
    height: dict[str, int] = {}
    for name in TopologicalSorter(joined).static_order():
        height[name] = 1 + max((height[other] for other in joined[name]), default=-1)
    rows: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    for name in sorted(graph):
        rows[height[circle[name]]].append(name)
    return rows[::-1]


def purpose(name: str) -> str:
    """First line of the docstring of a room."""
    doc = ast.get_docstring(ast.parse(modules()[name].read_text(encoding="utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def picture() -> str:
    """The storeys as SVG."""
    colours = {"analyze": "#dbe9f6", "tracer": "#fdebd0", "cli": "#e3f1dc"}
    boxes, y = [], GAP
    for storey in storeys():
        x: float = GAP
        for name in storey:
            label = name.partition(".")[2] or name
            width = CHARACTER * len(label) + 18
            if x + width > WIDTH - GAP:
                x, y = GAP, y + ROW
            text = f"{name}: {purpose(name)}"
            boxes.append(
                f'<g><title>{escape(text)}</title><rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="26" rx="4" '
                f'fill="{colours[name.partition(".")[0]]}" stroke="#555"/>'
                f'<text x="{x + width / 2:.0f}" y="{y + 17}" text-anchor="middle">{escape(label)}</text></g>'
            )
            x += width + GAP
        y += ROW + GAP
        boxes.append(f'<line x1="{GAP}" x2="{WIDTH - GAP}" y1="{y - 7}" y2="{y - 7}" stroke="#bbb"/>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
            'font-family="sans-serif" font-size="12" fill="#222">',
            f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>',
            *boxes[:-1],
            "</svg>",
            "",
        ]
    )


def page() -> str:
    """The table of rooms, highest first."""
    lines = [
        "# Rooms",
        "",
        "Highest first: a room imports only from rooms below it.",
        "",
        "| room | what it is |",
        "|---|---|",
    ]
    lines += [f"| `{name.replace('.', '/')}` | {purpose(name)} |" for storey in storeys() for name in storey]
    return "\n".join(lines) + "\n"
