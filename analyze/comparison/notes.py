"""What a reader should know of the compared runs before believing any of the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analyze.catalogue import available_metrics
from analyze.comparison.competition import of_network
from analyze.comparison.runs import Run
from tracer.errors import first_of

if TYPE_CHECKING:
    import pandas as pd

UNFINISHED = {"interrupted": "interrupted", "recording": "still being recorded, or killed"}


def losses(attributes: Mapping[str, Sequence[Any]]) -> list[str]:
    """Names of the losses the runs were trained with, of those whose loss is known.

    >>> losses({"loss": ["mse_loss", None, "cross_entropy", "mse_loss"]})
    ['cross_entropy', 'mse_loss']
    """
    return sorted({name for name in attributes.get("loss", ()) if isinstance(name, str)})


def notes(table: pd.DataFrame, attributes: Sequence[str], measures: Sequence[str], targets: Sequence[str],
          runs: Sequence[Run]) -> list[str]:  # fmt: skip
    """A sentence each: runs that are the same, unfinished, of other losses, options or attributes than the rest."""
    return [
        *_twins(table, measures, targets),
        *_losses({name: table[name].tolist() for name in attributes}),
        *_unfinished(runs),
        *_options(runs),
        *_lacking(table, attributes),
    ]


def _twins(table: pd.DataFrame, measures: Sequence[str], targets: Sequence[str]) -> Iterator[str]:
    """Runs with the same numbers, some of them of the network: those of the data alone are equal in any two runs."""
    cards = available_metrics()
    trained = [name for name in measures if name in table and of_network(name, cards)]
    columns = table[[*trained, *(name for name in targets if name in table)]]
    twins = columns[columns.duplicated(keep=False) & table[trained].notna().any(axis=1)]
    if len(twins):
        yield f"{', '.join(map(str, twins.index))} have the same numbers throughout: they count as several runs."


def _losses(attributes: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    names = losses(attributes)
    if len(names) > 1:
        yield (
            f"The runs have different losses ({first_of(names)}): neither the loss nor the gap in it is compared, and "
            "measures made of losses mean different things."
        )


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    for state, words in UNFINISHED.items():
        names = [run.name for run in runs if run.facts.get("state") == state]
        if names:
            yield f"{first_of(names)}: {words}; the last snapshot counts as the end of training."


def _options(runs: Sequence[Run]) -> Iterator[str]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        for metric, options in run.otherwise.items():
            left_out = run.skipped.get(metric, "")
            outcome = f"left out: {left_out}" if left_out else "computed again with the defaults"
            found.setdefault((metric, options, outcome), []).append(run.name)
    for (metric, options, outcome), names in found.items():
        yield f"{first_of(names)}: {metric} was saved with {options}, and is {outcome}."


def _lacking(table: pd.DataFrame, attributes: Sequence[str]) -> Iterator[str]:
    without: dict[tuple[str, ...], list[str]] = {}
    for name in attributes:
        lacking = [str(run) for run, value in table[name].items() if value is None or value != value]
        if 0 < len(lacking) < len(table):
            without.setdefault(tuple(lacking), []).append(repr(name))
    for runs, names in without.items():
        what = f"attribute {names[0]}, so that it is no axis; give it"
        if len(names) > 1:
            what = f"attributes {', '.join(names)}, so that they are no axes; give them"
        yield f"{first_of(runs)}: no {what} with attributes=."
