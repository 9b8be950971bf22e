"""Blocks: what is computed together. One block of snapshots is in memory, each array in it made once."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.arrays import View, closure
from analyze.arrays.sketches import leaving_out
from analyze.engine.plan import Examples, Plan, made_by, made_bytes, static_bytes, view_bytes
from analyze.engine.sketched import sketch_of, with_errors
from analyze.tables import example_probe
from tracer.errors import MissingPackageError, MissingTraceError, TracerError, byte_size, missing_package

if TYPE_CHECKING:
    import xarray as xr

    from tracer.archive import Archive

# More memory than this makes a block no faster, but slower: memory is handed out faster a second time. A block of
# fewer than a few snapshots reads the one before them too often.
_REUSED, _FEW = 1 << 28, 8


@dataclass
class Outcome:
    """What a metric returned for each view of a block, or why it could not."""

    returned: list[dict[str, Any]] = field(default_factory=list)
    message: str = ""
    missing: bool = False
    error: BaseException | None = None


@dataclass
class Block:
    """Some metrics on some snapshots. `lead` is the snapshot before the first, when comparing in time."""

    number: int
    plans: list[Plan]
    steps: tuple[int, ...]
    lead: int | None = None
    groups_of_sites: int = 1
    banded: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the metrics."""
        return [plan.card.name for plan in self.plans]

    def trimmed(self) -> Block:
        """The same block with no more of its plans, and of other metrics' results, than computing it takes."""
        seen = {*self.steps, self.lead}

        def cut(array: xr.DataArray) -> xr.DataArray:
            if "step" not in array.dims or not self.steps:
                return array
            return array.isel(step=[int(step) in seen for step in array["step"].values])

        plans = [
            replace(plan, results={name: cut(array) for name, array in plan.results.items()}, timeline=())
            for plan in self.plans
        ]
        return replace(self, plans=plans)


def blocks_of(
    plans: Sequence[Plan],
    archive: Archive,
    memory: int,
    failed: MutableMapping[str, Outcome],
    pieces: int = 1,
) -> Iterator[Block]:
    """Cut plans into blocks that fit in `memory` bytes; where not one snapshot fits, say so in `failed`.

    Metrics that read the same arrays stay together, so that no array is made twice; the snapshots of each
    such group are cut into at least `pieces` blocks, as far as there are so many.
    """
    groups: dict[Any, list[Plan]] = {}
    for plan in plans:
        alone = plan.whole or plan.slow or plan.card.combine
        # Where steps are left out, one that compares in time needs blocks without a gap; others go on in one.
        apart = bool(plan.lag) and len(list(_runs(plan.steps, plan.timeline))) > 1
        key = (plan.steps, plan.timeline, plan.card.name if alone else "", apart)
        groups.setdefault(key, []).append(plan)
    number = 0
    for group in itertools.chain.from_iterable(map(_sharing, groups.values())):
        fitting = [group] if _nbytes(group, archive) <= memory else [[plan] for plan in group]
        for together in fitting:
            for steps, lead, parts, banded in _cut(together, archive, memory, failed, pieces):
                yield Block(number, together, steps, lead, parts, banded)
                number += 1


def _sharing(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Plans in groups, such that no array is read by two of them."""
    groups: list[tuple[set[str], list[Plan]]] = []
    for plan in plans:
        names, members = {entry.name for entry in closure(plan.arrays) if not entry.static}, [plan]
        for other in [one for one in groups if one[0] & names]:
            groups.remove(other)
            names, members = names | other[0], other[1] + members
        groups.append((names, members))
    return [members for _, members in groups]


def _nbytes(
    plans: Sequence[Plan], archive: Archive, sites: tuple[int, ...] | None = None, banded: bool = False
) -> int:
    """Bytes of one snapshot of all that these metrics read, each array counted once a view."""
    names: dict[Examples, set[str]] = {}
    for plan in plans:
        for examples in plan.views:
            names.setdefault(examples, set()).update(plan.arrays)
    fixed = max((static_bytes(archive, [view], sorted(reads)) for view, reads in names.items()), default=0)
    fixed += sum(made_bytes(plan, archive, banded) for plan in plans)
    return fixed + sum(
        view_bytes(archive, view, sorted(reads), sites, banded) for view, reads in names.items()
    )


def _cut(
    plans: list[Plan], archive: Archive, memory: int, failed: MutableMapping[str, Outcome], pieces: int
) -> Iterator[tuple[tuple[int, ...], int | None, int, bool]]:
    first = plans[0]
    if not first.steps or first.whole:
        together = 0 if first.replays else _nbytes(plans, archive) * len(first.steps)
        if together > memory:
            message = f"reads all {len(first.steps)} snapshots at once, {byte_size(together)}: raise --memory"
            failed[first.card.name] = Outcome(message=message, missing=True)
            return
        yield first.steps, None, 1, False
        return
    size, parts, banded = _nbytes(plans, archive), 1, False
    if size > memory and all(plan.card.bands for plan in plans):
        in_bands = _nbytes(plans, archive, banded=True)
        size, banded = (in_bands, True) if in_bands <= memory else (size, False)
    if size > memory:
        parts = _groups_of_sites(first, archive, memory)
        if not parts:
            failed[first.card.name] = Outcome(message=_too_large(first, size, memory), missing=True)
            return
    lag = any(plan.lag for plan in plans)  # one compares with the snapshot before, which then is read too
    length = max(1, min(memory // max(size, 1) - lag, max(_FEW, _REUSED // max(size, 1))))
    length = min(length, -(-len(first.steps) // pieces))
    if first.slow:  # a snapshot at a time, so that progress shows and processes share it
        length = 1
    if banded:  # a table that takes more than the memory is on disk for one snapshot at a time
        length = 1
    if first.card.combine:  # sums do not depend on where blocks begin, however much memory there is
        length = 1
    timeline = first.timeline
    for steps in _runs(first.steps, timeline if lag else first.steps):
        place = bisect_left(timeline, steps[0])
        before = timeline[place - 1] if lag and place else None
        for start in range(0, len(steps), length):
            yield steps[start : start + length], steps[start - 1] if lag and start else before, parts, banded


def _runs(steps: Sequence[int], timeline: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Steps in groups that follow each other in a timeline without a gap.

    >>> list(_runs([0, 1, 8], [0, 1, 4, 8]))
    [(0, 1), (8,)]
    """
    places = [bisect_left(timeline, step) - position for position, step in enumerate(steps)]
    for _, group in itertools.groupby(zip(places, steps, strict=True), key=lambda pair: pair[0]):
        yield tuple(step for _, step in group)


def _groups_of_sites(plan: Plan, archive: Archive, memory: int) -> int:
    """Into how many groups the sites have to go for one snapshot to fit, 0 where that is impossible."""
    if plan.card.each != "site":
        return 0
    count = sum(site.get("start") is not None for site in archive.site_table)
    for groups in range(2, count + 1):
        parts = np.array_split(np.arange(count), groups)
        if all(_nbytes([plan], archive, tuple(map(int, part))) <= memory for part in parts):
            return groups
    return 0


def _too_large(plan: Plan, size: int, memory: int) -> str:
    assumed = plan.card.makes is None and made_by(plan)
    return (
        f"one snapshot of what {plan.card.name} reads takes {byte_size(size)} and memory is limited to "
        f"{byte_size(memory)}; raise the limit or record fewer examples (capture)"
        + (", or declare makes=() if it makes nothing for each pair of examples" if assumed else "")
    )


class Worker:
    """Computes blocks of one archive; examples and labels are read once and kept for the next block."""

    def __init__(self, archive: Archive, replay: Mapping[str, Any] | None = None) -> None:
        self.archive, self.replay = archive, dict(replay or {})
        self.shared: dict[str, Any] = {}
        self.statics: dict[Examples, dict[str, Any]] = {}
        self.given_up: dict[str, tuple[int, Outcome]] = {}

    def compute(self, block: Block) -> dict[str, Outcome]:
        """Call every metric of a block on each of its views."""
        shared: dict[str, Any] = {}
        views: dict[Any, View] = {}
        outcomes = {}
        for plan in block.plans:
            number, failure = self.given_up.get(plan.card.name, (block.number, None))
            # Blocks may come in any order; what is told is how the first of them fails.
            known = failure if number < block.number else None
            outcomes[plan.card.name] = known or _told(partial(self._returned, plan, block, shared, views))
        self._add_errors(block, views, outcomes)
        for name, outcome in outcomes.items():
            if outcome.message and self.given_up.get(name, (block.number,))[0] >= block.number:
                self.given_up[name] = block.number, outcome
        return outcomes

    def _returned(
        self, plan: Plan, block: Block, shared: dict[str, Any], views: dict[Any, View]
    ) -> list[dict[str, Any]]:
        returned = []
        for examples in plan.views:
            parts = [
                self._call(plan, self._view(plan, examples, block, shared, views, sites))
                for sites in self._sites(block)
            ]
            returned.append(parts[0] if len(parts) == 1 else _join_sites(plan, parts))
        return returned

    def _add_errors(self, block: Block, views: Mapping[Any, View], outcomes: dict[str, Outcome]) -> None:
        """Call those that are computed from sketches again, without each block of these, which they share."""
        plans = [plan for plan in block.plans if plan.sketched and not outcomes[plan.card.name].message]
        seen = {examples: views[examples] for plan in plans for examples in plan.views}
        left_out: dict[str, list[list[dict[str, Any]]]] = {plan.card.name: [] for plan in plans}
        for without in range(sketch_of(self.archive)["blocks"] if plans else 0):
            rest = {examples: leaving_out(view, without) for examples, view in seen.items()}
            for plan in plans:
                again = _told(partial(self._returned, plan, block, {}, rest))
                left_out[plan.card.name].append(again.returned)
                if again.message:
                    outcomes[plan.card.name] = again
            plans = [plan for plan in plans if not outcomes[plan.card.name].message]
        for plan in plans:
            outcome = outcomes[plan.card.name]
            by_view = zip(outcome.returned, *left_out[plan.card.name], strict=True)
            outcome.returned = [with_errors(plan.card, returned, others) for returned, *others in by_view]

    def _sites(self, block: Block) -> Sequence[tuple[int, ...] | None]:
        if block.groups_of_sites == 1:
            return [None]
        count = sum(site.get("start") is not None for site in self.archive.site_table)
        parts = np.array_split(np.arange(count), block.groups_of_sites)
        return [tuple(int(position) for position in part) for part in parts]

    def _view(
        self,
        plan: Plan,
        examples: Examples,
        block: Block,
        shared: dict[str, Any],
        views: dict[Any, View],
        sites: tuple[int, ...] | None,
    ) -> View:
        statics = self.statics.setdefault(examples, {})
        where = {"steps": block.steps, "lead": block.lead, "shared": shared, "statics": statics}
        where |= {"replay": self.replay, "worker": self.shared, "banded": block.banded}
        if sites is not None:
            return plan.view(self.archive, examples, sites=sites, **where)
        if examples not in views:
            views[examples] = plan.view(self.archive, examples, **where)
        return views[examples]

    def _call(self, plan: Plan, view: View) -> dict[str, Any]:
        def value(name: str) -> Any:
            if "." in name:
                return align(plan.results[name], view, plan.card.scope)
            return view.get(plan.array(name))

        arguments = [value(name) for name in plan.card.reads]
        optional = {name.replace(".", "_"): _or_none(value, name) for name in plan.optional}
        return dict(plan.card.function(*arguments, **optional, **plan.options))


def _told(call: Callable[[], list[dict[str, Any]]]) -> Outcome:
    """What a call returns, or why it could not."""
    try:
        return Outcome(call())
    except MissingTraceError as error:
        return Outcome(message=str(error), missing=True, error=error)
    except ImportError as error:
        lacking = missing_package(error)
        return Outcome(message=str(lacking or error), missing=lacking is not None, error=lacking or error)
    except TracerError as error:  # a sentence already
        return Outcome(message=str(error), error=error)
    except Exception as error:  # one faulty metric must not cost the results of all others
        return Outcome(message=f"failed with {type(error).__name__}: {error}", error=error)


def _or_none(value: Callable[[str], Any], name: str) -> Any:
    try:
        return value(name)
    except (MissingTraceError, MissingPackageError):  # a network is none without PyTorch
        return None


def align(array: xr.DataArray, view: View, scope: str) -> np.ndarray:
    """Another metric's result on the snapshots and examples of a view; NaN where it has no such snapshot."""
    if "example" in array.dims:
        probes = example_probe(array)
        rows = [
            np.flatnonzero(probes == name)[:count]
            for name, count in zip(view.probes, view.counts, strict=True)
        ]
        array = array.isel(example=np.concatenate(rows))
    if "probe" in array.dims:
        present = [name for name in view.probes if name in array["probe"].values]
        if not present:
            raise MissingTraceError(f"no result of {array.name!r} for probe {', '.join(view.probes)}")
        array = array.sel(probe=present)
        if scope != "all":
            array = array.isel(probe=0)
    if "step" in array.dims and view.steps and tuple(array["step"].values) != view.steps:
        array = array.reindex(step=list(view.steps))
    return np.asarray(array.values)


def _join_sites(plan: Plan, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    joined = dict(parts[0])
    for name, dims in plan.variables.items():
        if "site" in dims:
            axis = [dim for dim in dims if dim != "probe"].index("site")
            joined[name] = np.concatenate([np.asarray(part[name]) for part in parts], axis)
    return joined
