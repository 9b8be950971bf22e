"""Many runs: a table of measures, and how well each one follows generalization across runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.catalogue import available_metrics
from analyze.comparison.comparison import Comparison
from analyze.comparison.competition import reason
from analyze.comparison.factorial_design import Design
from analyze.comparison.inference import FEWEST, aliases, corrected, joint_intervals, p_value
from analyze.comparison.measures import TARGETS, At, check_at, measures_of, select
from analyze.comparison.notes import losses
from analyze.comparison.patterns import Named, runs_at
from analyze.comparison.rank_correlation import STATISTICS, Counts, agreement, draws
from analyze.comparison.runs import Run, choose_axes, wanted_metrics
from analyze.engine.distribute import Workers, by_turns, recruit
from tracer.errors import ArchiveError, ArgumentError, MissingTraceError, did_you_mean, first_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from distributed import Client

AGAINST = ("gap_error", "gap_loss", "test_error", "test_loss")
MOST = 100_000  # resamples: as many as a minute or two and a few hundred runs allow
Progress = Callable[[int, int, str], None]

__all__ = ["Comparison", "compare"]


def compare(
    paths: str | Path | Sequence[str | Path],
    *,
    measures: Sequence[str] | None = None,
    against: Sequence[str] = AGAINST,
    at: At = "final",
    environments: str | None = None,
    axes: Sequence[str] | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    jobs: int = 1,
    scheduler: str | Client | None = None,
    memory: int | str = "2GB",
    apart: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare runs: every measure of each, and how it agrees with `against` across them.

    `paths` are archives, or analyses of them, patterns such as `runs/*.zarr`, or directories of archives; of an
    archive the analysis beside it is read, and what it lacks is computed and saved there. `measures` names metrics,
    `metric.variable` or labels such as `cna.pearson[train]`; by default everything any of the runs has saved (where
    none has, all but what reads activations or runs the network again). Measures are taken at the `final` snapshot, at
    that of least test loss (`best`), after a quarter (`early`) or half (`mid`) of the training, or at the last one up
    to a step; the targets at the end, or where it is best. `attributes` maps names of runs to values added to what
    their cards say.
    What is missing of all runs is computed by `jobs` processes or, with the address of a Dask cluster as
    `scheduler`, there, with networks of archives `apart` or not: see `analyze.run`.

    A measure competes for a target only if it does not read what the target is made of (see
    `analyze.comparison.competition`); what else was measured is shown apart. `Comparison.answer` says in a sentence
    what follows the target, corrected for how many measures compete. Statistics, with 95 % intervals of a `bootstrap`
    over runs where at least eight have the measure: see `analyze.comparison.rank_correlation`. Where the runs have
    different losses, no loss is a target. `axes` are the attributes that were varied, by default those
    in which the runs differ and that do not follow from others; `environments` is an attribute whose values are the
    environments of the sign error, by default each change of one axis.

    A run that cannot be read is left out, with a sentence in `Comparison.unread`.

    Errors: MissingTraceError for an unknown measure, target or attribute; ArchiveError for a path where nothing is, or
    fewer than two runs that can be read; ArgumentError for fewer than two runs, runs of equal names, an unknown time,
    a negative `bootstrap` or `seed`, or no target but losses that are different.
    """
    check_at(at)
    _check_targets(against)
    _check_numbers(bootstrap=bootstrap, seed=seed)
    tell = progress or _silent
    named = runs_at(paths)
    _check_runs(named)
    given = attributes or {}
    _comparable(against, losses(_attributes(named.runs, given)))
    names = wanted_metrics(measures, named.runs)
    with recruit(jobs, scheduler) as workers:
        how = {"memory": memory, "apart": apart, "named": measures is not None}
        _compute(named.runs, names, workers, tell, **how)
    named.readable()
    _check_runs(named)
    runs = named.runs
    by_name = _attributes(runs, {run.name: given[run.name] for run in runs if run.name in given})
    against = _comparable(against, losses(by_name))
    rows = []
    for number, run in enumerate(runs, start=1):
        tell(number, len(runs), f"reading {run.name}")
        rows.append(measures_of(run, names, at))
    labels = select(
        list(dict.fromkeys(label for row in rows for label in row if label not in TARGETS)), measures
    )
    table = _table(runs, by_name, [*against, *labels], rows)
    chosen = _named(axes, by_name) if axes is not None else choose_axes(by_name)
    where = None if environments is None else by_name[_named([environments], by_name)[0]]
    design = Design.of([by_name[name] for name in chosen], len(runs), where)
    counts = draws(len(runs), bootstrap, seed)
    correlated = _correlate(table, labels, against, design, counts, max(1, jobs), tell)
    correlated = correlated.assign_coords(
        axis=chosen, environment=_environment_names(design, chosen, by_name, environments)
    )
    correlated.attrs |= {"at": str(at), "bootstrap": bootstrap, "seed": seed, "axes": ", ".join(chosen)}
    return Comparison(
        table,
        correlated,
        runs=runs,
        attributes=list(by_name),
        skipped={run.name: run.skipped for run in runs},
        unread=named.left_out,
        passed=named.passed,
    )


def _compute(
    runs: Sequence[Run], names: Sequence[str], workers: Workers, tell: Progress, **settings: Any
) -> None:
    """Compute what saved analyses lack: with workers, of several runs at a time."""
    ended = itertools.count(1)
    pieces = -(-2 * workers.n // len(runs))
    routines = (run.computing(names, workers, pieces=pieces, **settings) for run in runs)
    by_turns(routines, workers.n + 1, lambda: tell(next(ended), len(runs), "analyzing"))


def _correlate(
    table: pd.DataFrame,
    labels: list[str],
    against: Sequence[str],
    design: Design,
    counts: Counts,
    jobs: int,
    tell: Progress,
) -> xr.Dataset:
    """All statistics of each measure and target, as one Dataset."""
    import xarray as xr

    def one(label: str) -> list[dict[str, Any]]:
        return [agreement(table[label], table[target], design, counts) for target in against]

    rows = []
    # Most of the time is spent in matrix products, which let other threads run.
    with ThreadPoolExecutor(jobs) as pool:
        for number, row in enumerate(pool.map(one, labels), start=1):
            tell(number, len(labels), "correlating")
            rows.append(row)
    cards = available_metrics()
    apart = np.array([[reason(label, target, cards) for target in against] for label in labels], object)
    shapes = {"axis": len(design.parts), "environment": len(design.names)}

    def stacked(key: str, length: int | None, kind: type) -> np.ndarray:
        empty = np.empty((0, len(against), *([] if length is None else [length])))
        return np.asarray([[cell[key] for cell in row] for row in rows] or empty, kind)

    dims = ("measure", "target")
    variables: dict[str, Any] = {
        key: ((*dims, "statistic"), stacked(key, len(STATISTICS), float)) for key in ("value", "low", "high")
    }
    variables["n_resamples"] = (*dims, "statistic"), stacked("n_resamples", len(STATISTICS), int)
    n_runs = stacked("n_runs", None, int)
    variables["n_runs"], variables["n_undefined"] = (dims, n_runs), (dims, len(table) - n_runs)
    variables["granulated"] = (*dims, "axis"), stacked("axis", shapes["axis"], float)
    variables["sign_error"] = (*dims, "environment"), stacked("environment", shapes["environment"], float)
    variables["apart"] = dims, apart.reshape(n_runs.shape)
    told = (n_runs >= FEWEST)[..., None] & (variables["low"][1] < variables["high"][1])
    for end in ("low", "high"):
        along, ends = variables[end]
        variables[end] = along, np.where(told, ends, np.nan)
    variables |= _joint(table, labels, against, apart, rows)
    coords = {"measure": list(labels), "target": list(against), "statistic": list(STATISTICS)}
    return xr.Dataset(variables, coords=coords)


def _joint(
    table: pd.DataFrame,
    labels: list[str],
    against: Sequence[str],
    apart: np.ndarray,
    rows: Sequence[Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Chances of Kendall's correlations, corrected for how many measures compete, and intervals that hold together.

    Measures that order the runs alike count once: others of a kind have the numbers of the first, whose place in
    `alias_of` they have.
    """
    shape = len(labels), len(against)
    joint = {name: np.full(shape, np.nan) for name in ("p", "p_corrected", "joint_low", "joint_high")}
    first = np.full(shape, -1)
    for column, target in enumerate(against):
        competing = [k for k in range(len(labels)) if not apart[k, column]]
        kinds = aliases({labels[k]: table[labels[k]] for k in competing})
        heads = [k for k in competing if labels[k] in kinds]
        joint["p"][heads, column] = [p_value(table[labels[k]], table[target]) for k in heads]
        joint["p_corrected"][heads, column] = corrected(joint["p"][heads, column])
        enough = [k for k in heads if rows[k][column]["n_runs"] >= FEWEST]
        again = [rows[k][column]["resamples"] for k in enough]
        values = [rows[k][column]["value"][STATISTICS.index("kendall")] for k in enough]
        if again:
            low, high = joint_intervals(values, np.stack(again, 1))
            joint["joint_low"][enough, column], joint["joint_high"][enough, column] = low, high
        for k in heads:
            others = [labels.index(name) for name in kinds[labels[k]]]
            first[[k, *others], column] = k
    dims = ("measure", "target")
    return {**{name: (dims, values) for name, values in joint.items()}, "alias_of": (dims, first)}


def _table(
    runs: Sequence[Run],
    attributes: Mapping[str, Sequence[Any]],
    labels: Sequence[str],
    rows: Sequence[Mapping[str, float]],
) -> pd.DataFrame:
    import pandas as pd

    measured = {label: [row.get(label, np.nan) for row in rows] for label in labels}
    columns = {"title": [str(run.facts.get("title", run.name)) for run in runs], **attributes, **measured}
    return pd.DataFrame(columns, index=pd.Index([run.name for run in runs], name="run"))


def _attributes(runs: Sequence[Run], added: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values (run,) of every attribute, None where a run has none; those added come first."""
    unknown = [name for name in added if name not in {run.name for run in runs}]
    if unknown:
        hint = did_you_mean(unknown[0], [run.name for run in runs])
        raise MissingTraceError(f"attributes= names the run {unknown[0]!r}, which is not compared; {hint}")
    rows = [{**added.get(run.name, {}), **run.attributes, **added.get(run.name, {})} for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names if name != "title"}


def _environment_names(
    design: Design, axes: Sequence[str], attributes: Mapping[str, Sequence[Any]], environments: str | None
) -> np.ndarray:
    """Such as `width 64 -> 128 (lr 0.1)`, or the values of the attribute."""

    def value(axis: int, code: int) -> Any:
        return attributes[axes[axis]][int(np.flatnonzero(design.labels[axis] == code)[0])]

    if environments is not None:
        codes = Design.of([attributes[environments]], len(attributes[environments])).labels[0]
        first = [int(np.flatnonzero(codes == name[0])[0]) for name in design.names]
        return np.array([attributes[environments][run] for run in first], str)
    named = []
    for axis, low, high, *others in design.names:
        fixed = ", ".join(f"{axes[k]} {value(k, code)}" for k, code in enumerate(others) if code >= 0)
        change = f"{axes[axis]} {value(axis, low)} → {value(axis, high)}"
        named.append(f"{change} ({fixed})" if fixed else change)
    return np.array(named, str)


def _silent(done: int, total: int, text: str) -> None:
    """Tell nobody of progress."""


def _named(names: Sequence[str], attributes: Mapping[str, Sequence[Any]]) -> list[str]:
    for name in names:
        if name not in attributes:
            raise MissingTraceError(
                f"no run has an attribute called {name!r}; {did_you_mean(name, attributes)}"
            )
    return list(dict.fromkeys(names))


def _comparable(against: Sequence[str], losses: Sequence[str]) -> list[str]:
    """Targets that mean the same in all runs: of different losses neither value nor gap does."""
    kept = [name for name in dict.fromkeys(against) if len(losses) < 2 or not name.endswith("_loss")]
    if against and not kept:
        raise ArgumentError(
            f"the runs have different losses ({first_of(losses)}), so that {against[0]} of one is not that of another; "
            "compare with gap_error or test_error"
        )
    return kept


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise ArgumentError(f"{name}= is 0 or more, got {number}")
    if numbers["bootstrap"] > MOST:
        raise ArgumentError(f"bootstrap= is at most {MOST:,}, got {numbers['bootstrap']:,}")


def _check_targets(against: Sequence[str]) -> None:
    for name in against:
        if name not in TARGETS:
            raise MissingTraceError(f"no target is called {name!r}; {did_you_mean(name, TARGETS)}")


def _check_runs(named: Named) -> None:
    runs = named.runs
    if len(runs) < 2:
        if named.unread:
            why = "; ".join(named.left_out)
            raise ArchiveError(
                f"a comparison needs at least two runs, of which {len(runs)} can be compared: {why}"
            )
        about = (
            f"; tracer analyze {runs[0].path or runs[0].analysis} tells what there is of one" if runs else ""
        )
        raise ArgumentError(f"a comparison needs at least two runs, got {len(runs)}{about}")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArgumentError(f"{names.count(twice[0])} runs are called {twice[0]!r}; rename all but one")
