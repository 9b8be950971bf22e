"""Activation patterns: how many linear regions do the examples occupy, and which units never switch?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.metrics.gradients.gradient_diversity import probe_lines
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

HANIN_ROLNICK_2019 = Reference(
    key="hanin2019deep",
    authors=("Hanin, Boris", "Rolnick, David"),
    title="Deep ReLU Networks Have Surprisingly Few Activation Patterns",
    year=2019,
    venue="Advances in Neural Information Processing Systems 32",
    arxiv="1906.00904",
)


def count_distinct(overlap: NDArray, count: NDArray) -> NDArray[np.int64]:
    """Number of distinct paths, from units shared (..., example, example_2) and on (..., example).

    Two paths are equal when both have as many units on as they share.

    >>> int(count_distinct(np.array([[2, 2, 1], [2, 2, 1], [1, 1, 1]]), np.array([2, 2, 1])))
    2
    """
    equal = (overlap == count[..., :, None]) & (overlap == count[..., None, :])
    # An example is the first with its path when it equals none before it; NaN is no path.
    repeats = np.tril(equal, -1).any(axis=-1)
    return (~repeats & (count == count)).sum(axis=-1, dtype=np.int64)


@metric(
    reads=("overlap", "path_count", "unit_count", "site_slices"),
    scope="probe",
    variables={
        "n_patterns": ("step", "probe", "site"),
        "n_patterns_network": ("step", "probe"),
        "hamming": ("step", "probe", "site"),
        "hamming_std": ("step", "probe", "site"),
        "n_dead": ("step", "probe", "site"),
        "n_always_on": ("step", "probe", "site"),
        "n_units": ("site",),
    },
    bounds={"hamming": (0, 1), "hamming_std": (0, 0.5)},
    summary=("n_patterns_network", "hamming", "n_dead"),
    title="Activation patterns",
    formula="patterns = #{distinct p_i};  Hamming(i, j) = (|p_i| + |p_j| − 2 |p_i ∧ p_j|) / units",
    cost="reads overlaps of stored masks; O(steps · sites · examples²)",
    reading=(
        "As many patterns as examples: each lies in a linear region of its own. A small Hamming distance: "
        "the examples use nearly the same linear map. Dead units are off for every example of the probe, "
        "always-on ones are linear."
    ),
    reference=HANIN_ROLNICK_2019,
)
def path_patterns(
    overlap: ArrayLike, path_count: ArrayLike, unit_count: ArrayLike, site_slices: Sequence[slice]
) -> dict[str, NDArray]:
    """Distinct paths, Hamming distances between them, and units that never switch.

    For one probe, `overlap` (step, site, example, example_2) counts units on for both examples,
    `path_count` (step, site, example) units on, `unit_count` (step, unit) examples for which a unit is on,
    `site_slices` the units of each site. Returns `n_patterns` (step, site), distinct paths at each site;
    `n_patterns_network` (step), of the concatenation of all sites (linear regions of a ReLU network that
    the examples occupy); `hamming` and `hamming_std` (step, site), mean and standard deviation over
    unordered pairs of the share of units that differ, NaN for fewer than two examples; `n_dead` and
    `n_always_on` (step, site), units on for no or for every example; `n_units` (site). Counts that are NaN are
    of examples for which the network gave no numbers: they have no path and are left out.

    >>> result = path_patterns([[[[1, 0], [0, 1]]]], [[[1, 1]]], [[1, 1, 0, 0]], [slice(0, 4)])
    >>> result["n_patterns"].item(), result["hamming"].item(), result["n_dead"].item()
    (2, 0.5, 2)
    """
    shared, on, units = np.asarray(overlap), np.asarray(path_count), np.asarray(unit_count)
    sizes = np.array([part.stop - part.start for part in site_slices], np.int64)
    hamming, spread = np.full((2, *on.shape[:-1]), np.nan)
    defined = on == on
    for where in np.ndindex(on.shape[:-1]):
        known = defined[where]
        n = int(known.sum())
        if n < 2:
            continue
        counts, common = on[where][known], shared[where][np.ix_(known, known)]
        differ = (counts[:, None] + counts - 2 * common) / max(sizes[where[1]], 1)
        mean = differ.sum() / (n * (n - 1))
        # The diagonal is 0 and no pair: its n squares of the mean are taken off again.
        variance = (np.square(differ - mean).sum() - n * mean**2) / (n * (n - 1))
        hamming[where], spread[where] = mean, np.sqrt(max(variance, 0.0))
    pick = [units[:, part] for part in site_slices]
    examples = defined.all(axis=1).sum(-1)[:, None]
    return {
        "n_patterns": count_distinct(shared, on),
        "n_patterns_network": count_distinct(shared.sum(axis=1), on.sum(axis=1)),
        "hamming": hamming,
        "hamming_std": spread,
        "n_dead": np.stack([((part == 0) & (examples > 0)).sum(axis=1) for part in pick], axis=1),
        "n_always_on": np.stack([((part == examples) & (examples > 0)).sum(axis=1) for part in pick], axis=1),
        "n_units": sizes,
    }


def plot_path_patterns(result: xr.Dataset, figure: Figure) -> None:
    """Distinct patterns against training; Hamming distances, dead and always-on units by site."""
    axes = plot.panels(figure, 4, columns=2, height=2.3, sharex=False, sharey=False)
    probe_lines(axes[0], result["n_patterns_network"])
    axes[0].set(title="whole network", ylabel="distinct patterns")
    axes[0].set_ylim(0, 1.08 * max(float(result["n_patterns_network"].max()), 1.0))
    plot.legend(axes[0], title="probe")
    first = result.isel(probe=0)
    name, steps, sites = first["probe"].item(), first["step"].values, first["site"].values
    maps = (
        ("Hamming distance of pairs", "differing units", first["hamming"]),
        ("units dead", "share of units", first["n_dead"] / first["n_units"]),
        ("units always on", "share of units", first["n_always_on"] / first["n_units"]),
    )
    for panel, (title, label, values) in zip(axes[1:], maps, strict=True):
        table = values.transpose("site", "step").values
        limits = (0.0, max(0.05, float(np.nanmax(table, initial=0.0))))
        plot.heat_over_time(panel, table, steps, sites, limits=limits, colorbar=label)
        panel.set_title(f"{name}: {title}")
