"""The tables of docs/format.md, rendered from tracer.spec; `python -m tests.format_tables` writes them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tracer import spec

PAGE = Path(__file__).parents[1] / "docs" / "format.md"
_SECTION = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def level(required: bool) -> str:
    return "MUST" if required else "MAY"


def attributes(entries: Iterable[spec.Attribute]) -> str:
    rows = [(f"`{entry.name}`", entry.type, level(entry.required), entry.meaning) for entry in entries]
    return table(("attribute", "type", "", "meaning"), rows)


def groups() -> str:
    text = ""
    for group in spec.GROUPS:
        meaning = group.meaning[0].upper() + group.meaning[1:]
        text += f"\n### `{group.path}`\n\n{level(group.required)} be there. {meaning}.\n\n"
        arrays = [
            (f"`{a.name}`", a.dtype, ", ".join(a.dims), level(a.required), a.meaning, a.units)
            for a in group.all_arrays()
        ]
        if arrays:
            text += table(("array", "dtype", "dimensions", "", "meaning", "units"), arrays)
        if group.attributes:
            text += ("\n" if arrays else "") + attributes(group.attributes)
    return text + "\n"


TABLES = {
    "root": lambda: attributes(spec.ROOT_ATTRIBUTES),
    "commit": lambda: attributes(spec.COMMIT_RECORD),
    "groups": groups,
}


def rendered(page: str) -> str:
    return _SECTION.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
