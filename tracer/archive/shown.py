"""An archive in a few facts, and in a notebook."""

import html
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.archive import Archive


def facts(archive: "Archive") -> list[tuple[str, str]]:
    """What an archive holds, from its root document alone: no array is read."""
    rows = archive._source.record["rows"]
    streams = [f"{path.removeprefix('probes/')} {n}" for path, n in rows.items() if path != "steps"]
    return [
        ("state", archive.state),
        ("updates", str(max(0, (archive._source.record["committed_step"] or 0)))),
        *(
            [("ranks", f"{len(archive._others) + 1} of {archive.world_size}")]
            if archive.world_size > 1
            else []
        ),
        ("snapshots", ", ".join(streams) or "none"),
        (
            "probes",
            ", ".join(f"{name} ({probe.n}, {probe.split})" for name, probe in archive.probes.items())
            or "none",
        ),
        ("layers", str(len(archive.layers))),
        ("sites", str(len(archive.sites))),
        (
            "parameters",
            f"{sum(prod(row['shape']) for row in archive.tensors if row.get('kind') == 'parameter'):,}",
        ),
    ]


def in_html(path: str, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """A table of facts. Colours are the notebook's own, dark or light."""
    cells = "".join(
        f"<tr><th scope='row' style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in facts
    )
    where = f"<code>{html.escape(path)}</code>"
    caption = f"<caption style='text-align:left'><strong>{html.escape(title)}</strong> {where}</caption>"
    return f"<table>{caption}<tbody>{cells}</tbody></table>"
