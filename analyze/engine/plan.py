"""Before anything is computed: which snapshots and examples a metric sees, or what it lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

# Importing them declares the arrays they make.
from analyze.arrays import SOURCES, View, classes, closure, derived, grams, minibatches, recorded, sketches  # noqa: F401
from analyze.arrays.lag import compared
from analyze.catalogue import available_metrics
from analyze.contract import Metric
from analyze.engine import sketched
from analyze.engine.sketched import ARRAYS
from analyze.replay import sources  # noqa: F401
from analyze.tables import example_probe
from tracer.errors import ArchiveError, ArgumentError, MissingTraceError
from tracer.spec import GRADIENTS_OFF, HOW, stream_of

if TYPE_CHECKING:
    import xarray as xr

    from tracer.archive import Archive

NO_PROBE = ("weights", "minibatch")  # streams that belong to no probe
RECORD_ONE = "record one with probes={'train': (inputs, targets)}"
PAIRS = ("example", "example_2")
Examples = tuple[tuple[str, ...], tuple[int, ...]]


@dataclass
class Plan:
    """A metric with its options, and the snapshots and examples it is computed on.

    timeline: all snapshots it could be computed on, of which `steps` are to be computed now; one that compares in
    time reads the one before in the timeline too. replays: whether the network has to be run again. long: whether it
    is of what is stored and takes so long that others come first. sketched: whether it is computed from sketches of
    gradients. inherited: options of the results it reads, `metric.option`, that are not the defaults.
    """

    card: Metric
    options: dict[str, Any]
    steps: tuple[int, ...] = ()
    timeline: tuple[int, ...] = ()
    replays: bool = False
    long: bool = False
    lag: str = ""
    views: tuple[Examples, ...] = ()
    optional: tuple[str, ...] = ()
    sketched: bool = False
    results: dict[str, xr.DataArray] = field(default_factory=dict)
    inherited: dict[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> list[str]:
        """Names read from the archive, as opposed to results of other metrics."""
        return [self.array(name) for name in (*self.card.reads, *self.optional) if "." not in name]

    @property
    def slow(self) -> bool:
        """Whether its own work is what takes long, and not making the arrays that others read too."""
        return "states" in self.arrays or (self.long and self.card.work > 1)

    def array(self, name: str) -> str:
        """The array that is read under a name of the card."""
        return ARRAYS.get(name, name) if self.sketched else name

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """What the metric returns, and what is made beside it."""
        return self.card.variables | (sketched.variables(self.card) if self.sketched else {})

    @property
    def whole(self) -> bool:
        """Whether all snapshots have to be handed over at once."""
        return self.card.whole or not (self.card.in_time or self.card.combine)

    def view(self, archive: Archive, examples: Examples, **where: Any) -> View:
        """The view of one call."""
        return View(archive, *examples, **where)

    def nbytes(self, archive: Archive) -> int:
        """Upper estimate of the bytes one snapshot takes while this metric is computed."""
        read = max((view_bytes(archive, examples, self.arrays) for examples in self.views), default=0)
        return read + made_bytes(self, archive)


def view_bytes(
    archive: Archive,
    examples: Examples,
    names: Sequence[str],
    sites: tuple[int, ...] | None = None,
    banded: bool = False,
) -> int:
    """Bytes of one snapshot of the named arrays and all they are made of, and room for a metric's copies."""
    view = View(archive, *examples, sites=sites, banded=banded)
    read = [entry for entry in closure(names) if not entry.static]
    sizes = [entry.nbytes(view) for entry in read]
    beside = 0 if banded else sum(entry.beside(view) for entry in read)
    return sum(sizes) + 2 * max(sizes, default=0) + beside


def made_bytes(plan: Plan, archive: Archive, banded: bool = False) -> int:
    """Bytes of what a metric's function itself makes of one snapshot."""
    views = [plan.view(archive, examples, banded=banded) for examples in plan.views]
    return max((8 * sum(map(view.entries, made_by(plan))) for view in views), default=0)


def made_by(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """What a metric makes, as declared; else pairs of the examples whose values it reads one by one."""
    if plan.card.makes is not None:
        return plan.card.makes
    read = {dim for entry in closure(plan.arrays) for dim in entry.dims}
    read |= {str(dim) for array in plan.results.values() for dim in array.dims}
    alone = "example" in read and "example_2" not in read and "states" not in plan.arrays
    return (PAIRS,) if alone else ()


def static_bytes(archive: Archive, examples: Sequence[Examples], names: Sequence[str]) -> int:
    """Bytes of the examples themselves, where a metric reads them."""
    total = 0
    for name in {"inputs", "raw"} & {entry.name for entry in closure(names)}:
        for probe, count in {
            part for probes, counts in examples for part in zip(probes, counts, strict=True)
        }:
            values = getattr(archive.probes[probe], name)
            if values is not None:
                total += count * prod(values.shape[1:]) * values.dtype.itemsize
    return total


def make_plan(
    card: Metric, options: Mapping[str, Any], archive: Archive, done: Mapping[str, xr.Dataset]
) -> Plan:
    """Plan a metric, given the results of others; MissingTraceError where it cannot be computed."""
    plan = Plan(card, card.with_options(options), sketched=sketched.is_sketched(card, archive))
    plan.results = {name: _result(name, done, card) for name in card.reads if "." in name}
    for name in plan.arrays:
        if name not in SOURCES:
            where = f"; it comes from {card.needs}" if card.needs else ""
            raise MissingTraceError(f"needs `{name}`, which the archive does not hold{where}")
    reads = closure(plan.arrays)
    streams = sorted({entry.stream for entry in reads if entry.stream})
    probes = _probes(card, archive, [stream for stream in streams if stream not in NO_PROBE])
    for array in plan.results.values():
        if "probe" in array.dims:
            probes = [name for name in probes if name in array["probe"].values]
    if not probes and (card.scope == "probe" or any("example" in entry.dims for entry in reads)):
        lacking = (
            f"one with everything {card.name} reads" if archive.probes else "of which the archive has none"
        )
        raise MissingTraceError(f"needs a probe, {lacking}; {_given_up(archive) or RECORD_ONE}")
    counts = {name: _count(archive, name, streams, plan.results) for name in probes}
    plan.views = _views(card, probes, counts)
    in_time = sorted({entry.stream for entry in reads if entry.stream and not entry.static})
    plan.steps = _steps(archive, probes, in_time, plan)
    if card.lag:
        plan.steps, plan.lag = compared(plan.steps, archive.epoch_ends)
    asked = [name for name, when in card.optional.items() if when.items() <= plan.options.items()]
    plan.optional = tuple(name for name in asked if _available(name, archive, plan))
    for name in asked:
        if "." in name and name.partition(".")[0] in done:
            plan.results[name] = _result(name, done, card)
            plan.optional += (name,)
    for other in dict.fromkeys(name.partition(".")[0] for name in plan.results):
        plan.inherited |= other_options(other, done[other].attrs)
    plan.timeline = plan.steps
    plan.replays = _replays(plan, archive)
    if plan.replays and (card.classes or "labels" in plan.arrays):
        _look_for_classes(plan, archive)
    return plan


def other_options(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a result, by `metric.option`, that are not the defaults, and of those it was made of.

    Of a metric that is not installed the defaults are not known. Errors: ValueError where they cannot be read.
    """
    card = available_metrics().get(name)
    saved = json.loads(str(attributes.get("options", "{}")))
    if not isinstance(saved, dict):
        raise ArgumentError(f"options of {name} are no mapping")
    usual = saved if card is None else json.loads(json.dumps(card.options, default=str))
    own = {
        f"{name}.{key}": value for key, value in saved.items() if "." not in key and usual.get(key) != value
    }
    return own | {key: value for key, value in saved.items() if "." in key}


def _look_for_classes(plan: Plan, archive: Archive) -> None:
    """MissingTraceError where there is no class for each example: what cannot be computed is not to be paid for."""
    try:
        for examples in plan.views:
            plan.view(archive, examples).get("labels")
    except MissingTraceError:
        raise
    except ArchiveError:
        return  # damaged: the metric that reads it says so


def _replays(plan: Plan, archive: Archive) -> bool:
    """Whether the network is run again: for a metric that asks for it, or for activations that were not recorded."""
    if "states" in plan.arrays:
        return True
    recomputed = set(getattr(archive, "recomputed", ())) & {
        name for probes, _ in plan.views for name in probes
    }
    return bool(recomputed) and any(entry.stream == "activations" for entry in closure(plan.arrays))


def stream_steps(archive: Archive, stream: str, probe: str) -> tuple[int, ...]:
    """Steps at which a stream was recorded, of one probe where it belongs to probes; empty if never."""
    try:
        if stream in ("weights", "gram"):
            steps = archive.steps(stream)
        elif stream == "minibatch":
            steps = archive.minibatch.steps
        else:
            steps = archive.probes[probe].steps(stream)
    except MissingTraceError:
        return ()
    return tuple(int(step) for step in steps)


def captured(archive: Archive, stream: str, probe: str) -> int:
    """How many examples of a probe a stream holds."""
    if stream == "gram":
        return {str(name): int(n) for name, n in archive.gram_probes}.get(probe, 0)
    view = archive.probes[probe]
    count = view.capture.get(stream_of(stream))
    return view.n if count is None else min(int(count), view.n)


def probe_names(archive: Archive) -> list[str]:
    """Names of the probes, those of split `train` first, as every result orders them."""
    return sorted(archive.probes, key=lambda name: (archive.probes[name].split != "train", name))


def _holds(archive: Archive, stream: str, probe: str) -> bool:
    return bool(stream_steps(archive, stream, probe)) and captured(archive, stream, probe) > 0


def _probes(card: Metric, archive: Archive, streams: Sequence[str]) -> list[str]:
    names = probe_names(archive)
    if not names and (streams or card.scope != "all"):
        raise MissingTraceError(
            f"needs a probe, of which the archive has none; {_given_up(archive) or RECORD_ONE}"
        )
    if card.scope in ("train", "test"):
        names = [name for name in names if archive.probes[name].split == card.scope]
        if not names:
            raise MissingTraceError(
                f"needs a probe of split {card.scope!r}, the archive has "
                f"{sorted({probe.split for probe in archive.probes.values()})}; record one, or give "
                f"a tracer.Probe split={card.scope!r}"
            )
    for stream in streams:
        holding = [name for name in names if _holds(archive, stream, name)]
        if not holding:
            where = f" of split {card.scope!r}" if card.scope in ("train", "test") else ""
            alone = stream_of(stream) == "gradients" and sketched.has_sketches(archive)
            none = (
                "where the archive has sketches of gradients alone"
                if alone
                else "of which the archive has none"
            )
            raise MissingTraceError(
                f"needs `{stream}` of a probe{where}, {none}; {_given_up(archive, stream) or _how(archive, stream)}"
            )
        names = holding
    return names


def _how(archive: Archive, stream: str) -> str:
    """How to have a stream; activations are computed again where there is a network to run."""
    if stream == "activations" and archive.card.get("network") == "eager":
        return f"{HOW[stream]}, or give a model that can be traced by `tracer analyze --model pkg.module:factory`"
    return HOW[stream]


def _given_up(archive: Archive, stream: str = "") -> str:
    """What the recording said where it was given probes and could record none of them, or no gradients of theirs."""
    notes: Sequence[str] = archive.attributes.get("notes") or ()
    if archive.probes:
        off = stream != "" and stream_of(stream) == "gradients"
        notes = [note for note in notes if off and GRADIENTS_OFF in note]
    elif not archive.card.get("probes"):
        notes = ()
    return f"its recording said: {notes[0].rstrip('.')}" if notes else ""


def _count(archive: Archive, probe: str, streams: Sequence[str], results: Mapping[str, xr.DataArray]) -> int:
    counts = [captured(archive, stream, probe) for stream in streams if stream not in NO_PROBE]
    for array in results.values():
        if "example" in array.dims:
            counts.append(int((example_probe(array) == probe).sum()))
    return min(counts, default=archive.probes[probe].n)


def _views(card: Metric, probes: Sequence[str], counts: Mapping[str, int]) -> tuple[Examples, ...]:
    present = [name for name in probes if counts[name] > 0]
    if probes and not present:
        raise MissingTraceError(f"no example of {', '.join(probes)} holds everything that {card.name} needs")
    if card.scope == "probe":
        return tuple(((name,), (counts[name],)) for name in present)
    return ((tuple(present), tuple(counts[name] for name in present)),)


def _steps(archive: Archive, probes: Sequence[str], streams: Sequence[str], plan: Plan) -> tuple[int, ...]:
    if "minibatch" in streams and not stream_steps(archive, "minibatch", ""):
        raise MissingTraceError(f"needs minibatches, of which the archive has none; {HOW['minibatch']}")
    lists = [stream_steps(archive, stream, probe) for stream in streams for probe in (probes or [""])]
    if not lists:
        lists = [
            tuple(map(int, array["step"].values)) for array in plan.results.values() if "step" in array.dims
        ]
    if not lists and any("step" in SOURCES[name].dims for name in plan.arrays):
        lists = [tuple(int(step) for step in archive.snapshots)]
    if not lists:
        return ()
    common = reduce(set.intersection, map(set, lists))
    if not common:
        what = " and ".join(f"`{stream}`" for stream in streams) or " and ".join(plan.results)
        raise MissingTraceError(
            f"no snapshot has {what} together, so nothing can be compared; align their schedules"
        )
    return tuple(sorted(common))


def _result(name: str, done: Mapping[str, xr.Dataset], card: Metric) -> xr.DataArray:
    metric, _, variable = name.partition(".")
    if metric not in done:
        raise MissingTraceError(f"needs the result of `{metric}`, which could not be computed")
    if variable not in done[metric]:
        raise MissingTraceError(
            f"{card.name} reads {name!r}, but `{metric}` has {list(done[metric].data_vars)}"
        )
    return done[metric][variable]


def _available(name: str, archive: Archive, plan: Plan) -> bool:
    """Whether an optional array exists for every example and snapshot the metric has anyway."""
    if "." in name:
        return False
    for entry in closure([name]):
        for probes, counts in plan.views:
            if entry.stream in NO_PROBE:
                continue
            for probe, count in zip(probes, counts, strict=True):
                if not entry.stream:
                    continue
                if not set(plan.steps) <= set(stream_steps(archive, entry.stream, probe)):
                    return False
                if captured(archive, entry.stream, probe) < count:
                    return False
    if SOURCES[name].static:
        try:
            if SOURCES[name].of == "network":  # looked at where it is run, and None if it is none after all
                archive.network()
                return find_spec("torch") is not None
            for examples in plan.views:
                plan.view(archive, examples).get(name)
        except MissingTraceError:
            return False
        except ArchiveError:
            return True  # damaged: the metric that reads it says so
    return True
