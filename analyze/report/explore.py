"""What a reader can turn over in a figure: matrices and profiles by snapshot, and curves by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xarray as xr

from analyze import plot

BUDGET = 6000  # values of a variable in the page, a few bytes each; snapshots are thinned to fit
VARIABLES = 4  # of a view, in the order of the card
SERIES = 8  # lines of one chart
BINS = 30
DEPTH = ("layer", "site", "place")
COUNTED = {"point", "node", "draw", "pair", "baseline"}  # numbered, but in no order that means anything
ASIDE = ("std", "error", "n")  # first or last words of variables that only qualify another
BY_SNAPSHOT = "By snapshot"
View = dict[str, Any]


def explore(data: xr.Dataset, order: Iterable[str] = ()) -> dict[str, Any] | None:
    """Views of a result for the script of the page, with the values they show; None where there are none.

    `order` names variables in the order in which they are offered.
    `views` name the axes of a chart: `rows` and `columns` of a matrix, or `x` and `series` of lines, and the
    `slider`. Dimensions a view does not name are chosen. `variables` hold their values flat, in three digits.
    """
    views: dict[str, View] = {}
    variables: dict[str, dict[str, Any]] = {}
    for dims, arrays in sorted(_groups(data, list(order)).items(), key=lambda item: _rank(item[0])):
        more = [view for view in _views(arrays[0]) if view["name"] not in views]
        if more:
            views |= {view["name"]: view | {"variables": [str(a.name) for a in arrays]} for view in more}
            variables |= {str(array.name): _variable(array, dims) for array in arrays}
    if not views:
        return None
    return {"views": list(views.values()), "variables": variables}


def _groups(data: xr.Dataset, order: list[str]) -> dict[tuple[str, ...], list[xr.DataArray]]:
    """Variables over time that can be shown, together with those of the same dimensions."""
    groups: dict[tuple[str, ...], list[xr.DataArray]] = {}
    names = sorted(
        map(str, data.data_vars), key=lambda name: order.index(name) if name in order else len(order)
    )
    for name in names:
        array = data[name]
        words = name.split("_")
        if array.dtype.kind != "f" or {words[0], words[-1]} & set(ASIDE) or data.sizes.get("step", 0) < 2:
            continue
        shown = _fitting(_distribution(array) if "example" in array.dims else array)
        if shown is not None and bool(shown.notnull().any()):
            group = groups.setdefault(tuple(map(str, shown.dims)), [])
            if len(group) < VARIABLES:
                group.append(shown)
    return groups


def _fitting(array: xr.DataArray | None) -> xr.DataArray | None:
    """The array, its snapshots thinned to the budget; None where fewer than two would be left."""
    if array is None or "step" not in array.dims or array.size == 0:
        return None
    if any(dim in COUNTED and array[dim].dtype.kind in "fi" for dim in array.dims):
        return None
    most = BUDGET // (array.size // array.sizes["step"])
    return array.isel(step=plot.pick(array["step"].values, most)) if most >= 2 else None


def _distribution(array: xr.DataArray) -> xr.DataArray | None:
    """Shares of the examples of each probe in equal bins of their value; None for a handful of values."""
    values = array.transpose(..., "example").values
    finite = values[np.isfinite(values)]
    if len(np.unique(finite[:: max(1, len(finite) // 10_000)])) <= 3:
        return None
    of = next((array[key].values for key in ("example_probe", "probe", "split") if key in array.coords), None)
    of = np.full(array.sizes["example"], "all") if of is None or of.ndim != 1 else of
    edges = np.linspace(finite.min(), finite.max(), BINS + 1)
    probes = list(dict.fromkeys(of.tolist()))
    shares = [
        np.apply_along_axis(
            lambda row: np.histogram(row, edges)[0] / max(1, len(row)), -1, values[..., of == p]
        )
        for p in probes
    ]
    dims = [str(dim) for dim in array.dims if dim != "example"]
    coords = {dim: array[dim].values for dim in dims if dim in array.coords}
    middles = (edges[1:] + edges[:-1]) / 2
    return xr.DataArray(
        np.stack(shares, -2),
        dims=[*dims, "probe", "value"],
        coords={**coords, "probe": probes, "value": [float(f"{middle:.3g}") for middle in middles]},
        name=f"{array.name}, share of examples",
    )


def _rank(dims: tuple[str, ...]) -> int:
    """Matrices first, then profiles, then what has depth alone."""
    return 0 if _pair(dims) else 2 if len(set(dims) - {"step", *DEPTH}) <= 1 else 1


def _pair(dims: tuple[str, ...]) -> tuple[str, str] | None:
    return next(((dim, f"{dim}_2") for dim in dims if f"{dim}_2" in dims and dim != "step"), None)


def _views(array: xr.DataArray) -> Iterator[View]:
    dims = tuple(map(str, array.dims))
    pair, depth = _pair(dims), next((dim for dim in DEPTH if dim in dims and array.sizes[dim] > 1), None)
    profile = next((dim for dim in dims if dim not in ("step", *DEPTH) and _is_ordered(array, dim)), None)
    series = next(
        (dim for dim in dims if dim not in ("step", profile, *DEPTH) and array.sizes[dim] <= SERIES), None
    )
    if pair:
        yield {"name": BY_SNAPSHOT, "rows": pair[0], "columns": pair[1], "slider": "step"}
    elif profile:
        yield {"name": BY_SNAPSHOT, "x": profile, "series": series, "slider": "step"}
    elif depth:
        yield {"name": f"Through the {depth}s", "x": depth, "series": series, "slider": "step"}
        yield {"name": f"By {depth}", "x": "step", "series": series}


def _is_ordered(array: xr.DataArray, dim: str) -> bool:
    coordinate = array.coords.get(dim)
    numbers = coordinate is not None and coordinate.dtype.kind in "fi"
    return numbers and dim not in COUNTED and array.sizes[dim] > 2


def _variable(array: xr.DataArray, dims: tuple[str, ...]) -> dict[str, Any]:
    values = array.values
    return {
        "name": str(array.name),
        "dims": [_dimension(array, dim) for dim in dims],
        "values": [float(f"{v:.3g}") if np.isfinite(v) else None for v in values.ravel().tolist()],
        "limits": list(_extremes(values) if _pair(dims) else plot.finite_limits(values)),
    }


def _extremes(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return float(finite.min()), float(finite.max())


def _dimension(array: xr.DataArray, dim: str) -> dict[str, Any]:
    """Name, labels and, of numbers, where they lie between 0 and 1."""
    labels = array[dim].values if dim in array.coords else np.arange(array.sizes[dim])
    shown = [f"{label:.4g}" if labels.dtype.kind == "f" else str(label) for label in labels.tolist()]
    return {"name": dim, "labels": shown, "at": _spread(labels) if labels.dtype.kind in "fi" else None}


def _spread(numbers: np.ndarray) -> list[float] | None:
    """Places of numbers on an axis from 0 to 1; logarithmic where most of them are small.

    >>> _spread(np.array([0, 50, 100]))
    [0.0, 0.5, 1.0]
    """
    places = numbers.astype(np.float64)
    low, high = places[0], places[-1]
    if not high > low:
        return None
    if len(places) >= 5 and low >= 0 and np.median(places) - low < (high - low) / 8:
        places = np.log1p(places) if low == 0 else np.log(places)
    return [round(float(place), 4) for place in (places - places[0]) / (places[-1] - places[0])]
