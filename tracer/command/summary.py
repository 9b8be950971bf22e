"""What `tracer info` prints: the summary of an archive as text."""

from typing import Any

from tracer.archive.summary import duration, named
from tracer.command.console import pairs, table
from tracer.errors import byte_size


def describe(summary: dict[str, Any]) -> str:
    """The summary as text for a terminal."""
    trained = _told(summary["trained"])
    blocks = [
        f"{summary['path']}  ({summary['state']})",
        "trained\n" + pairs(_readable(trained)),
        "recorded\n" + pairs(_readable({k: v for k, v in summary["recorded"].items() if v is not None})),
    ]
    for name in ("layers", "streams", "probes"):
        rows = [_readable(row) for row in summary[name]]
        if rows:
            blocks.append(name + "\n" + _indent(table(rows)))
    blocks.append("provenance\n" + pairs(_provenance(summary["provenance"])))
    return "\n\n".join(blocks)


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts for people: what is not known left out, mappings in a line."""
    told = {name: named(value) if isinstance(value, dict) else value for name, value in facts.items()}
    return {name: value for name, value in told.items() if value is not None and value != ""}


def _provenance(provenance: dict[str, Any]) -> dict[str, Any]:
    told = _told(provenance)
    if isinstance(told.get("memory"), int):
        told["memory"] = byte_size(told["memory"])
    if provenance.get("git_dirty") is False:
        told["git_dirty"] = "no"
    return told


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """The same row with bytes, times and counts written for people."""
    words = {key.replace("_", " "): value for key, value in row.items() if key != "seconds"}
    if isinstance(row.get("seconds"), float):
        words["duration"] = duration(row["seconds"])
    if isinstance(row.get("bytes"), int):
        words["bytes"] = byte_size(row["bytes"])
    if isinstance(words.get("parameters"), int):
        words["parameters"] = f"{words['parameters']:,}"
    return words


def _indent(block: str) -> str:
    return "\n".join("  " + line for line in block.splitlines())
