"""What several metrics compute from the archive's arrays: cosines, overlaps of paths, margins, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.bands import Bands, Pairs, diagonal
from analyze.arrays.recorded import activations_at, read_bits
from tracer import bits as masks
from tracer.errors import MissingTraceError

Path = list[np.ndarray]  # of one snapshot: packed rows (example, byte) of each site


@source("norms2", "step", "layer", "example", needs=("gram",))
def _norms2(view: View) -> np.ndarray:
    return diagonal(view.get("gram"))


@source("cosine", "step", "layer", "example", "example_2", needs=("gram",))
def _cosine(view: View) -> Pairs:
    return cosines_of(view.get("gram"))


def cosines_of(gram: Pairs) -> Pairs:
    """Cosines of a table of inner products, in bands where that is in bands."""
    if not isinstance(gram, Bands):
        return cosines(gram)

    def make(step: int, rows: slice) -> np.ndarray:
        squares = gram.diagonal(step)
        return _divided(gram.band(step, rows), squares[:, rows], squares)

    return Bands(gram.shape, lambda step: np.where(gram.diagonal(step) == 0, np.nan, 1.0), make)


def cosines(gram: np.ndarray) -> np.ndarray:
    """Cosines (..., example, example_2) of a Gram matrix, NaN where either norm is 0.

    >>> cosines(np.array([[4.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))
    array([[1. , 0.5, nan],
           [0.5, 1. , nan],
           [nan, nan, nan]])
    """
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    return _divided(gram, squares, squares)


def _divided(products: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Products (..., n, m) over the lengths of vectors whose squares are `rows` (..., n) and `columns` (..., m)."""
    with np.errstate(invalid="ignore"):
        lengths = [np.sqrt(squares) for squares in (rows, columns)]
        left, right = (np.where(length == 0, np.nan, length) for length in lengths)
        # Two divisions, since the product of two small norms may underflow to 0.
        cosine = products / left[..., None]
        cosine /= right[..., None, :]
    return np.asarray(cosine)


# ---- paths ----


@source("paths", "step", "example", "path_byte", needs=("bits", "site_slices", "path_defined"), itemsize=1)
def _paths(view: View) -> list[Path]:
    """Packed paths (example, byte) of each snapshot and site: the view's examples alone, without pad bits."""
    return [_path(view, packed) for packed in view.get("bits")]


def _path(view: View, packed: np.ndarray) -> Path:
    positions, padded = _positions(view)
    rows = slice(len(positions)) if positions[-1] == len(positions) - 1 else positions
    return [masks.rows_of(packed[part], padded)[rows] for part in view.get("site_slices")]


def _per_site(measure: Callable[[np.ndarray], np.ndarray], paths: Iterable[Path]) -> np.ndarray:
    """`measure(rows of a site)` for every snapshot and site: (step, site, example[, example_2])."""
    return np.stack([np.stack([measure(rows) for rows in path]) for path in paths])


def _positions(view: View) -> tuple[np.ndarray, int]:
    """Where the view's examples are among the bits side by side, and how many bits there are."""
    rows, start = [], 0
    for probe, count in view.parts():
        rows.append(start + np.arange(count))
        start += -(-probe.n_masks // 8) * 8
    return np.concatenate(rows), start


@source("site_slices", "site")
def _site_slices(view: View) -> list[slice]:
    ends = np.cumsum([0, *(int(site["n_units"]) for site in view.masked_sites)])
    return [slice(int(start), int(stop)) for start, stop in pairwise(ends)]


@source("n_units", "site")
def _n_units(view: View) -> np.ndarray:
    return np.array([int(site["n_units"]) for site in view.masked_sites], np.int64)


@source("paths_previous", "step", "example", "path_byte", needs=("paths",), itemsize=1)
def _paths_previous(view: View) -> list[Path]:
    paths = view.get("paths")
    if view.lead is not None:
        return [_path(view, read_bits(view, view.lead)), *paths[:-1]]
    # Before the first snapshot there is nothing to compare with: no unit on, so that 0/0 makes it undefined.
    return [[np.zeros_like(rows) for rows in paths[0]], *paths[:-1]]


@source("path_count", "step", "site", "example", needs=("paths",))
def _path_count(view: View) -> np.ndarray:
    if "overlap" in view.cache:
        return _diagonal(view.cache["overlap"])
    return _counted(view, _per_site(masks.row_count, view.get("paths")))


@source("path_count_previous", "step", "site", "example", needs=("paths_previous", "path_count"))
def _path_count_previous(view: View) -> np.ndarray:
    return np.concatenate([_before(view, masks.row_count), view.get("path_count")[:-1]])


@source("path_common", "step", "site", "example", needs=("paths", "paths_previous"))
def _path_common(view: View) -> np.ndarray:
    if "overlap_joint" in view.cache:
        return _diagonal(view.cache["overlap_joint"])
    return _counted(view, _per_site(masks.row_count, _both(view)), joint=True)


def _diagonal(overlap: np.ndarray) -> np.ndarray:
    # Where another metric has needed an overlap already, what the counts would count again lies on its diagonal.
    return np.ascontiguousarray(np.diagonal(overlap, axis1=-2, axis2=-1))


@source("overlap", "step", "site", "example", "example_2", needs=("paths",))
def _overlap(view: View) -> np.ndarray:
    return _counted(view, _per_site(masks.row_overlap, view.get("paths")))


@source("overlap_previous", "step", "site", "example", "example_2", needs=("paths_previous", "overlap"))
def _overlap_previous(view: View) -> np.ndarray:
    return np.concatenate([_before(view, masks.row_overlap), view.get("overlap")[:-1]])


@source("overlap_joint", "step", "site", "example", "example_2", needs=("paths", "paths_previous"))
def _overlap_joint(view: View) -> np.ndarray:
    return _counted(view, _per_site(masks.row_overlap, _both(view)), joint=True)


def _before(view: View, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Counts (1, site, example, ...) at the snapshot before the first one."""
    counts = _per_site(measure, view.get("paths_previous")[:1])
    return counts if view.lead is None else _blanked(counts, _defined(view, view.lead)[None])


def _both(view: View) -> Iterator[Path]:
    return map(_shared, view.get("paths"), view.get("paths_previous"))


def _shared(path: Path, other: Path) -> Path:
    return [rows & others for rows, others in zip(path, other, strict=True)]


@source("path_count_last", "site", "example", stream="masks", needs=("site_slices",), of="last")
def _path_count_last(view: View) -> np.ndarray:
    last = _last_step(view)
    counts = _per_site(masks.row_count, [_path(view, read_bits(view, last))])
    return _blanked(counts, _defined(view, last)[None])[0]


@source("path_common_last", "step", "site", "example", needs=("paths", "path_count_last"))
def _path_common_last(view: View) -> np.ndarray:
    step = _last_step(view)
    last = _path(view, read_bits(view, step))
    counts = _per_site(masks.row_count, [_shared(path, last) for path in view.get("paths")])
    return _counted(view, _blanked(counts, np.repeat(_defined(view, step)[None], len(counts), 0)))


def _last_step(view: View) -> int:
    return min(int(probe.steps("masks")[-1]) for probe, _ in view.parts())


# Of a pre-activation that is NaN the mask says "off", so whether a path is one is asked of what else is stored.


@source("path_defined", "step", "example", of="finite")
def _path_defined(view: View) -> np.ndarray:
    """Whether the network gave numbers for the example: else it has no path."""
    return np.stack([_defined(view, step) for step in view.steps])


def _counted(view: View, counts: np.ndarray, joint: bool = False) -> np.ndarray:
    """Counts of paths, NaN where there is no path; `joint`: at this or at the snapshot before."""
    defined = view.get("path_defined")
    if joint:
        first = np.ones_like(defined[:1]) if view.lead is None else _defined(view, view.lead)[None]
        defined = defined & np.concatenate([first, defined[:-1]])
    return _blanked(counts, defined)


def _blanked(counts: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Counts (step, site, example[, example_2]), as floats with NaN where an example (step, example) has no path."""
    if defined.all():
        return counts
    counts = counts.astype(np.float64)
    for step, row in enumerate(defined):
        counts[step][:, ~row] = np.nan
        if counts.ndim == 4:
            counts[step][..., ~row] = np.nan
    return counts


def _defined(view: View, step: int) -> np.ndarray:
    """Whether the network gave numbers, bool (example,), by the sums, else by the outputs, else by the weights."""

    def find() -> np.ndarray:
        return np.concatenate([_finite(view, probe, step)[:count] for probe, count in view.parts()])

    return np.asarray(view.once(f"defined {step} {view.probes} {view.counts}", find))


def _finite(view: View, probe: Any, step: int) -> np.ndarray:
    for read in (_sums_at, _outputs_at):
        try:
            values = read(view.archive, probe, step)
        except MissingTraceError:
            continue
        if values is not None:
            fine = np.isfinite(values.reshape(len(values), -1)).all(1)
            return np.concatenate([fine, np.ones(max(0, probe.n - len(fine)), bool)])
    try:
        weights = view.archive.weights(step)
    except MissingTraceError:
        return np.ones(probe.n, bool)
    sound = all(np.isfinite(w).all() for w in weights.values() if w.dtype.kind in "fc")
    return np.full(probe.n, sound)


def _sums_at(archive: Any, probe: Any, step: int) -> np.ndarray | None:
    """Sums of all calls and sites; None where one of them may be NaN for another reason than the weights."""
    if archive.card.get("network") != "table":
        return None  # a model that branches leaves some out
    columns = np.concatenate(probe.sums(step), axis=1)
    # So are the sums of rows whose examples are not known, for every example.
    return None if not columns.shape[1] or np.isnan(columns).all(0).any() else columns


def _outputs_at(archive: Any, probe: Any, step: int) -> np.ndarray:
    return np.asarray(probe.top(step).log_sum_exp if probe.has_top else probe.outputs(step))


@source("unit_count", "step", "unit", needs=("bits", "path_defined"), itemsize=4)
def _unit_count(view: View) -> np.ndarray:
    packed, defined = view.get("bits"), view.get("path_defined")
    # Bits after a probe's last example are 0, so there is only something to leave out where the view ends earlier.
    if any(count < probe.n_masks for probe, count in view.parts()):
        positions, padded = _positions(view)
        keep = np.zeros(padded, bool)
        keep[positions] = True
        packed = [bits & np.packbits(keep) for bits in packed]
    counts = np.empty((len(packed), len(packed[0])), np.int32)
    positions, padded = _positions(view)
    for row, bits, numbers in zip(counts, packed, defined, strict=True):
        if not numbers.all():  # the bits of an example without a path may be on
            keep = np.zeros(padded, bool)
            keep[positions[numbers]] = True
            bits = bits & np.packbits(keep)
        row[:] = masks.unit_count(bits)
    return counts


@source("activations_previous", "step", "example", "any_unit", needs=("activations",), itemsize=4)
def _activations_previous(view: View) -> list[np.ndarray]:
    earlier = []
    for site, values in zip(view.archive.sites, view.get("activations"), strict=True):
        lead = np.zeros_like(values[:1]) if view.lead is None else activations_at(view, site, [view.lead])
        earlier.append(np.concatenate([lead, values[:-1]]))
    return earlier
