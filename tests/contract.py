"""What every metric has to keep, whoever wrote it: checks on its card and on what it computes."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from analyze import plot
from analyze.arrays import SOURCES, View
from analyze.contract import Metric
from analyze.engine.blocks import Worker, _or_none, align
from analyze.engine.cost import few
from analyze.engine.plan import Plan, make_plan, static_bytes
from analyze.plot.time_axis import carried
from tracer.archive import Archive

TOLERANCE = 1e-9
# Results that name examples by their place in the probe, or show only some of them, follow the order given.
POSITIONAL = {
    "path_neighbours": "its baselines are positions in the probe",
    "path_distance": "its cloud shows some of the pairs",
}
# Norms of the weights without the margin are defined whatever the margin is.
DEFINED_WITHOUT_ARGUMENTS = {"capacity", "norm_measures"}
# Fewer draws and steps of the metrics that run a network again; each one's own test looks at its numbers.
QUICK = {
    "cna_landscape": {"points": 3},
    "expected_sharpness": {"pairs": 2},
    "hessian": {"draws": 2, "nodes": 2, "trace_draws": 2, "top": 1, "tolerance": 0.1},
    "image_functions": {"paths": 3},
    "local_elasticity": {"examples": 5},
    "local_learning_coefficient": {"chains": 2, "draws": 2, "burn_in": 0, "checks": False, "step_size": 1e-3},
    "loss_plane": {"points": 2},
    "mode_connectivity": {"points": 3},
    "ntk_alignment": {"examples": 6},
    "pac_bayes": {"n_noise": 2, "bisections": 3},
    "pac_bayes_measures": {"draws": 1, "halvings": 1, "restarts": 1, "iterations": 1},
    "pgdl": {"draws": 2},
    "regions": {"pairs": 3, "samples": 8},
    "sharpness": {"iterations": 2},
}
EXAMPLES = ("example", "example_2", "train_example", "test_example", "point", "baseline")


def check_card(card: Metric) -> None:
    """The card says what the metric is, where it comes from and how to read it."""
    assert card.meaning and card.meaning.endswith((".", "?"))
    assert card.title and card.reading and card.formula and card.cost
    assert all(ref.arxiv or ref.doi or ref.url or ref.venue for ref in card.reference) and card.reference
    assert ">>>" in card.definition, "no doctest"
    assert [name for name in card.options if name not in card.definition] == [], "undocumented options"
    assert card.plot is not None, f"no plot_{card.name}"


def check_result(card: Metric, data: xr.Dataset) -> None:
    """Dimensions and dtypes are those of the card, values lie in its bounds, coordinates are labelled."""
    assert set(data.data_vars) == set(card.variables)
    for name, dims in card.variables.items():
        values = data[name]
        assert values.dims == tuple(dims)
        assert values.dtype == (np.int64 if card.is_integer(name) else np.float64)
        assert values.attrs["n_nan"] == int(np.isnan(values).sum())
        low, high = card.bounds_of(name) or (-np.inf, np.inf)
        defined = values.values[~np.isnan(values.values)]
        assert (defined >= low - TOLERANCE).all() and (defined <= high + TOLERANCE).all(), name
    for dim in data.dims:
        if dim in ("step", "probe", "site", "layer"):
            assert dim in data.coords
    if "step" in data.dims:
        assert data["epoch"].dims == ("step",)
    if "example" in data.dims:
        assert {"id", "split"} <= set(data.coords)
    assert all(isinstance(value, (str, int, float)) for value in data.attrs.values())


def check_blocks(card: Metric, archive: Archive, whole: dict[str, Any]) -> None:
    """One snapshot at a time gives what all of them at once give.

    Of metrics that run a network again, the last snapshot: it comes after all others where they are taken together.
    """
    plan = plan_of(card, archive)
    if plan.whole or not plan.steps:
        return
    worker = Worker(archive)
    last = len(plan.steps) - 1
    for position, step in enumerate(plan.steps):
        if plan.replays and position < last:
            continue
        lead = plan.steps[position - 1] if plan.lag and position else None
        for examples, returned in zip(plan.views, whole["returned"], strict=True):
            view = View(archive, *examples, steps=(step,), lead=lead)
            single = worker._call(plan, view)
            for name, dims in _own_dims(card).items():
                if "step" in dims:
                    axis = dims.index("step")
                    expected = np.take(np.asarray(returned[name]), [position], axis)
                    np.testing.assert_allclose(single[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


def check_inputs_unchanged(whole: dict[str, Any]) -> None:
    """Calling the function left its arguments as they were."""
    for first, second in zip(whole["before"], whole["after"], strict=True):
        np.testing.assert_array_equal(first, second)


def check_nan(card: Metric, archive: Archive) -> None:
    """Arguments without a single number give NaN, and neither an exception nor a warning nor a 0."""
    plan = plan_of(card, archive)
    arguments, optional = arguments_of(plan, archive)
    blank = [_blank(name, value) for name, value in zip(card.reads, arguments, strict=True)]
    none = dict.fromkeys(optional)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returned = call(plan, blank, none)
    if all(old is new for old, new in zip(arguments, blank, strict=True)):
        return  # it reads whole numbers alone, which are never undefined
    for name, dims in card.variables.items():
        if "step" in dims and not card.is_integer(name) and name != "histogram":
            assert np.isnan(np.asarray(returned[name], float)).all(), name


def check_order_of_examples(card: Metric, archive: Archive) -> None:
    """Shuffling the examples shuffles what is per example and leaves the rest."""
    plan = plan_of(card, archive)
    arguments, optional = arguments_of(plan, archive)
    rng, ends = np.random.default_rng(0), np.cumsum((0, *plan.views[0][1]))
    order = np.concatenate([rng.permutation(np.arange(*part)) for part in pairwise(ends)])
    shuffled = [_shuffle(name, value, order, plan) for name, value in zip(card.reads, arguments, strict=True)]
    chosen = {name: _shuffle(name, value, order, plan) for name, value in optional.items()}
    first, second = call(plan, arguments, optional), call(plan, shuffled, chosen)
    for name, dims in _own_dims(card).items():
        if set(dims) & set(EXAMPLES) - {"example"}:
            continue
        expected = np.asarray(first[name], float)
        if "example" in dims:
            expected = np.take(expected, order, dims.index("example"))
        np.testing.assert_allclose(second[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)


def check_plot(card: Metric, data: xr.Dataset, *, each: bool = False) -> None:
    """The figure can be drawn; with `each` also of a single snapshot, of undefined values, and of both at once."""
    assert card.plot is not None
    last = data.isel(step=[-1]) if "step" in data.dims else data
    for shown in (data, last, _undefined(data), _undefined(last)) if each else (data,):
        figure = plot.draw(card.plot, shown)
        assert figure.axes and figure.get_figwidth() <= plot.WIDTH
        if shown is data and data.sizes.get("step", 0) > 2:
            # A line or a map over training with an axis of its own would not follow the page's switch.
            assert all(carried(one) for one in figure.axes if one.get_xlabel() == "step")
        assert not figure.texts and figure._suptitle is None  # what belongs to no panel is cut off on a phone


def _undefined(data: xr.Dataset) -> xr.Dataset:
    blank = data.copy(deep=True)
    for name, values in blank.data_vars.items():
        if values.dtype.kind == "f":
            blank[name] = values * np.nan
    return blank


def arguments_of(plan: Plan, archive: Archive) -> tuple[list[Any], dict[str, Any]]:
    """What the engine hands to a metric for its first view and all snapshots."""
    view = View(archive, *plan.views[0], steps=plan.steps)

    def value(name: str) -> Any:
        return align(plan.results[name], view, plan.card.scope) if "." in name else view.get(name)

    optional = {name.replace(".", "_"): _or_none(value, name) for name in plan.optional}
    return [value(name) for name in plan.card.reads], optional


def call(plan: Plan, arguments: list[Any], optional: dict[str, Any]) -> dict[str, Any]:
    """Call a metric with its options."""
    return dict(plan.card.function(*arguments, **optional, **plan.options))


def returned_by(card: Metric, archive: Archive) -> dict[str, Any]:
    """What a metric returns for every view, all snapshots at once; its arguments for the first before and after."""
    plan = plan_of(card, archive)
    arguments, optional = arguments_of(plan, archive)
    before = _flatten([arguments, optional])
    first, worker = call(plan, arguments, optional), Worker(archive)
    others = [worker._call(plan, View(archive, *examples, steps=plan.steps)) for examples in plan.views[1:]]
    return {"returned": [first, *others], "before": before, "after": _flatten([arguments, optional])}


_results: dict[str, xr.Dataset] = {}


def plan_of(card: Metric, archive: Archive) -> Plan:
    """How a metric is computed with quick options, and at three snapshots where it runs a network again."""
    import analyze

    others = [name.partition(".")[0] for name in (*card.reads, *card.optional) if "." in name]
    for name in others:
        if name not in _results:
            _results.update(analyze.run(archive, [name]))
    plan = make_plan(card, QUICK.get(card.name, {}), archive, _results)
    if plan.replays:
        plan.steps = few(plan.steps, 3)
    assert static_bytes(archive, plan.views, plan.arrays) >= 0
    return plan


def _own_dims(card: Metric) -> dict[str, tuple[str, ...]]:
    """Dimensions of what the function itself returns."""
    drop = "probe" if card.scope == "probe" else ""
    return {name: tuple(dim for dim in dims if dim != drop) for name, dims in card.variables.items()}


def _flatten(values: Any) -> list[np.ndarray]:
    if isinstance(values, np.ndarray):
        return [values.copy()]
    if isinstance(values, dict):
        return [part for value in values.values() for part in _flatten(value)]
    if isinstance(values, (list, tuple)):
        return [part for value in values for part in _flatten(value)]
    return []


def _blank(name: str, value: Any) -> Any:
    in_time = "." in name or not SOURCES[name].static
    if isinstance(value, list) and in_time and all(isinstance(part, np.ndarray) for part in value):
        return [_blank(name, part) for part in value]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and in_time:
        return np.full(value.shape, np.nan, value.dtype)
    return value


def _shuffle(name: str, value: Any, order: np.ndarray, plan: Plan) -> Any:
    if "." in name or name.replace(".", "_") not in SOURCES:
        match = next(
            (read for read in plan.results if read.replace(".", "_") == name.replace(".", "_")), None
        )
        dims: tuple[str, ...] = tuple(map(str, plan.results[match].dims)) if match else ()
        dims = tuple(dim for dim in dims if dim != "probe")
    else:
        dims = SOURCES[name].dims
    if isinstance(value, list) and "example" in dims:
        return [_shuffle(name, part, order, plan) for part in value]
    if not isinstance(value, np.ndarray):
        return value
    for axis, dim in enumerate(dims):
        if dim in ("example", "example_2"):
            value = np.take(value, order, axis)
    return value
