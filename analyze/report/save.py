"""What an analysis leaves on disk: results.zarr, summary.json, tables, figures and the report."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import Metric, available_metrics
from analyze.report.seals import Seals
from analyze.results import PROVENANCE, Results, neutral, tidy
from tracer import __version__
from tracer.store.files import write_whole

if TYPE_CHECKING:
    import xarray as xr

LARGEST_TABLE = 1_000_000  # values of one variable; larger ones are in results.zarr alone
LARGEST_SUMMARY = 64  # values of one variable at the last snapshot


class ResultStore:
    """The `results.zarr` of a directory: one group a metric, each written whole or not at all.

    Given a `run_id`, it lets go of results of other runs: a directory describes one run. A result that is no longer
    as it was written counts as absent, with a warning.
    """

    def __init__(self, path: str | Path, run_id: str = "") -> None:
        self.root = Path(path) / "results.zarr"
        self._seals = Seals(path)
        for name in self.names() if run_id else ():
            if self._attributes(name).get("run_id") != run_id:
                shutil.rmtree(self.root / name)

    def names(self) -> list[str]:
        """Metrics it holds."""
        if not self.root.is_dir():
            return []
        there = sorted(child.name for child in self.root.iterdir() if (child / "zarr.json").is_file())
        sound = [name for name in there if self._seals.holds(f"results.zarr/{name}")]
        if len(sound) < len(there):
            lost = next(name for name in there if name not in sound)
            warnings.warn(
                f"{len(there) - len(sound)} results in {str(self.root)!r} ({lost}, ...) are not as they were saved, "
                "and are not used; analyze again",
                UserWarning,
                stacklevel=3,
            )
        return sound

    def read(self, name: str) -> xr.Dataset:
        """A result, loaded."""
        import xarray as xr

        with xr.open_zarr(self.root, group=name, consolidated=False, chunks=None) as opened:
            data = opened.load()
        text = {key: data[key] for key in data.coords if data[key].dtype.kind in "OT"}
        return data.assign_coords(
            {key: array.copy(data=np.array(array.values.tolist(), dtype=str)) for key, array in text.items()}
        )

    def load(self, name: str, fingerprint: str) -> xr.Dataset | None:
        """A result, if it was computed from the same archive, source and options; else None."""
        return self.read(name) if self.holds(name, fingerprint) else None

    def holds(self, name: str, fingerprint: str) -> bool:
        """Whether it has this result."""
        return name in self.names() and self._attributes(name).get("fingerprint") == fingerprint

    def save(self, name: str, data: xr.Dataset) -> None:
        """Write a result, replacing an earlier one only when the new one is complete."""
        self._make_root()
        target, new = self.root / name, self.root / f".{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        text = {key: data[key].astype(object) for key in data.coords if data[key].dtype.kind == "U"}
        data.assign_coords(text).to_zarr(new, mode="w", zarr_format=3, consolidated=False)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
        self._seals.seal(f"results.zarr/{name}")

    def consolidate(self) -> None:
        """Collect the metadata in the root: xarray then opens the tree in one read, without a warning."""
        import zarr

        self._make_root()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(str(self.root), zarr_format=3)

    def _make_root(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        attributes = {"creation_library": "tracer", "creation_library_version": __version__}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        if not (self.root / "zarr.json").exists():
            (self.root / "zarr.json").write_text(json.dumps(group), encoding="utf-8")

    def _attributes(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.root / name / "zarr.json").read_text(encoding="utf-8"))["attributes"])


def save(results: Results, path: Path) -> Path:
    """Write everything; figures that cannot be drawn are named in `summary.json` and cost nothing else."""
    path.mkdir(parents=True, exist_ok=True)
    store = ResultStore(path)
    for name, data in results.items():
        if not store.holds(name, str(data.attrs.get("fingerprint"))):
            store.save(name, data)
    store.consolidate()
    tables, figures = path / "tables", path / "figures"
    for folder in (tables, figures):
        folder.mkdir(exist_ok=True)
    cards = available_metrics()
    notes: dict[str, str] = {}
    for name, data in results.items():
        write_table(data, tables / f"{name}.csv")
        note = write_figure(cards.get(name), data, figures / f"{name}.svg")
        if note:
            notes[name] = note
    (path / "summary.json").write_text(json.dumps(summary(results, notes), indent=1), encoding="utf-8")
    if find_spec("analyze.report") is not None:
        from analyze import report

        report.write(results, path / "report.html", results.archive, figures=figures)
    return path


def write_table(data: xr.Dataset, path: Path) -> None:
    """Tidy CSV of a result, without variables of more than a million values."""
    small = [name for name in data.data_vars if data[name].size <= LARGEST_TABLE]
    write_whole(path, neutral(tidy(data[small])).to_csv(index=False))


def write_figure(card: Metric | None, data: xr.Dataset, path: Path) -> str:
    """Draw a metric's own figure, unless it is there already; returns why there is none, or nothing."""
    if card is None or card.plot is None:
        return "no figure: the metric has no plot"
    key, seals, name = (
        str(data.attrs.get("fingerprint", "")),
        Seals(path.parent.parent),
        f"figures/{path.name}",
    )
    if key and seals.holds(name) and key in path.read_text(encoding="utf-8"):
        return ""
    try:
        plot.save_svg(plot.draw(card.plot, data), path, key)
        seals.seal(name)
    except Exception as error:  # a figure is not worth losing the numbers for
        return f"no figure: {type(error).__name__}: {error}"
    return ""


def summary(results: Results, notes: Mapping[str, str]) -> dict[str, Any]:
    """What was computed, from what, and where it ended, as JSON-able values."""
    first = next(iter(results.values()), None)
    about = {} if first is None else {name: first.attrs.get(name) for name in PROVENANCE}
    return {
        **about,
        "metrics": {name: _entry(data, notes.get(name, "")) for name, data in results.items()},
        "skipped": dict(results.skipped),
    }


def _entry(data: xr.Dataset, note: str) -> dict[str, Any]:
    names = ("title", "meaning", "reference", "options", "lag", "created")
    about = {name: data.attrs[name] for name in names if name in data.attrs}
    entry = {**about, "variables": {str(name): _variable(data[name]) for name in data.data_vars}}
    return entry | ({"note": note} if note else {})


def _variable(array: xr.DataArray) -> dict[str, Any]:
    finite = array.values[np.isfinite(array.values)]
    about: dict[str, Any] = {
        "dims": {str(dim): int(extent) for dim, extent in array.sizes.items()},
        "units": array.attrs.get("units", "1"),
        "n_nan": int(array.attrs.get("n_nan", 0)),
        "smallest": _number(finite.min()) if finite.size else None,
        "largest": _number(finite.max()) if finite.size else None,
    }
    last = array.isel(step=-1) if "step" in array.dims else array
    if last.size <= LARGEST_SUMMARY and "example" not in last.dims:
        about["last"] = _nested(last)
    return about


def _nested(array: xr.DataArray) -> Any:
    """Values as nested objects keyed by the labels of each dimension."""
    if not array.dims:
        return _number(array.item())
    dim = array.dims[0]
    labels = array.coords[dim].values if dim in array.coords else range(array.sizes[dim])
    return {str(label): _nested(array.isel({dim: position})) for position, label in enumerate(labels)}


def _number(value: Any) -> Any:
    # JSON has no word for these two; a reader must not take them for numbers.
    value = float(value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def read_skipped(path: Path) -> dict[str, str]:
    """Metrics a saved analysis skipped, with the reasons."""
    file = path / "summary.json"
    if not file.is_file():
        return {}
    return dict(json.loads(file.read_text(encoding="utf-8")).get("skipped", {}))
