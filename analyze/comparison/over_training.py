"""The target and the closest measures over the training of the compared runs, as curves by what was varied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyze.comparison.curves import FIXED, Curves
from analyze.comparison.figures import leaders
from analyze.comparison.measures import TARGETS, Kept
from tracer.archive.attributes import shown

if TYPE_CHECKING:
    import pandas as pd

    from analyze.comparison.comparison import Comparison

MEASURES = 5  # beside the target
COLUMN = "measure"


def series(comparison: Comparison, target: str) -> pd.DataFrame:
    """Values over training of a target and of the measures closest to it: a row a run, measure and step.

    Empty where nothing is known of several steps.
    """
    import pandas as pd

    labels = [TARGETS[target], *leaders(comparison, target, MEASURES)]
    metrics = [label.partition(".")[0] for label in labels]
    rows = []
    for run in comparison.runs:
        kept = Kept(run, run.stored(metrics))
        about = run.name, shown(run.path or str(run.analysis))
        for metric, label in zip(metrics, labels, strict=True):
            steps, values = kept.of(metric).get(label, ([], []))
            rows += [
                (*about, step, float("nan"), label, value) for step, value in zip(steps, values, strict=False)
            ]
        kept.write()
    table = pd.DataFrame(rows, columns=[*FIXED, COLUMN, "value"])
    longest = table.dropna(subset="value").groupby(COLUMN, sort=False)["step"].nunique()
    return table[table[COLUMN].map(longest) > 1]


def grouped(comparison: Comparison, table: pd.DataFrame, by: str = "") -> Curves:
    """Curves of what `series` gave, by an attribute; by none of them a line a run."""
    column = f"attribute {by}" if by in table else by
    if by:
        values = table["run"].map(comparison.table[by].astype(object))
        table = table.assign(**{column: values})[[*FIXED, column, COLUMN, "value"]]
    return Curves(table, "", by=(column,) if by else (), labels=(COLUMN,), alike=False)
