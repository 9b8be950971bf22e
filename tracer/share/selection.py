"""Which part of an archive is handed on, and what its tables say then."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracer.archive.source import Source
from tracer.errors import ArchiveError, did_you_mean

Steps = slice | Iterable[int]


@dataclass
class Selection:
    """Groups left out, indices kept along axes of arrays, and attributes to match, each by path."""

    dropped: tuple[str, ...] = ()
    axes: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)

    def drops(self, path: str) -> bool:
        """Whether a group or array is left out."""
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.dropped)

    def rows(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Committed rows of what is kept."""
        chosen = {group: n for group, n in rows.items() if not self.drops(group)}
        return {
            group: len(self.axes[f"{group}/step"][0]) if f"{group}/step" in self.axes else n
            for group, n in chosen.items()
        }


def select(
    source: Source,
    *,
    probes: Collection[str] | None,
    sites: Collection[str] | None,
    steps: Steps | None,
    gradients: bool,
) -> Selection:
    """Resolve a choice of probes, sites and snapshots. Errors: ArchiveError for names that are not there."""
    chosen = Selection()
    dropped: list[str] = []
    if not gradients:
        dropped += [path for path in source.streams() if path.endswith("/gradients")]
        if dropped:
            chosen.left_out["gradients"] = True
    if probes is not None:
        dropped += _choose_probes(source, probes, chosen)
    chosen.dropped = tuple(dropped)
    if sites is not None:
        _choose_sites(source, sites, chosen)
    if steps is not None:
        _choose_steps(source, steps, chosen)
    return chosen


def _choose_probes(source: Source, probes: Collection[str], chosen: Selection) -> list[str]:
    names = source.children("probes")
    _known(probes, names, "probe", source)
    out = [name for name in names if name not in probes]
    if out:
        chosen.left_out["probes"] = out
    table = source.group_attributes("gram").get("probes", [])
    examples = np.repeat([name in probes for name, _ in table], [n for _, n in table])
    if out and source.has("gram/gram"):
        _take(chosen, "gram/gram", 2, np.flatnonzero(examples))
        _take(chosen, "gram/gram", 3, np.flatnonzero(examples))
        chosen.attributes["gram"] = {"probes": [entry for entry in table if entry[0] in probes]}
    return [f"probes/{name}" for name in out]


def _choose_sites(source: Source, sites: Collection[str], chosen: Selection) -> None:
    table = source.attributes.get("sites", [])
    _known(sites, [site["name"] for site in table], "site", source)
    listed = [site["name"] in sites for site in table]
    if all(listed):
        return
    chosen.left_out["sites"] = [site["name"] for site in table if site["name"] not in sites]
    masked = [site for site in table if site.get("start") is not None]
    units, start, made = [], 0, []
    for site in (site for site, keep in zip(table, listed, strict=True) if keep):
        if site.get("start") is not None:
            units.append(np.arange(site["start"], site["start"] + site["n_units"]))
            site, start = {**site, "start": start}, start + site["n_units"]
        made.append(site)
    chosen.attributes[""] = {"sites": made}
    indices = {
        "site": np.flatnonzero(listed),
        "activations_unit": np.flatnonzero(np.repeat(listed, [site["n_units"] for site in table])),
        "unit": np.concatenate([np.empty(0, np.int64), *units]),
    }
    total = sum(site["n_units"] for site in masked)
    for path, node in source.nodes.items():
        for axis, dim in enumerate(node.get("dimension_names", ())):
            if dim in indices and (dim != "unit" or node["shape"][axis] == total):
                _take(chosen, path, axis, indices[dim])
    missing = source.group_attributes("minibatch/masks").get("missing")
    if missing:
        chosen.attributes["minibatch/masks"] = {"missing": [name for name in missing if name in sites]}


def _choose_steps(source: Source, steps: Steps, chosen: Selection) -> None:
    groups = [group for group in source.streams() if not chosen.drops(group)]
    everything = np.unique(np.concatenate([np.empty(0, np.int64), *map(source.steps, groups)]))
    wanted = everything[_matches(everything, steps)]
    if not len(wanted):
        raise ArchiveError(
            f"none of the {len(everything)} snapshots of {source.path!r} is at the steps asked for"
        )
    if len(wanted) < len(everything):
        chosen.left_out["snapshots"] = len(everything) - len(wanted)
    for group in groups:
        rows = np.flatnonzero(np.isin(source.steps(group), wanted))
        for name in source.children(group):
            node = source.nodes[f"{group}/{name}"]
            if node["node_type"] == "array" and node["dimension_names"][:1] == ["step"]:
                _take(chosen, f"{group}/{name}", 0, rows)


def _matches(values: np.ndarray, steps: Steps) -> np.ndarray:
    """Which values a slice of steps, or a list of them, names; numbers of any size, as Python has them."""
    known = values.tolist()
    if not isinstance(steps, slice):
        wanted = {int(step) for step in steps}
        return np.array([value in wanted for value in known], bool)
    start, stride = steps.start or 0, 1 if steps.step is None else steps.step
    if stride <= 0:
        raise ArchiveError(f"steps are selected with a positive stride, not {stride}")
    stop = math.inf if steps.stop is None else steps.stop
    return np.array([start <= value < stop and (value - start) % stride == 0 for value in known], bool)


def _take(chosen: Selection, path: str, axis: int, indices: np.ndarray) -> None:
    if not chosen.drops(path):
        chosen.axes.setdefault(path, {})[axis] = indices


def _known(names: Collection[str], known: Collection[str], kind: str, source: Source) -> None:
    if isinstance(names, str):
        raise ArchiveError(f"{kind}s are given as a list of names, not as the text {names!r}")
    for name in names:
        if name not in known:
            raise ArchiveError(f"there is no {kind} {name!r} in {source.path!r}; {did_you_mean(name, known)}")
