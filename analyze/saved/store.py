"""Where results are kept: `results.zarr`, one group a metric."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.saved.documents import document, folder
from analyze.saved.encoded import files
from analyze.saved.seals import Seals
from tracer.errors import first_of
from tracer.spec.release import version
from tracer.store.files import write_whole

if TYPE_CHECKING:
    import xarray as xr


SMALL = 1 << 24  # bytes of a result whose files are made in memory


def made_of(name: str) -> tuple[str, str]:
    """The files beside `results.zarr` that show a result: its table and its figure."""
    return f"tables/{name}.csv", f"figures/{name}.svg"


class ResultStore:
    """The `results.zarr` of a directory: one group a metric, each written whole or not at all.

    Given a `run_id`, it lets go of results of other runs and of what shows them, since a directory describes one run,
    and of what a process was writing when it was killed. A result that is no longer as it was written counts as absent,
    with a warning.
    """

    def __init__(self, path: str | Path, run_id: str = "") -> None:
        self.root = Path(path) / "results.zarr"
        self._seals = Seals(path)
        for name in self.names() if run_id else ():
            if self.attributes(name).get("run_id") != run_id:
                self._let_go(name)
        for half in self.root.glob(".*.new") if run_id else ():
            shutil.rmtree(half, ignore_errors=True)

    def _let_go(self, name: str) -> None:
        """Remove a result, and first the table and the figure of it: without it nobody would know them."""
        made = made_of(name)
        for file in (self.root.parent / one for one in made):
            if not file.parent.is_symlink():
                file.unlink(missing_ok=True)
        self._seals.unseal(*made)
        shutil.rmtree(self.root / name)

    def listed(self) -> list[str]:
        """Metrics it has results of, sound or not."""
        if not self.root.is_dir():
            return []
        # A name with a point is what a process was writing when it was killed.
        folders = [child for child in self.root.iterdir() if not child.name.startswith(".")]
        return sorted(child.name for child in folders if (child / "zarr.json").is_file())

    def names(self, among: Collection[str] | None = None) -> list[str]:
        """Metrics it holds as they were saved, of these or of all: each of their files is read to see it."""
        there = [name for name in self.listed() if among is None or name in among]
        sound = [name for name in there if self._seals.holds(f"results.zarr/{name}")]
        lost = [name for name in there if name not in sound]
        if lost:
            warnings.warn(
                f"results in {str(self.root)!r} that are not as they were saved are not used: {first_of(lost)}; "
                "analyze again",
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
        """A result, if it depends on the same sources, options and stored values; else None."""
        return self.read(name) if self.holds(name, fingerprint) else None

    def holds(self, name: str, fingerprint: str) -> bool:
        """Whether it has this result."""
        return self.attributes(name).get("fingerprint") == fingerprint

    def save(self, name: str, data: xr.Dataset) -> None:
        """Write a result, replacing an earlier one only when the new one is complete."""
        self._make_root()
        target, new = folder(self.root / name), folder(self.root / f".{name}.new")
        shutil.rmtree(new)
        _write(data, new)
        shutil.rmtree(target)
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
        folder(self.root)
        attributes = {"creation_library": "tracer", "creation_library_version": version()}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        root = self.root / "zarr.json"
        if document(root).get("node_type") != "group":
            write_whole(root, json.dumps(group))

    def attributes(self, name: str) -> dict[str, Any]:
        """What is known of a result without reading it; empty where there is none, or it is not as it was written."""
        held = self._seals.holds(f"results.zarr/{name}")
        return dict(document(self.root / name / "zarr.json").get("attributes", {})) if held else {}


def _write(data: xr.Dataset, path: Path) -> None:
    """A new group."""
    if data.nbytes > SMALL:
        text = {key: data[key].astype(object) for key in data.coords if data[key].dtype.kind == "U"}
        data.assign_coords(text).to_zarr(path, mode="w", zarr_format=3, consolidated=False)
        return
    for name, content in files(data):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
