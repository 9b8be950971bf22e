"""Results of an analysis: one labelled Dataset for each metric, and what was skipped and why."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.tables import PROVENANCE, RUN, tidy
from tracer.errors import MissingTraceError, did_you_mean
from tracer.store.files import claimed

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from analyze.contract import Metric
    from analyze.findings import Finding
    from tracer.archive import Archive


class Results(Mapping[str, "xr.Dataset"]):
    """Metric name to Dataset, with provenance in the attributes of each.

    skipped: name to reason. coming: names of metrics that are still being computed. cards: those of metrics that
    were handed to `analyze.run` as functions, such as one's own in a notebook, by name.
    """

    def __init__(
        self,
        datasets: Mapping[str, xr.Dataset],
        skipped: Mapping[str, str] | None = None,
        *,
        archive: Archive | None = None,
        coming: Sequence[str] = (),
        cards: Mapping[str, Metric] | None = None,
    ) -> None:
        self._datasets = dict(datasets)
        self.cards = dict(cards or {})
        self.coming = tuple(coming)
        self.skipped = dict(skipped or {})
        self.archive = archive

    def __getitem__(self, name: str) -> xr.Dataset:
        if name in self._datasets:
            return self._datasets[name]
        if name in self.skipped:
            raise MissingTraceError(f"{name} was skipped: {self.skipped[name]}")
        raise MissingTraceError(f"no result is called {name!r}; {did_you_mean(name, self._datasets)}")

    def __contains__(self, name: object) -> bool:
        return name in self._datasets

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """For each metric: run, archive digest, version, options, when."""
        names = (*PROVENANCE, "options", "created", "reference")
        return {
            metric: {name: data.attrs[name] for name in names if name in data.attrs}
            for metric, data in self._datasets.items()
        }

    @property
    def findings(self) -> list[Finding]:
        """What can be said of the run in sentences, with numbers and their intervals: see `analyze.findings`."""
        from analyze.findings import findings

        return findings(self)

    def summary(self) -> pd.DataFrame:
        """The numbers that tell each result, as its metric declares them: one row a number, named in full.

        Columns: `metric`, `variable`, `of` (its labels), `first` (first defined value; NaN without steps), `last` (at
        the last snapshot), `units`, `n` (examples or pairs behind the last one, empty where none are counted) and
        `undefined` (snapshots).
        """
        from analyze.summary import table

        return table(self._datasets)

    def to_parquet(self, path: str | Path) -> None:
        """Write `to_dataframe` as one Parquet file; ImportError without the extra `parquet`."""
        self.to_dataframe().to_parquet(path, index=False)

    def to_dataframe(self, *names: str) -> pd.DataFrame:
        """One row a value: `metric`, `variable`, the labels of its dimensions, `value`; of all metrics, or of some.

        Columns of dimensions a variable does not have are empty. `attrs` of the table say of which run it is.
        MissingTraceError for a result that is not there.
        """
        import pandas as pd

        chosen = {name: self[name] for name in names or self}
        frames = [tidy(data).assign(metric=name) for name, data in chosen.items()]
        if not frames:
            return pd.DataFrame(columns=["metric", "variable", "value"])
        table = pd.concat(frames, ignore_index=True)
        middle = [name for name in table.columns if name not in ("metric", "variable", "value")]
        table = table[["metric", "variable", *middle, "value"]]
        table.attrs |= {key: text for key, text in self._of_run().items() if text}
        return table

    def _of_run(self) -> dict[str, str]:
        """Name, path and attributes of the run, as the results say."""
        first = next(iter(self._datasets.values()), None)
        return {} if first is None else {name: str(first.attrs.get(name, "")) for name in RUN}

    def figure(self, name: str) -> Figure:
        """The metric's own figure, as the report shows it; a notebook displays it.

        MissingTraceError for a result that is not there, or whose metric is unknown here or draws nothing.
        """
        from analyze import plot
        from analyze.catalogue import available_metrics, card_of

        data, drawn = self[name], card_of(name, available_metrics() | self.cards).plot
        if drawn is None:
            raise MissingTraceError(
                f"metric {name!r} has no figure; plot its variables, such as results[{name!r}]"
            )
        return plot.draw(drawn, data)

    def save(self, path: str | Path) -> Path:
        """Write `results.zarr`, `summary.json`, `tables/`, `figures/` and `report.html` to a directory.

        Errors: ArchiveError if another analysis writes there, or nothing can be written.
        """
        from analyze.report.save import save

        with claimed(path):
            return save(self, Path(path))

    def __repr__(self) -> str:
        lines = [f"<Results: {len(self)} metrics, {len(self.skipped)} skipped>"]
        lines += [f"  {name}: {_shape(data)}" for name, data in self._datasets.items()]
        lines += [f"  {name} skipped: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table of the metrics, in the notebook's own colours; no value is read."""
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th scope='row' {left}>{html.escape(name)}</th>"
            f"<td {left}>{html.escape(str(data.attrs.get('meaning', '')))}</td>"
            f"<td {left}>{html.escape(_shape(data))}</td></tr>"
            for name, data in self._datasets.items()
        )
        head = "".join(f"<th scope='col' {left}>{name}</th>" for name in ("metric", "meaning", "variables"))
        caption = f"<caption {left}><strong>Results</strong>, {len(self)} metrics</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        if not self.skipped:
            return table
        reasons = "".join(
            f"<li><code>{html.escape(name)}</code>: {html.escape(str(reason))}</li>"
            for name, reason in self.skipped.items()
        )
        return f"{table}<details><summary>{len(self.skipped)} skipped</summary><ul>{reasons}</ul></details>"


def load(path: str | Path) -> Results:
    """Results saved in a directory, as `Results.save` or `analyze.run(output=...)` left them.

    Raises MissingTraceError where the directory holds none.
    """
    from analyze.report.save import read_skipped
    from analyze.saved.store import ResultStore

    store = ResultStore(path)
    names = store.names()
    if not names:
        raise MissingTraceError(f"{path} holds no results; write some with Results.save or `tracer analyze`")
    return Results({name: store.read(name) for name in names}, read_skipped(Path(path)))


def _shape(data: xr.Dataset) -> str:
    return "; ".join(
        f"{name} ({', '.join(f'{dim} {array.sizes[dim]}' for dim in array.dims)})"
        for name, array in data.data_vars.items()
    )
