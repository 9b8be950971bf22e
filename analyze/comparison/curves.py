"""One measure over the training of many runs: a tidy table, and a figure coloured by what was varied."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.catalogue import available_metrics, card_of
from analyze.comparison.patterns import runs_at
from analyze.comparison.runs import Run
from analyze.engine.distribute import Workers, by_turns, recruit
from analyze.engine.progress import Progress, shown
from analyze.saved.store import ResultStore
from tracer.archive import attributes
from tracer.errors import ArgumentError, MissingTraceError, did_you_mean, how_many

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

PARTS = ("layer", "site", "place")  # of a network, which differ between architectures
WHOLE = "all"
ABSENT = "not said"  # of a run without the attribute by which runs are grouped
MOST = 24  # labels of a dimension that are shown side by side
ROOM = 30  # characters of a title above one of three panels
FIXED = ("run", "path", "step", "epoch")
Axis = Literal["step", "epoch"]


def curves(
    runs: str | Path | Sequence[str | Path],
    measure: str,
    *,
    by: str | Sequence[str] | None = None,
    x: Axis = "step",
    jobs: int = 1,
    memory: int | str = "2GB",
    progress: Progress | None = None,
    **labels: Any,
) -> Curves:
    """A variable of a metric over the training of many runs: `curves("runs/*.zarr", "stiffness.cosine", by="width")`.

    `runs` are paths of archives or of their analyses, patterns, or directories of archives. `measure` is
    `metric.variable`, or a metric of one variable. Keywords choose labels of its dimensions, one or a list:
    `pair="train-train"`, `layer="fc1"`. Of `layer` and `site` the whole network is taken unless one is chosen,
    where the metric has it, else the last one. Other dimensions stay, as columns of the table and panels of the
    figure. `by` names attributes of the runs: runs that agree in them are one group, one colour, and if they are
    several, a band. What an analysis lacks is computed and saved beside its archive, by `jobs` processes.

    Errors: MissingTraceError for an unknown metric, variable, label or attribute, a variable without steps, and where
    no run has the measure; ArchiveError for a path where nothing is. A run that cannot be read is `skipped`.
    """
    metric, variable = _named(measure)
    named = runs_at(runs)
    _check_names(named.runs)
    with recruit(jobs) as workers, shown(progress) as told:
        _compute(named.runs, metric, workers, memory, told)
    named.readable()
    found, skipped = list[Any](), dict(named.unread)
    for run in named.runs:
        if not run.stored([metric]):
            skipped[run.name] = run.skipped.get(metric, f"{run.analysis} holds no result of it")
            continue
        data = ResultStore(run.analysis).read(metric)
        found.append((run.name, attributes.shown(run.path or str(run.analysis)), run.attributes, data))
    if not found:
        reason = next(iter(skipped.values()), "no run was named")
        raise MissingTraceError(f"none of {how_many(len(skipped), 'run')} has {metric}: {reason}")
    return gathered(found, metric, variable, by=by, x=x, labels=labels, skipped=skipped)


def gathered(
    found: Sequence[tuple[str, str, Mapping[str, Any], xr.Dataset]],
    metric: str,
    variable: str,
    *,
    by: str | Sequence[str] | None = None,
    x: Axis = "step",
    labels: Mapping[str, Any] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Curves:
    """Curves of results that are there: of each run its name, path, attributes and the Dataset of the metric."""
    import pandas as pd

    attributes = list(dict.fromkeys(name for _, _, given, _ in found for name in given))
    groups = [by] if isinstance(by, str) else list(by or ())
    for name in groups:
        if name not in attributes:
            raise MissingTraceError(
                f"no run has an attribute called {name!r}; {did_you_mean(name, attributes)}"
            )
    tables, about = [], dict[str, str]()
    for name, path, given, data in found:
        table = series(data, metric, variable, labels or {})
        about |= table.attrs
        kept = [column for column in table.columns if column not in ("step", "epoch", "value")]
        # A run may have been given an attribute that is called like a column.
        known = {_column(one): given.get(one, ABSENT if one in groups else None) for one in attributes}
        head = pd.DataFrame(
            {"run": name, "path": path, **table[["step", "epoch"]]}, columns=list(FIXED), index=table.index
        )
        rest = pd.DataFrame({key: [value] * len(table) for key, value in known.items()}, index=table.index)
        tables.append(pd.concat([head, rest, table[[*kept, "value"]]], axis=1))
    whole = pd.concat(tables, ignore_index=True)
    columns = [*FIXED, *map(_column, attributes)]
    sides = [name for name in whole.columns if name not in (*columns, "value")]
    return Curves(
        table=whole[[*columns, *sides, "value"]],
        measure=f"{metric}.{variable}",
        by=tuple(map(_column, groups)),
        labels=tuple(sides),
        x=x,
        note=about.get("note", ""),
        skipped=dict(skipped or {}),
    )


@dataclass(frozen=True)
class Curves:
    """What `curves` returns.

    table: one row a value: run, path, step, epoch, attributes, labels, value. by: attributes that make groups.
    labels: columns that tell panels apart, of one scale if they are `alike`. note: which part of the network it is of.
    skipped: runs without it, and why.
    """

    table: pd.DataFrame
    measure: str
    by: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    x: Axis = "step"
    note: str = ""
    skipped: dict[str, str] = field(default_factory=dict)
    alike: bool = True

    def bands(self) -> pd.DataFrame:
        """Mean, lowest and highest value of the runs of each group: `by`, labels, x, mean, low, high, n_runs.

        Runs have snapshots at steps of their own: at each step of any of a group, those that have begun and not
        ended there count, on the straight line between their snapshots. NaN counts as no value.
        """
        import pandas as pd

        keys = [*(self.by or ("run",)), *self.labels]
        rows = []
        for key, table in self.table.groupby(keys, sort=False, dropna=False):
            place = np.unique(table[self.x].to_numpy(float))
            runs = [_between(place, one, self.x) for _, one in table.groupby("run", sort=False)]
            for at, values in zip(place, np.stack(runs, 1), strict=True):
                values = values[~np.isnan(values)]
                if len(values):
                    told = float(values.mean()), float(values.min()), float(values.max()), len(values)
                    rows.append((*_tuple(key), at, *told))
        return pd.DataFrame(rows, columns=[*keys, self.x, "mean", "low", "high", "n_runs"])

    def figure(self) -> Figure:
        """One panel for each label; a colour for each group, its mean, and from its lowest run to its highest."""
        return plot.styled(self.draw)

    def save(self, path: str | Path) -> Path:
        """Write the figure as SVG, or the table as CSV, by the ending of the path; ArgumentError for another."""
        from analyze.tables import neutral
        from tracer.store.files import write_whole

        target = Path(path)
        if target.suffix == ".svg":
            plot.save_svg(self.figure(), target, self.measure)
        elif target.suffix == ".csv":
            write_whole(target, neutral(self.table).to_csv(index=False))
        else:
            raise ArgumentError(f"curves are saved as .svg or .csv, got {target.name!r}")
        return target

    def draw(self, figure: Figure) -> None:
        """Draw into a figure."""
        bands = self.bands()
        groups = list(dict.fromkeys(zip(*(bands[name] for name in self.by or ("run",)), strict=True)))
        groups = _ordered(groups) if self.by else groups
        colors = dict(zip(groups, _colors(groups), strict=True))
        sides = list(bands.groupby(list(self.labels), sort=False)) if self.labels else []
        sides = sides or [((), bands)]
        titles = [_title(", ".join(map(str, _tuple(side)))) for side, _ in sides] if self.labels else []
        height = 2.4 if len(sides) > 1 else 3.0
        panels = plot.panels(figure, len(sides), titles=titles, height=height, sharey=self.alike)
        for axes, (_, part) in zip(panels, sides, strict=True):
            if part.empty:
                axes.plot([np.nan], [np.nan])  # which is said to be undefined
            for group, color in colors.items():
                mine = (part[list(self.by or ("run",))].astype(object) == list(group)).all(axis=1)
                one = part[mine].sort_values(self.x)
                plot.line(axes, one[self.x], one["mean"], color=color, label=self._called(group))
                several = (one["n_runs"] > 1).to_numpy()
                axes.fill_between(
                    one[self.x], one["low"], one["high"], where=several, color=color, alpha=0.18, linewidth=0
                )
            plot.step_axis(axes, np.unique(bands[self.x].to_numpy(float)), self.x)
        panels[0].set_ylabel(self.measure + (f"\n({self.note})" if self.note else ""))
        if len(groups) <= MOST:
            plot.legend(panels[0])

    def _called(self, group: tuple[Any, ...]) -> str:
        """A group by the attributes that make it, such as `width 32, lr 0.1`; a run by its name."""
        names = [f"{name} " for name in self.by] or [""]
        return ", ".join(f"{name}{_said(value)}" for name, value in zip(names, group, strict=True))

    def __repr__(self) -> str:
        runs, groups = self.table["run"].nunique(), f" by {', '.join(self.by)}" if self.by else ""
        return f"<Curves: {self.measure} of {runs} runs{groups}, {len(self.table)} values>"

    def _repr_html_(self) -> str:
        return plot.to_svg(self.figure())


def series(data: xr.Dataset, metric: str, variable: str, labels: Mapping[str, Any]) -> pd.DataFrame:
    """Values of a variable over the snapshots of one run: step, epoch, dimensions that are left, value.

    `attrs["note"]` says which part of the network was taken, if it is not the whole.
    """
    import pandas as pd

    if variable not in data:
        raise MissingTraceError(
            f"{metric} has no variable {variable!r}; {did_you_mean(variable, map(str, data))}"
        )
    array = data[variable]
    if "step" not in array.dims:
        raise MissingTraceError(
            f"{metric}.{variable} is one value a run, not a curve; analyze.compare has it"
        )
    dims = [str(dim) for dim in array.dims]
    for name in labels:
        if name not in dims:
            known = [dim for dim in dims if dim != "step"]
            raise MissingTraceError(f"{metric}.{variable} has no {name}; {did_you_mean(name, known)}")
    last = []
    for dim in [dim for dim in dims if dim != "step"]:
        names = [str(value) for value in _coordinate(array, dim)]
        if dim in labels:
            array = array.isel({dim: [_place(names, one, dim) for one in _listed(labels[dim])]})
        elif dim in PARTS and WHOLE in names:
            array = array.isel({dim: names.index(WHOLE)})
        elif dim in PARTS and names:
            array = array.isel({dim: -1})
            last.append(f"last {dim}")
        elif len(names) > MOST:
            raise MissingTraceError(
                f"{metric}.{variable} has {len(names)} values of {dim}: choose some, {dim}={names[0]!r}"
            )
    steps = [int(step) for step in array["step"].values]
    epochs = dict(zip(steps, np.asarray(data["epoch"].values, float), strict=True)) if "epoch" in data else {}
    rows = []
    left = [str(dim) for dim in array.dims if dim != "step"]
    moved = array.transpose("step", *left)
    names_of = [[str(value) for value in _coordinate(array, dim)] for dim in left]
    for place in np.ndindex(*moved.shape):
        step = steps[place[0]]
        told = [names[k] for names, k in zip(names_of, place[1:], strict=True)]
        rows.append((step, epochs.get(step, np.nan), *told, float(moved.values[place])))
    # A label that was chosen alone is no panel of its own.
    table = pd.DataFrame(rows, columns=["step", "epoch", *left, "value"])
    table = table.drop(columns=[dim for dim in left if dim in labels and len(_listed(labels[dim])) == 1])
    table.attrs["note"] = "; ".join(last)
    return table


def _named(measure: str) -> tuple[str, str]:
    metric, _, variable = measure.partition(".")
    card = card_of(metric, available_metrics())
    names = [name for name, dims in card.variables.items() if "step" in dims]
    if not variable and len(names) != 1:
        raise MissingTraceError(
            f"which variable of {metric}: {', '.join(f'{metric}.{name}' for name in names)}?"
        )
    variable = variable or names[0]
    if variable not in card.variables:
        hint = did_you_mean(variable, card.variables)
        raise MissingTraceError(f"{metric} has no variable {variable!r}; {hint}")
    return metric, variable


def _check_names(runs: Sequence[Run]) -> None:
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArgumentError(f"{names.count(twice[0])} runs are called {twice[0]!r}; rename all but one")


def _compute(
    runs: Sequence[Run],
    metric: str,
    workers: Workers,
    memory: int | str,
    progress: Progress,
) -> None:
    ended = iter(range(1, len(runs) + 1))

    def tell() -> None:
        progress(next(ended), len(runs), f"computing {metric}")

    by_turns((run.computing([metric], workers, memory=memory) for run in runs), workers.n + 1, tell)


def _between(place: np.ndarray, table: pd.DataFrame, x: str) -> np.ndarray:
    """Values of a run at some places, on straight lines between its own; NaN before its first and after its last."""
    table = table.dropna(subset=["value", x]).drop_duplicates(x, keep="last").sort_values(x)
    if table.empty:
        return np.full(len(place), np.nan)
    at, values = table[x].to_numpy(float), table["value"].to_numpy(float)
    return np.interp(place, at, values, left=np.nan, right=np.nan)


def _title(text: str) -> str:
    """Of a name as wide as its panel two lines."""
    return text.replace(".", ".\n", 1) if len(text) > ROOM else text


def _ordered(groups: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By value: numbers first, by size, then texts."""
    return sorted(
        groups, key=lambda group: [(0, one, "") if _is_number(one) else (1, 0, str(one)) for one in group]
    )


def _colors(groups: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Shades for numbers, in their order; colours for anything else."""
    numbers = [group[0] for group in groups if len(group) == 1 and _is_number(group[0])]
    if len(numbers) == len(groups) > 1:
        shades = plot.depth_colors(len(groups))
        return [shades[sorted(numbers).index(number)] for number in numbers]
    if len(groups) <= len(plot.PALETTE):
        return list(plot.PALETTE[: len(groups)])
    return plot.depth_colors(len(groups))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tuple(key: Hashable) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _listed(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple | np.ndarray) else [wanted]


def _place(names: Sequence[str], wanted: Any, dim: str) -> int:
    if str(wanted) not in names:
        raise MissingTraceError(f"there is no {dim} {wanted!r}; {did_you_mean(str(wanted), names)}")
    return names.index(str(wanted))


def _coordinate(array: xr.DataArray, dim: str) -> Iterator[Any]:
    return iter(array[dim].values if dim in array.coords else range(array.sizes[dim]))


def _column(name: str) -> str:
    return f"attribute {name}" if name in (*FIXED, "value") else name
