"""The outcome of a comparison: its table, its correlations, and how to keep and show them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.comparison.inference import Measured, answer
from analyze.comparison.measures import WORDS
from analyze.comparison.notes import notes
from analyze.comparison.plain import plain
from analyze.comparison.rank_correlation import QUANTILE
from analyze.comparison.runs import Run
from analyze.tables import neutral
from tracer.errors import how_many
from tracer.store.files import claimed, write_whole

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SHOWN = 12
SIGNED = ("pearson", "spearman", "kendall", "granulated")  # that turn round with their measure


class Comparison:
    """Runs side by side.

    `table` (run, column): title, attributes, targets and measures. `correlations`: `value`, `low`, `high` and
    `n_resamples` (measure, target, statistic); `n_runs` and `n_undefined` (measure, target); `granulated`
    (measure, target, axis) and `sign_error` (measure, target, environment). `skipped`: of each run, the
    metrics it has not, with the reasons. `unread`: a sentence on each run that was named and cannot be read.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        correlations: xr.Dataset,
        *,
        runs: Sequence[Run] = (),
        attributes: Sequence[str] = (),
        skipped: Mapping[str, Mapping[str, str]] | None = None,
        unread: Sequence[str] = (),
        passed: Sequence[str] = (),
    ) -> None:
        self.table, self.correlations = table, correlations
        self.runs, self.attributes = list(runs), list(attributes)
        self.skipped = {name: dict(reasons) for name, reasons in (skipped or {}).items()}
        self.unread, self._passed = list(unread), list(passed)

    @property
    def targets(self) -> list[str]:
        """What measures are compared with."""
        return [str(name) for name in self.correlations["target"].values]

    @property
    def measures(self) -> list[str]:
        """Labels of the measures, in the order of the table."""
        return [str(name) for name in self.correlations["measure"].values]

    def ranked(self, target: str) -> list[str]:
        """Measures that compete for a target, the least likely chance first; those that order runs alike once.

        By chance and not by correlation, since a measure that few of the runs have orders these few well easily.
        """
        data = self.correlations.sel(target=target)
        sizes = np.abs(data["value"].sel(statistic="kendall").values)
        chances = np.nan_to_num(data["p"].values, nan=1.0)
        first = data["alias_of"].values
        # A stable order: where both are equal, measures stay as they are in the table.
        order = np.lexsort((-sizes, chances))
        return [self.measures[k] for k in order if not np.isnan(sizes[k]) and first[k] == k]

    def aliases(self, measure: str, target: str) -> list[str]:
        """Other measures that compete for the target and order the runs as this one does, or the other way round."""
        first = self.correlations["alias_of"].sel(target=target).values
        place = self.measures.index(measure)
        return [name for k, name in enumerate(self.measures) if first[k] == place and k != place]

    def apart(self, target: str) -> dict[str, str]:
        """Measures that do not compete for a target, with the reason, the closest first."""
        data = self.correlations.sel(target=target)
        sizes = np.nan_to_num(np.abs(data["value"].sel(statistic="kendall").values), nan=-1.0)
        reasons = data["apart"].values
        return {self.measures[k]: str(reasons[k]) for k in np.argsort(-sizes, kind="stable") if reasons[k]}

    @property
    def answer(self) -> str:
        """In a sentence: which measures follow the first target, or why that cannot be told from these runs."""
        return self.answer_for(self.targets[0]) if self.targets else ""

    def answer_for(self, target: str) -> str:
        """The same of any target."""
        names = self.ranked(target)
        every = len(names) + sum(len(self.aliases(name, target)) for name in names)
        data = self.correlations.sel(target=target)
        competing = data["n_runs"].values[data["apart"].values == ""]
        return answer(
            WORDS[target],
            self.table[target],
            [self._measured(name, target) for name in names],
            competing.tolist(),
            every,
        )

    def _measured(self, name: str, target: str) -> Measured:
        one = self.correlations.sel(target=target, measure=name)
        p, low, high = (float(one[key]) for key in ("p_corrected", "joint_low", "joint_high"))
        return Measured(name, float(one["value"].sel(statistic="kendall")), p, low, high, int(one["n_runs"]))

    @property
    def notes(self) -> list[str]:
        """What a reader should know before believing any of it: see `analyze.comparison.notes`."""
        known = notes(self.table, self.attributes, self.measures, self.targets, self.runs)
        return [*self.unread, *self._passed, *known]

    @cached_property
    def turned(self) -> xr.Dataset:
        """`correlations` with every measure that falls as a target grows turned round: all that follow it rise with it.

        `sign` is -1 where a measure was turned. Of turned measures only the mean of sign errors has an interval.
        """
        import xarray as xr

        data = self.correlations
        sign = xr.where(data["value"].sel(statistic="kendall", drop=True) < 0, -1.0, 1.0)
        error = xr.where(sign < 0, 1 - data["sign_error"], data["sign_error"])
        value, low, high = (data[key].copy() for key in ("value", "low", "high"))
        for name in SIGNED:
            at = {"statistic": name}
            value.loc[at], low.loc[at], high.loc[at] = (
                value.sel(at) * sign,
                xr.where(sign < 0, -data["high"].sel(at), low.sel(at)),
                xr.where(sign < 0, -data["low"].sel(at), high.sel(at)),
            )
        at = {"statistic": "sign_error_mean"}
        value.loc[at] = xr.where(sign < 0, 1 - value.sel(at), value.sel(at))
        low.loc[at] = xr.where(sign < 0, 1 - data["high"].sel(at), low.sel(at))
        high.loc[at] = xr.where(sign < 0, 1 - data["low"].sel(at), high.sel(at))
        for name in ("sign_error_90", "sign_error_max"):
            at = {"statistic": name}
            sorted_errors = np.sort(error.values, -1)
            known = (~np.isnan(sorted_errors)).sum(-1)
            share = 1.0 if name == "sign_error_max" else QUANTILE
            place = np.clip(np.ceil(share * known).astype(int) - 1, 0, max(0, error.sizes["environment"] - 1))
            if error.sizes["environment"]:
                worst = np.take_along_axis(sorted_errors, place[..., None], -1)[..., 0]
                value.loc[at] = np.where(sign.values < 0, worst, value.sel(at))
            for end in (low, high):
                end.loc[at] = xr.where(sign < 0, np.nan, end.sel(at))
        return data.assign(value=value, low=low, high=high, sign_error=error, sign=sign)

    def rows(self, target: str | None = None) -> list[dict[str, Any]]:
        """One row a measure and target, the least likely chance first, those apart last: what the command line prints.

        Numbers are of the measure turned so that it rises with the target; `falls` says which were. `also` names those
        that order the runs alike, `apart` says why a measure does not compete.
        """
        data = self.turned
        names = [str(name) for name in data["statistic"].values]
        rows: list[dict[str, Any]] = []
        for name in [target] if target else self.targets:
            for measure in (*self.ranked(name), *self.apart(name)):
                one = data.sel(target=name, measure=measure)
                row = dict(zip(names, one["value"].values.tolist(), strict=True))
                tau = one.sel(statistic="kendall")
                row |= {"kendall_low": float(tau["low"]), "kendall_high": float(tau["high"])}
                row["p_corrected"] = float(one["p_corrected"])
                counts = {key: int(one[f"n_{key}"]) for key in ("runs", "undefined")}
                shown = {key: None if np.isnan(number) else number for key, number in row.items()}
                about = {"falls": bool(one["sign"] < 0), "also": ", ".join(self.aliases(measure, name))}
                rows.append(
                    {
                        "measure": measure,
                        "target": name,
                        **shown,
                        **counts,
                        **about,
                        "apart": str(one["apart"].item()),
                    }
                )
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
        """Everything, as plain values: `answers`, `notes`, `runs`, `correlations`, `settings` and `skipped`."""
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
        answers = {target: self.answer_for(target) for target in self.targets}
        about = {"answers": answers, "notes": self.notes}
        return {
            **about,
            "runs": runs,
            "correlations": document,
            "settings": dict(data.attrs),
            "skipped": self.skipped,
        }

    @property
    def _size(self) -> str:
        return f"{how_many(len(self.table), 'run')}, {how_many(len(self.measures), 'measure')}"

    def __repr__(self) -> str:
        lines = [f"<Comparison: {self._size}>", f"  {self.answer}"]
        if self.targets:
            rows = self.rows(self.targets[0])[:SHOWN]
            lines += [
                f"  {row['measure']}: Kendall {_shown(row['kendall'])} with {row['target']}" for row in rows
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
        count = f"<p>{html.escape(self.answer)} {self._size}.</p>"
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
        **{key: one[key] for key in ("p", "p_corrected", "joint_low", "joint_high", "apart")},
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
