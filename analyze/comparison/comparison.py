"""The outcome of a comparison: its table, its correlations, and how to keep and show them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.comparison.plain import plain
from analyze.comparison.runs import Run
from analyze.tables import neutral
from tracer.store.files import claimed, write_whole

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SHOWN = 12


class Comparison:
    """Runs side by side.

    `table` (run, column): title, attributes, targets and measures. `correlations`: `value`, `low`, `high` and
    `n_resamples` (measure, target, statistic); `n_runs` and `n_undefined` (measure, target); `granulated`
    (measure, target, axis) and `sign_error` (measure, target, environment). `skipped`: of each run, the
    metrics it has not, with the reasons.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        correlations: xr.Dataset,
        *,
        runs: Sequence[Run] = (),
        attributes: Sequence[str] = (),
        skipped: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.table, self.correlations = table, correlations
        self.runs, self.attributes = list(runs), list(attributes)
        self.skipped = {name: dict(reasons) for name, reasons in (skipped or {}).items()}

    @property
    def targets(self) -> list[str]:
        """What measures are compared with."""
        return [str(name) for name in self.correlations["target"].values]

    @property
    def measures(self) -> list[str]:
        """Labels of the measures, in the order of the table."""
        return [str(name) for name in self.correlations["measure"].values]

    def ranked(self, target: str, statistic: str = "kendall") -> list[str]:
        """Measures by the size of their correlation with a target, without those that have none."""
        sizes = np.abs(self.correlations["value"].sel(target=target, statistic=statistic).values)
        # A stable order: measures of equal size stay as they are in the table.
        order = np.argsort(-sizes, kind="stable")
        return [self.measures[k] for k in order if not np.isnan(sizes[k])]

    def rows(self, target: str | None = None) -> list[dict[str, Any]]:
        """One row a measure and target, strongest first: what the command line prints."""
        data = self.correlations
        names = [str(name) for name in data["statistic"].values]
        value, low, high = (data[key].values for key in ("value", "low", "high"))
        tau = names.index("kendall")
        rows: list[dict[str, Any]] = []
        for name in [target] if target else self.targets:
            column = self.targets.index(name)
            for measure in self.ranked(name):
                place = self.measures.index(measure), column
                row = dict(zip(names, value[place].tolist(), strict=True))
                row |= {"kendall_low": float(low[place][tau]), "kendall_high": float(high[place][tau])}
                counts = {key: int(data[f"n_{key}"].values[place]) for key in ("runs", "undefined")}
                shown = {key: None if np.isnan(number) else number for key, number in row.items()}
                rows.append({"measure": measure, "target": name, **shown, **counts})
        return rows

    def save(self, path: str | Path) -> Path:
        """Write `runs.csv`, `correlations.csv`, `comparison.json`, `figures/*.svg` and `comparison.html`.

        Errors: ArchiveError if another comparison is being saved there, or nothing can be written.
        """
        from analyze.comparison import page

        folder = Path(path)
        with claimed(folder):
            folder.mkdir(exist_ok=True)
            write_whole(folder / "runs.csv", neutral(self.table).to_csv())
            write_whole(folder / "correlations.csv", neutral(_tidy(self.correlations)).to_csv(index=False))
            write_whole(folder / "comparison.json", json.dumps(plain(self.to_dict()), indent=1))
            page.write(self, folder)
        return folder

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values: `runs`, `correlations`, `settings` and `skipped`."""
        data = self.correlations
        plain_data = {str(name): array.values.tolist() for name, array in data.data_vars.items()}
        labels = {dim: [str(v) for v in data[dim].values] for dim in ("statistic", "axis", "environment")}
        document = {
            measure: {
                target: _cell({name: values[i][j] for name, values in plain_data.items()}, labels)
                for j, target in enumerate(self.targets)
            }
            for i, measure in enumerate(self.measures)
        }
        runs = {str(name): row for name, row in self.table.to_dict("index").items()}
        return {"runs": runs, "correlations": document, "settings": dict(data.attrs), "skipped": self.skipped}

    def __repr__(self) -> str:
        lines = [f"<Comparison: {len(self.table)} runs, {len(self.measures)} measures>"]
        if self.targets:
            rows = self.rows(self.targets[0])[:SHOWN]
            lines += [
                f"  {row['measure']}: Kendall {row['kendall']:.3f} with {row['target']}" for row in rows
            ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def cells(row: dict[str, Any]) -> str:
            low, high = (_shown(row[f"kendall_{end}"]) for end in ("low", "high"))
            values = (row["measure"], _shown(row["kendall"]), f"{low} … {high}", str(row["runs"]))
            return "".join(f"<td>{html.escape(value)}</td>" for value in values)

        shown = self.rows(self.targets[0])[:SHOWN] if self.targets else []
        rows = "".join(f"<tr>{cells(row)}</tr>" for row in shown)
        target = html.escape(self.targets[0]) if self.targets else ""
        head = f"<tr><th>measure</th><th>Kendall with {target}</th><th>95 % interval</th><th>runs</th></tr>"
        count = f"<p>{len(self.table)} runs, {len(self.measures)} measures</p>"
        return f"{count}<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _cell(one: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Everything about one measure and target, by name."""
    keys = ("value", "low", "high", "n_resamples")
    statistics = {
        name: {key: one[key][position] for key in keys} for position, name in enumerate(labels["statistic"])
    }
    return {
        **statistics,
        "n_runs": one["n_runs"],
        "n_undefined": one["n_undefined"],
        "granulated_by_axis": dict(zip(labels["axis"], one["granulated"], strict=True)),
        "sign_error": dict(zip(labels["environment"], one["sign_error"], strict=True)),
    }


def _tidy(data: xr.Dataset) -> pd.DataFrame:
    """One row a measure, target and statistic."""
    values = data[["value", "low", "high", "n_resamples"]].to_dataframe().reset_index()
    counts = data[["n_runs", "n_undefined"]].to_dataframe().reset_index()
    return values.merge(counts, on=["measure", "target"])
