"""Results that grow: what of a stored one is still valid, and how new snapshots join it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.engine.assemble import added, assemble
from analyze.engine.fingerprint import Fingerprint, sources
from analyze.engine.plan import Plan
from analyze.saved.store import ResultStore

if TYPE_CHECKING:
    import xarray as xr

    from tracer.archive import Archive

SAVE_EVERY = 5.0  # seconds between saving what is there of a result under way


@dataclass(frozen=True)
class Held:
    """What is valid of a stored result, and of which steps; for a sum those that are in it."""

    data: xr.Dataset | None = None
    steps: tuple[int, ...] = ()


def held(plan: Plan, wanted: Fingerprint, store: ResultStore | None) -> Held:
    """What a store has of what a plan would compute, block by block."""
    name = plan.card.name
    stored = store.attributes(name) if store is not None else {}
    if store is None or not stored:
        return Held()
    if stored.get("fingerprint") == wanted.whole:
        return Held(store.read(name), plan.steps)
    if plan.whole:
        return Held()
    keys = _keys(stored)
    if plan.card.combine:
        # A sum goes on only from its beginning, and as one process adds it up: in the order of steps.
        n = len(keys)
        same = n > 0 and keys == wanted.keys[:n] and len(plan.views) == 1 and plan.card.scope != "probe"
        return Held(store.read(name), plan.steps[:n]) if same else Held()
    steps = tuple(step for block, key in wanted.blocks if key in set(keys) for step in block)
    if not steps:
        return Held()
    return Held(store.read(name).sel(step=list(steps)), steps)


class Way:
    """The way of one metric from what is held of it to its result."""

    def __init__(self, plan: Plan, wanted: Fingerprint, held: Held) -> None:
        self.plan, self.wanted, self.held = plan, wanted, held
        self.final = wanted
        self.returned: list[list[dict[str, Any]]] = []
        self._steps: list[int] = []
        self._saved = time.monotonic()

    def start(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Which of these steps are left to be computed."""
        if self.plan.whole:
            return () if self.held.data is not None else self.plan.steps
        if self.plan.card.combine and self.held.data is not None:
            self.returned, self._steps = [as_returned(self.held.data)], list(self.held.steps)
        self.final = self.wanted.only({*steps, *self.held.steps})
        return tuple(step for step in steps if step not in set(self.held.steps))

    def due(self, store: ResultStore | None) -> bool:
        """Whether it is time to save what is there, in case that the analysis is interrupted."""
        long = time.monotonic() - self._saved >= SAVE_EVERY
        return long and store is not None and not self.plan.whole

    def take(self, steps: Sequence[int], returned: list[dict[str, Any]]) -> None:
        """Take what the metric returned for a block; AnalysisError where it cannot be added to the others."""
        self._steps += steps
        if self.plan.card.combine and self.returned:
            self.returned[0] = [dict(one) for one in added(self.plan, self.returned[0], returned)]
        else:
            self.returned.append(returned)

    def result(self, archive: Archive) -> xr.Dataset:
        """The result as far as it is there; AnalysisError where the metric did not return what its card says."""
        self._saved = time.monotonic()
        plan = replace(self.plan, steps=tuple(self._steps))
        data = assemble(plan, self.returned, archive)
        if self.held.data is not None and not self.plan.card.combine:
            data = joined(plan, data, self.held.data)
        return self.marked(data, {})

    def marked(self, data: xr.Dataset, attributes: Mapping[str, Any]) -> xr.Dataset:
        """A result that says what it depends on, block by block."""
        steps = {*self.held.steps, *self._steps}
        now = self.wanted if self.plan.whole else self.wanted.only(steps)
        own = {"fingerprint": now.whole, "sources": sources(), "blocks": json.dumps(now.keys)}
        return data.assign_attrs({**data.attrs, **attributes, **own})


def joined(plan: Plan, new: xr.Dataset, old: xr.Dataset) -> xr.Dataset:
    """A result with the snapshots of two, in order; what does not lie along them, and attributes, are the new one's."""
    import xarray as xr

    data = xr.concat(
        [new, old],
        dim="step",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    data = data.sortby("step")
    for name, array in data.data_vars.items():
        undefined = int(np.isnan(array.values).sum()) if array.dtype.kind == "f" else 0
        data[name] = array.transpose(*plan.variables[str(name)]).assign_attrs(n_nan=undefined)
    return data.assign_attrs(new.attrs)


def as_returned(data: xr.Dataset) -> list[dict[str, Any]]:
    """A stored sum as what the metric returned for its one view, for others to be added to."""
    values = {str(name): array.values for name, array in data.variables.items()}
    return [{**values, "attrs": dict(data.attrs)}]


def _keys(attributes: Mapping[str, Any]) -> Sequence[str]:
    try:
        return [str(key) for key in json.loads(attributes.get("blocks", "[]"))]
    except (TypeError, ValueError):
        return []
