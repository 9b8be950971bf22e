"""Activations that were not recorded, computed when a metric asks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    from tracer.archive import Archive
    from tracer.archive.probes import ProbeView

STREAM = "activations"
EXAMPLES = 128  # of a probe without masks
NBYTES = 1 << 26  # of one probe at one snapshot: what is recomputed unasked stays small
KEPT = 1 << 28  # bytes of activations kept for the next site


def with_activations(archive: Archive, settings: Mapping[str, Any]) -> Archive:
    """The archive, with activations of probes that were recorded without, if weights and network are there.

    `settings`: as `analyze.run(replay=...)`; `examples` says of how many examples of a probe (default: as
    many as have masks, or 128, at most 64 MiB a snapshot). Where another probe's were recorded at more steps
    than weights were, nothing is added: a metric would see only the steps that all probes share.
    """
    try:
        archive.steps("weights")
        archive.network()
    except MissingTraceError:
        if settings.get("model") is None:
            return archive
    lacking = [name for name, view in archive.probes.items() if not _holds(view) and view.n_tensors("inputs")]
    if not lacking or not archive.sites or _would_lose(archive):
        return archive
    return cast("Archive", _Archive(archive, lacking, settings))


def _would_lose(archive: Archive) -> bool:
    """Whether a probe has activations at a step without weights, which none computed beside it could have."""
    recorded = [view.steps(STREAM) for view in archive.probes.values() if _holds(view)]
    return any(not np.isin(steps, archive.steps("weights")).all() for steps in recorded)


def _holds(view: ProbeView) -> bool:
    try:
        return len(view.steps(STREAM)) > 0
    except MissingTraceError:
        return False


class _Archive:
    """An archive whose probes have activations; recomputed: names of those for which the network is run again."""

    def __init__(self, archive: Archive, lacking: list[str], settings: Mapping[str, Any]) -> None:
        self._archive, self.recomputed, self._settings = archive, lacking, settings
        self._kept: OrderedDict[tuple[str, int], dict[str, np.ndarray]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    @cached_property
    def probes(self) -> Mapping[str, Any]:
        """Probes by name."""
        views = type(self._archive.probes)()
        for name, view in self._archive.probes.items():
            views[name] = _Probe(view, self) if name in self.recomputed else view  # type: ignore[index]
        return views

    @cached_property
    def replay(self) -> Any:
        """The archive's network; torch is loaded here."""
        return import_module("analyze.replay.replay").replay_of(self._archive, self._settings)

    def count(self, view: ProbeView) -> int:
        """Number of examples that activations are computed of."""
        asked = self._settings.get("examples")
        if asked is not None:
            return min(int(asked), view.n)
        units = sum(int(site["n_units"]) for site in self._archive.site_table)
        wanted = view.capture.get("masks") or EXAMPLES
        return min(wanted, view.n, max(8, NBYTES // (4 * max(1, units))))

    def activations(self, name: str, step: int) -> dict[str, np.ndarray]:
        """Every site's activations of a probe at a step; the last ones are kept while they are small."""
        key = (name, int(step))
        if key not in self._kept:
            state = self.replay.at(step)
            activations = state.activations(state.probe(name, self.count(self._archive.probes[name])))
            self._kept[key] = {site: values.numpy() for site, values in activations.items()}
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


def _nbytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


class _Probe:
    """A probe that has activations at every step with weights."""

    def __init__(self, view: ProbeView, archive: _Archive) -> None:
        self._view, self._of = view, archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    @property
    def capture(self) -> dict[str, int]:
        """Number of examples each stream holds."""
        return {**self._view.capture, STREAM: self._of.count(self._view)}

    def steps(self, stream: str) -> np.ndarray:
        """Steps at which a stream can be had."""
        return self._of._archive.steps("weights") if stream == STREAM else self._view.steps(stream)

    def activations(self, site: str, step: int) -> np.ndarray:
        """Outputs of a site, float32 (example, unit)."""
        values = self._of.activations(self._view.name, step)
        return values[site] if site in values else self._view.activations(site, step)
