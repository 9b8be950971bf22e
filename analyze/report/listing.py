"""Cards and results as rows and text: what `tracer metrics` and `tracer analyze` print."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import indent, wrap
from typing import TYPE_CHECKING, Any

from analyze.contract import Metric
from analyze.summary import in_words, lines

if TYPE_CHECKING:
    import xarray as xr


def card_row(card: Metric) -> dict[str, Any]:
    """One line of the list of metrics."""
    return {
        "metric": card.name,
        "title": card.title,
        "formula": card.formula,
        "reads": ", ".join(card.reads),
        "cost": card.cost,
        "source": "; ".join(str(reference) for reference in card.reference),
    }


def card_text(card: Metric, width: int | None = None) -> str:
    """The whole card of a metric, for a terminal of so many characters a line."""
    variables = [f"{name} ({', '.join(dims)})" for name, dims in card.variables.items()]
    bounds = {name: card.bounds_of(name) for name in card.variables}
    facts = {
        "formula": card.formula,
        "reads": ", ".join(card.reads),
        "needs": card.needs,
        "sketched": ", ".join(card.sketched),
        "returns": "\n".join(variables),
        "told by": in_words(card.summary or {}),
        "bounds": ", ".join(f"{name} in [{b[0]:g}, {b[1]:g}]" for name, b in bounds.items() if b),
        "options": "\n".join(f"{name} = {value!r}" for name, value in card.options.items()),
        "cost": card.cost,
        "figure": card.reading,
        "source": "\n".join(f"{reference}  {reference.link}".rstrip() for reference in card.reference),
        "code": card.module,
    }
    said = [_fitted(part, width, "  ") for part in card.definition.split(">>>")[0].rstrip().split("\n\n")]
    lines = [f"{card.name}: {card.title}", "", "\n\n".join(said), ""]
    for name, value in facts.items():
        for position, line in enumerate(value.splitlines()):
            head = f"  {name if position == 0 else '':<9}"
            lines.append(head + _fitted(line, width, " " * len(head)).lstrip())
    return "\n".join(lines)


def _fitted(text: str, width: int | None, margin: str) -> str:
    """A paragraph in lines of at most `width` characters, `margin` included; as it is where there is no width."""
    if width is None:
        return indent(text, margin)
    lines = wrap(
        " ".join(text.split()),
        max(width, 30) - len(margin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return indent("\n".join(lines), margin)


def result_rows(results: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """One row per number that tells a result: its first and last value, and how many are undefined."""
    return [line.row() for name, data in results.items() for line in lines(name, data)]
