"""Memorization and consistency: would an example be classified rightly had it not been trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analyze.numerics import divide
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from tracer.archive import Archive


def memorization(
    runs: Sequence[str | Path | Archive], *, probe: str = "train", test: str | None = None
) -> xr.Dataset:
    """Memorization and C-score of every example of a probe, over runs that were trained on different subsets.

    `runs` are archives of the same network and data with the same probe of all training examples, each trained on a
    subset drawn anew: which examples a run was trained on are the ids recorded with its updates. Right and wrong are
    those of the last snapshot with outputs. See `scores` for what is returned, with coordinates `id` and `ratio`; with
    `test`, the name of another probe, also `influence` (test_example, example): how much more often a test example is
    classified rightly by the runs that had the training example.

    Contested: memorization grows with the size of the network and depends on the size of the subsets, so it belongs to
    example and procedure together; near duplicates hide it. Thresholds need some 500 runs. Subsets must be drawn
    without regard to the example (the same number of each class is fine), and runs whose subset and initial weights
    share a seed are tied. Sources: Feldman and Zhang 2020, arXiv:2008.03703; Jiang et al. 2021, arXiv:2002.03206.

    Raises ArgumentError where there are fewer than two runs, or their probes hold different examples.
    """
    import xarray as xr

    import tracer

    archives = [tracer.open(run) if isinstance(run, str | Path) else run for run in runs]
    if len(archives) < 2:
        raise ArgumentError(
            f"memorization compares runs trained on different subsets; got {len(archives)} run"
        )
    ids = _same_ids(archives, probe)
    mask = np.array([np.isin(ids, _trained_on(archive)) for archive in archives])
    found = scores(mask, np.array([_correct(archive, probe) for archive in archives]))
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(found, ("example",))
    dims |= {"c_profile": ("ratio", "example"), "n_profile": ("ratio", "example"), "ratio": ("ratio",)}
    if test is not None:
        _same_ids(archives, test)
        found["influence"] = influence(mask, np.array([_correct(archive, test) for archive in archives]))
        dims["influence"] = ("test_example", "example")
    data = xr.Dataset(
        {name: (dims[name], values) for name, values in found.items()}, {"id": ("example", ids)}
    )
    return data.set_coords("ratio").assign_attrs(probe=probe, n_runs=len(archives))


def scores(mask: np.ndarray, correct: np.ndarray) -> dict[str, np.ndarray]:
    """Memorization, its standard error, and C-scores from what R runs were trained on and got right.

    `mask` (run, example) says which examples a run was trained on, `correct` (run, example) is 1 where it classifies
    them rightly, 0 where not, NaN where unknown (left out). Returned are, all (example,): `memorization`, the mean of
    correct over runs with the example (`with_example`, of `n_with`) minus that over runs without it (`without_example`,
    of `n_without`), NaN where there are none of either; `standard_error` √(p₁(1-p₁)/R₁ + p₀(1-p₀)/R₀). `c_profile`
    (ratio, example) is the mean over the `n_profile` runs without the example whose share of examples, rounded to
    hundredths, is `ratio`; `c_score` the plain mean over the ratios, NaN where one is missing.

    >>> found = scores(np.array([[1, 1], [1, 0], [0, 1], [0, 1]]) == 1, np.array([[1, 1], [1, 0], [0, 1], [1, 1]]))
    >>> found["memorization"].tolist()
    [0.5, 1.0]
    """
    correct = np.asarray(correct, np.float64)
    known = ~np.isnan(correct)
    right = np.where(known, correct, 0.0)
    inside, outside = mask & known, ~mask & known
    n_with, n_without = inside.sum(0), outside.sum(0)
    p1, p0 = divide((right * inside).sum(0), n_with), divide((right * outside).sum(0), n_without)
    shares = np.round(mask.mean(1), 2)
    ratios = np.unique(shares)
    per_ratio = [outside & (shares == ratio)[:, None] for ratio in ratios]
    profile = np.array([divide((right * rows).sum(0), rows.sum(0)) for rows in per_ratio])
    return {
        "memorization": p1 - p0,
        "standard_error": np.sqrt(divide(p1 * (1 - p1), n_with) + divide(p0 * (1 - p0), n_without)),
        "with_example": p1,
        "without_example": p0,
        "n_with": n_with,
        "n_without": n_without,
        "c_score": profile.mean(0),
        "c_profile": profile,
        "n_profile": np.array([rows.sum(0) for rows in per_ratio]),
        "ratio": ratios,
    }


def influence(mask: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Influence (test_example, example), from `mask` (run, example) and `correct` (run, test_example).

    NaN where all runs, or none, were trained on the example, of the runs that know the test example.
    """
    correct = np.asarray(correct, np.float64)
    known = (~np.isnan(correct)).astype(np.float64)
    right, inside = np.where(np.isnan(correct), 0.0, correct), mask.astype(np.float64)
    return divide(right.T @ inside, known.T @ inside) - divide(right.T @ (1 - inside), known.T @ (1 - inside))


def _same_ids(archives: Sequence[Archive], probe: str) -> np.ndarray:
    first = np.asarray(archives[0].probes[probe].ids)
    for archive in archives[1:]:
        if not np.array_equal(archive.probes[probe].ids, first):
            raise ArgumentError(
                f"probe {probe!r} of {archive.path!r} holds other examples than that of {archives[0].path!r}; record "
                "the same probe, in the same order, in every run"
            )
    return first


def _trained_on(archive: Archive) -> np.ndarray:
    runs = [archive] if archive.world_size == 1 else list(archive.ranks.values())
    return np.unique(np.concatenate([run.array("steps", "ids") for run in runs]))


def _correct(archive: Archive, probe: str) -> np.ndarray:
    from analyze.arrays import View
    from analyze.engine import plan  # noqa: F401  (declares the arrays of the archive)

    last = int(archive.probes[probe].steps("outputs")[-1])
    view = View(archive, (probe,), (archive.probes[probe].n,), steps=(last,))
    return np.asarray(view.get("correct"))[0]


def plot_memorization(result: xr.Dataset, figure: Figure) -> None:
    """Distribution of memorization, and accuracy with against without the example."""
    from analyze import plot

    left, right = plot.panels(figure, 2, columns=2, height=2.8, sharex=False, sharey=False)
    values = result["memorization"].values
    left.hist(values[np.isfinite(values)], np.linspace(-1, 1, 41).tolist(), color=plot.PALETTE[0])
    left.set(title=f"{result.attrs['n_runs']} runs", xlabel="memorization", ylabel="examples")
    drawn = right.scatter(result["without_example"], result["with_example"], s=9, color=plot.PALETTE[0])
    plot.name_points(drawn, [f"id {name}" for name in result["id"].values])
    right.plot([0, 1], [0, 1], color=plot.GREY, linewidth=0.8)
    right.set(xlabel="right without the example", ylabel="right with the example")
