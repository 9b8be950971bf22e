"""The target and the closest measures over the training of the compared runs, as curves by what was varied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyze.comparison.curves import FIXED, Curves
from analyze.comparison.figures import leaders
from analyze.comparison.measures import TARGETS, Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analyze.comparison.comparison import Comparison

MEASURES = 5  # beside the target
COLUMN = "measure"


def over_training(comparison: Comparison, target: str, by: str = "") -> Curves | None:
    """Curves of a target and of the measures closest to it, grouped by an attribute; None where nothing has steps."""
    import pandas as pd

    labels = [TARGETS[target], *leaders(comparison, target, MEASURES)]
    rows = []
    for run in comparison.runs:
        kept = Kept(run, run.stored())
        about = run.name, run.path or str(run.analysis)
        for label in labels:
            steps, values = kept.of(label.partition(".")[0]).get(label, ([], []))
            rows += [
                (*about, step, float("nan"), label, value) for step, value in zip(steps, values, strict=False)
            ]
        kept.write()
    table = pd.DataFrame(rows, columns=[*FIXED, COLUMN, "value"])
    longest = table.groupby(COLUMN, sort=False)["step"].nunique()
    table = table[table[COLUMN].map(longest) > 1]
    if table.empty:
        return None
    column = f"attribute {by}" if by in table else by
    if by:
        table.insert(len(FIXED), column, table["run"].map(comparison.table[by].astype(object)))
    return Curves(table, "", by=(column,) if by else (), labels=(COLUMN,), alike=False)


def draw(comparison: Comparison, figure: Figure, target: str, by: str = "") -> None:
    """The same as a figure."""
    curves = over_training(comparison, target, by)
    if curves is not None:
        curves.draw(figure)
