"""One HDF5 file of an archive, and back: the same groups, arrays and attributes, with dimension scales.

Values lie in chunks of about 1 MiB, each with a checksum. `xarray.open_datatree(file,
engine="h5netcdf")` opens the file with the dimensions of the archive. Numbers and text are plain attributes,
everything else is JSON text.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tracer import spec
from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.content import MANIFEST, ArchiveContent, Array, Box, Content, boxes, difference
from tracer.share.packs import remove
from tracer.share.tree import Progress, write_tree
from tracer.spec import RANKS
from tracer.store.documents import to_json
from tracer.store.validate import is_path

_CHUNK = 1 << 20
_BARE = "This is a netCDF dimension but not a netCDF variable."  # how netCDF marks a dimension without values
_JSON = "json_attributes"  # names of the attributes of an object that are JSON text
_RESERVED = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", _JSON}


def export_hdf5(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    compression: str | None = "gzip",
    progress: Progress | None = None,
) -> Path:
    """Write an archive, whatever `tracer.open` takes, to one new HDF5 file and compare it with the archive.

    ``compression``: "gzip" (fastest level, which every HDF5 library reads) or None. An array is never in
    memory as a whole. Errors: ArchiveError if ``output`` exists, or a name has no place in HDF5.
    """
    target = Path(output).absolute()
    if target.exists():
        raise ArchiveError(f"{str(target)!r} exists already; choose another output or remove it first")
    source = Source(path)
    part = target.with_name(f"{target.name}.part")
    others: dict[int, Source] = {}
    try:
        others = ranks.every(source)
        contents = {rank: ArchiveContent(one) for rank, one in {0: source, **others}.items()}
        for content in contents.values():
            content.groups.pop("manifest", None)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Attributes may be larger than the 64 KiB that older forms of the file allow.
        with h5py.File(part, "w", libver=("v110", "latest")) as file:
            for rank, content in contents.items():
                _write(content, file.require_group(ranks.within(rank) or "/"), compression, progress)
        with h5py.File(part, "r") as file:
            for rank, written in _contents(file, part).items():
                found = difference(contents[rank], written)
                if found is not None:
                    raise ArchiveError(
                        f"the file written differs from the archive in {found}; check the disk"
                    )
        part.rename(target)
    finally:
        for one in (source, *others.values()):
            one.close()
        remove(part)
    return target


def import_hdf5(
    path: str | os.PathLike[str], output: str | os.PathLike[str], *, progress: Progress | None = None
) -> Path:
    """Write the archive that `export_hdf5` put into an HDF5 file to a new directory: every array bit for bit.

    Errors: ArchiveError if ``output`` exists, or the file is not such an export.
    """
    target = Path(output).absolute()
    if target.exists():
        raise ArchiveError(f"{str(target)!r} exists already; choose another output or remove it first")
    part = target.with_name(f"{target.name}.part")
    remove(part)
    part.mkdir(parents=True)
    try:
        with _open(path) as file:
            for rank, content in _contents(file, Path(path)).items():
                (part / ranks.within(rank)).mkdir(parents=True, exist_ok=True)
                write_tree(content, part / ranks.within(rank), pack=False, progress=progress)
                _check(content, Source(part, ranks.within(rank)))
        part.rename(target)
    finally:
        remove(part)
    return target


def _check(content: Content, written: Source) -> None:
    try:
        found = difference(content, ArchiveContent(written))
    finally:
        written.close()
    if found is not None:
        raise ArchiveError(f"the archive written differs from the file in {found}; check the disk")


def _open(path: str | os.PathLike[str]) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ArchiveError(f"{os.fspath(path)!r} cannot be read as HDF5: {error}") from None


# ---- writing ----


def _write(content: Content, file: h5py.File, compression: str | None, progress: Progress | None) -> None:
    _describe(file, {"tracer": content.record, **content.attributes})
    for path, attributes in content.groups.items():
        _describe(file.require_group(path), attributes)
    for number, (path, array) in enumerate(content.arrays.items()):
        if progress is not None:
            progress(number, len(content.arrays), path)
        dataset = _dataset(file, path, array, compression)
        _describe(dataset, array.attributes)
        for box in boxes(array.shape, array.dtype.itemsize, _CHUNK):
            dataset[box] = content.read(path, box)
    for path, array in content.arrays.items():
        name = path.rpartition("/")[2]
        if array.dims == (name,):
            file[path].make_scale(name)
    for path, array in content.arrays.items():
        _scale(file, path, array)


def _dataset(file: h5py.File, path: str, array: Array, compression: str | None) -> h5py.Dataset:
    if not all(array.shape):
        return file.create_dataset(path, array.shape, array.dtype)
    first = next(boxes(array.shape, array.dtype.itemsize, _CHUNK))
    chunks = tuple(part.stop for part in first)
    if not chunks:
        return file.create_dataset(path, (), array.dtype)
    filters: dict[str, Any] = {"chunks": chunks, "shuffle": True, "fletcher32": True}
    if compression is not None:
        filters |= {"compression": compression, "compression_opts": 1}
    return file.create_dataset(path, array.shape, array.dtype, **filters)


def _scale(file: h5py.File, path: str, array: Array) -> None:
    """Tie each axis to the scale of its dimension: its coordinate, else a dataset that takes no room."""
    group, _, name = path.rpartition("/")
    dataset = file[path]
    for axis, (dim, size) in enumerate(zip(array.dims, array.shape, strict=True)):
        dataset.dims[axis].label = dim
        if array.dims == (name,):
            continue
        if dim not in file[group]:
            scale = file[group].create_dataset(dim, (size,), "f4")
            scale.make_scale(f"{_BARE}{size:10d}")
        scale = file[group][dim]
        if isinstance(scale, h5py.Dataset) and scale.is_scale:
            dataset.dims[axis].attach_scale(scale)


def _describe(node: Any, attributes: Mapping[str, Any]) -> None:
    texts = []
    for name, value in attributes.items():
        if name in _RESERVED or "\0" in name:
            raise ArchiveError(f"attribute {name!r} of {node.name!r} has no place in HDF5")
        plain = isinstance(value, bool | int | float) or (isinstance(value, str) and "\0" not in value)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            plain = False
        if not plain:
            texts.append(name)
        node.attrs[name] = value if plain else to_json(value)
    if texts:
        node.attrs[_JSON] = json.dumps(texts)


# ---- reading ----


class Hdf5Content:
    """The content of an exported file. Links to other files and values kept elsewhere are refused."""

    def __init__(self, file: h5py.Group, path: Path) -> None:
        self._file = file
        root = _attributes(file)
        self.record: dict[str, Any] = root.pop("tracer", {})
        if not isinstance(self.record, dict) or self.record.get("format") != spec.FORMAT:
            raise ArchiveError(f"{str(path)!r} is no export of an archive; make one with `tracer export`")
        self.attributes = root
        self.groups: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, Array] = {}
        for name, node in _walk(file, ""):
            if isinstance(node, h5py.Group):
                self.groups[name] = _attributes(node)
            elif not _is_bare(node):
                self.arrays[name] = self._array(name, node)

    def _array(self, path: str, dataset: h5py.Dataset) -> Array:
        if dataset.external or dataset.is_virtual or dataset.dtype.kind not in "biufc":
            raise ArchiveError(f"dataset {path!r} is none that an export of an archive holds")
        dims = tuple(str(dim.label) for dim in dataset.dims)
        return Array(dataset.dtype.newbyteorder("<"), dims, dataset.shape, _attributes(dataset))

    def read(self, path: str, box: Box) -> np.ndarray:
        """Values within a box."""
        return np.asarray(self._file[path][box])


def _contents(file: h5py.File, path: Path) -> dict[int, Hdf5Content]:
    """What each process of a run recorded."""
    found = {0: Hdf5Content(file, path)}
    for name in file[RANKS] if RANKS in found[0].groups else ():
        if not name.isdecimal() or not isinstance(file[RANKS].get(name, getlink=True), h5py.HardLink):
            raise ArchiveError(f"'{RANKS}/{name}' is a link or a name that no archive holds")
        found[int(name)] = Hdf5Content(file[f"{RANKS}/{name}"], path)
    return found


def _walk(group: h5py.Group, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in group if prefix != f"{RANKS}/" else ():  # which are archives of their own
        path = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not is_path(path):
            raise ArchiveError(f"{path!r} is a link or a name that no archive holds")
        if path == MANIFEST.split("/")[0]:
            continue
        yield path, group[name]
        if isinstance(group[name], h5py.Group):
            yield from _walk(group[name], f"{path}/")


def _is_bare(dataset: h5py.Dataset) -> bool:
    name = dataset.attrs.get("NAME", b"")
    return (name.decode() if isinstance(name, bytes) else str(name)).startswith(_BARE)


def _attributes(node: Any) -> dict[str, Any]:
    texts = json.loads(node.attrs.get(_JSON, "[]"))
    found = {}
    for name, value in node.attrs.items():
        if name not in _RESERVED:
            found[name] = json.loads(value) if name in texts else value
            if isinstance(value, np.generic):
                found[name] = value.item()
    return found
