"""From what the calls of a metric returned to one labelled Dataset, with coordinates and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.arrays import closure
from analyze.engine import sketched
from analyze.engine.names import described
from analyze.engine.plan import Plan
from analyze.errors import AnalysisError
from analyze.plot import time_scale
from tracer.archive.attributes import attributes_of, name_of, shown
from tracer.errors import MissingTraceError
from tracer.spec.release import version

if TYPE_CHECKING:
    import xarray as xr

    from tracer.archive import Archive

Returned = Mapping[str, Any]
ALL_SITES = {
    "sums_post",
    "activations",
    "activations_previous",
    "activations_first",
    "activations_last",
    "any_site",
}


def assemble(plan: Plan, blocks: Sequence[Sequence[Returned]], archive: Archive) -> xr.Dataset:
    """Dataset of a metric from what it returned for each block of snapshots and, within it, each view."""
    import xarray as xr

    card = plan.card
    arrays = {
        name: _variable(plan, name, [[_take(plan, name, returned) for returned in block] for block in blocks])
        for name in plan.variables
    }
    dims = dict(plan.variables)
    sizes = _sizes(plan, arrays, dims)
    coordinates = _coordinates(plan, sizes, archive, blocks[0][0])
    variables = {name: (dims[name], array, _labels_of(plan, name, array)) for name, array in arrays.items()}
    if plan.sketched:
        for name, (along, array) in sketched.finished(card, arrays).items():
            variables[name] = (along, array, _labels_of(plan, name, array))
    attributes = _provenance(plan, archive)
    own = dict(blocks[0][0].get("attrs", {}))
    attributes |= {str(key): _flat(value) for key, value in own.items()}
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def added(plan: Plan, total: Sequence[Returned], more: Sequence[Returned]) -> list[Returned]:
    """What a metric returned for each view, added up variable by variable; NaN adds nothing."""
    summed: list[Returned] = []
    for first, second in zip(total, more, strict=True):
        pairs = {name: (_take(plan, name, first), _take(plan, name, second)) for name in plan.variables}
        sums = {
            name: np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + b)) for name, (a, b) in pairs.items()
        }
        summed.append({**first, **sums})
    return summed


def _take(plan: Plan, name: str, returned: Returned) -> np.ndarray:
    if name not in returned:
        raise AnalysisError(f"metric {plan.card.name!r} did not return {name!r}, only {sorted(returned)}")
    dtype = np.int64 if plan.card.is_integer(name) else np.float64
    return np.asarray(returned[name], dtype)


def _variable(plan: Plan, name: str, blocks: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    dims = plan.variables[name]
    joined = [_join_views(plan, name, block) for block in blocks]
    for array in joined:
        if array.ndim != len(dims):
            raise AnalysisError(
                f"metric {plan.card.name!r} returned {name!r} of shape {array.shape}, its card says {dims}"
            )
    return np.concatenate(joined, dims.index("step")) if "step" in dims else joined[0]


def _join_views(plan: Plan, name: str, views: Sequence[np.ndarray]) -> np.ndarray:
    dims = plan.variables[name]
    if plan.card.scope == "probe" and "probe" in dims:
        return np.stack(_same_length(views), dims.index("probe"))
    if plan.card.scope == "probe" and "example" in dims:
        return np.concatenate(views, dims.index("example"))
    return views[0]


def _same_length(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    # Probes of different size may give one table of points longer than the other: the rest is NaN.
    shape = tuple(max(extents) for extents in zip(*(view.shape for view in views), strict=True))
    if all(view.shape == shape for view in views):
        return list(views)
    padded = []
    for view in views:
        fill = np.full(shape, -1 if view.dtype.kind == "i" else np.nan, view.dtype)
        fill[tuple(slice(extent) for extent in view.shape)] = view
        padded.append(fill)
    return padded


def _sizes(plan: Plan, arrays: Mapping[str, np.ndarray], dims: Mapping[str, Sequence[str]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        for dim, extent in zip(dims[name], array.shape, strict=True):
            if sizes.setdefault(dim, extent) != extent:
                raise AnalysisError(
                    f"metric {plan.card.name!r} returned {name!r} with {extent} along {dim!r}, "
                    f"where another variable has {sizes[dim]}"
                )
    return sizes


def _coordinates(
    plan: Plan, sizes: Mapping[str, int], archive: Archive, returned: Returned
) -> dict[str, Any]:
    own = {dim: np.asarray(returned[dim]) for dim in sizes if dim in returned and dim not in plan.variables}
    known: dict[str, Any] = {}
    for dim in sizes:
        values = own.get(dim, _known(plan, dim, archive))
        if values is not None and np.shape(values) == (sizes[dim],):
            known[dim] = (dim, values)
        elif dim in own or dim == "step":
            raise AnalysisError(
                f"metric {plan.card.name!r} has {sizes[dim]} entries along {dim!r} and "
                f"{np.size(values)} labels for them"
            )
    if "step" in sizes:
        known["epoch"] = ("step", np.array([archive.epoch_of(step) for step in plan.steps], np.int64))
    if "example" in sizes:
        known |= _examples(plan, archive, sizes)
    return known


def _known(plan: Plan, dim: str, archive: Archive) -> Any:
    base = dim.removesuffix("_2")
    if base == "step":
        return np.array(plan.steps, np.int64)
    if base == "layer":
        return np.array([*archive.layers, "all"])
    if base == "site":
        reads = {entry.name for entry in closure(plan.arrays)}
        masked = [site["name"] for site in archive.site_table if site.get("start") is not None]
        return np.array(list(archive.sites) if reads & ALL_SITES else masked)
    if base == "call":
        return np.array(list(archive.calls))
    if base == "probe":
        return np.array([name for probes, _ in plan.views for name in probes])
    return None


def _examples(plan: Plan, archive: Archive, sizes: Mapping[str, int]) -> dict[str, Any]:
    columns: dict[str, list[np.ndarray]] = {"probe": [], "split": [], "id": [], "label": []}
    for examples in plan.views:
        view = plan.view(archive, examples)
        columns["probe"].append(view.get("probe"))
        columns["split"].append(view.get("split"))
        columns["id"].append(view.get("ids"))
        columns["label"].append(_label(view))
    joined = {
        name: np.concatenate(parts) for name, parts in columns.items() if all(p is not None for p in parts)
    }
    if "probe" in sizes:
        # xarray lets no coordinate share its name with a dimension it does not lie along.
        joined["example_probe"] = joined.pop("probe")
    return {name: ("example", values) for name, values in joined.items() if len(values) == sizes["example"]}


def _label(view: Any) -> Any:
    for name in ("labels", "targets"):
        try:
            values = np.asarray(view.get(name))
        except MissingTraceError:
            continue
        if values.ndim == 1:
            return values
    return None


def _labels_of(plan: Plan, name: str, array: np.ndarray) -> dict[str, Any]:
    undefined = int(np.isnan(array).sum()) if array.dtype.kind == "f" else 0
    return {"long_name": name.replace("_", " "), "units": plan.card.units_of(name), "n_nan": undefined}


def _flat(value: Any) -> str | int | float:
    """An attribute as xarray, Zarr and HDF5 all take it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return json.dumps(value, default=str)
    return value


def _provenance(plan: Plan, archive: Archive) -> dict[str, Any]:
    card = plan.card
    attributes = {
        "metric": card.name,
        "title": card.title,
        "meaning": card.meaning,
        **({} if card.summary is None else {"summary": json.dumps(card.summary)}),
        "formula": card.formula,
        "reading": card.reading,
        "reference": "; ".join(str(reference) for reference in card.reference),
        "options": json.dumps(plan.options | plan.inherited, default=str, sort_keys=True),
        "run_id": str(archive.run_id),
        **of_commit(archive),
        "creation_library": "tracer",
        "tracer_version": version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    told = sketched.attributes(archive) if plan.sketched else {}
    return attributes | told | ({"lag": plan.lag} if plan.lag else {})


def of_commit(archive: Archive) -> dict[str, str]:
    """Attributes that say of which commit of which run a result holds, computed from it or from an earlier one."""
    return {
        "run": name_of(str(archive.path)),
        "path": shown(str(archive.path)),
        "attributes": json.dumps(attributes_of(archive.card), default=str),
        "archive_digest": str(archive.digest),
        "archive_state": str(archive.state),
        "time_axis": time_scale(archive.snapshots),
        "probe_examples": json.dumps({name: archive.probes[name].n for name in archive.probes}),
        "part_names": json.dumps(described(archive), ensure_ascii=False),
    }
