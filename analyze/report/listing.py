"""Cards and results as rows and text: what `tracer metrics` and `tracer analyze` print."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import indent
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.contract import Metric

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


def card_text(card: Metric) -> str:
    """The whole card of a metric, for a terminal."""
    variables = [f"{name} ({', '.join(dims)})" for name, dims in card.variables.items()]
    bounds = {name: card.bounds_of(name) for name in card.variables}
    facts = {
        "formula": card.formula,
        "reads": ", ".join(card.reads),
        "needs": card.needs,
        "returns": "\n".join(variables),
        "bounds": ", ".join(f"{name} in [{b[0]:g}, {b[1]:g}]" for name, b in bounds.items() if b),
        "options": "\n".join(f"{name} = {value!r}" for name, value in card.options.items()),
        "cost": card.cost,
        "figure": card.reading,
        "source": "\n".join(f"{reference}  {reference.link}".rstrip() for reference in card.reference),
        "code": card.module,
    }
    lines = [f"{card.name}: {card.title}", "", indent(card.definition.split(">>>")[0].rstrip(), "  "), ""]
    for name, value in facts.items():
        for position, line in enumerate(value.splitlines()):
            lines.append(f"  {name if position == 0 else '':<9}{line}")
    return "\n".join(lines)


def result_rows(results: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """One row per variable: its mean at the first and the last step, its size and its undefined values."""
    rows = []
    for metric, data in results.items():
        for name, array in data.items():
            if array.dtype.kind not in "fiu":
                continue
            in_time = "step" in array.dims and array.sizes["step"] > 0
            rows.append(
                {
                    "metric": metric,
                    "variable": str(name),
                    "first": defined_mean(array.isel(step=0)) if in_time else None,
                    "last": defined_mean(array.isel(step=-1) if in_time else array),
                    "values": array.size,
                    "undefined": int(np.isnan(array).sum()) if array.dtype.kind == "f" else 0,
                }
            )
    return rows


def defined_mean(array: xr.DataArray) -> float | None:
    """Mean of the values that are not NaN, in float64; None where there is none."""
    numbers = np.asarray(array, np.float64)
    defined = numbers[~np.isnan(numbers)]
    return float(defined.mean()) if defined.size else None
