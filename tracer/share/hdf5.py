"""One HDF5 file of an archive, and back: the same groups, arrays and attributes, with dimension scales.

Values lie in chunks of about 1 MiB, each with a checksum. `xarray.open_datatree(file,
engine="h5netcdf")` opens the file with the dimensions of the archive. Numbers and text are plain attributes,
everything else is JSON text.
"""

import json
import os
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import h5py

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.confined import allow, confined
from tracer.share.content import ArchiveContent, Array, Content, boxes, difference
from tracer.share.hdf5_content import BARE, JSON, RESERVED, contents_of
from tracer.share.tree import Progress, write_tree
from tracer.store.documents import to_json
from tracer.writer.place import fresh, settled

_CHUNK = 1 << 20
_SECONDS, _SLOWEST = 60.0, 1 << 20  # of reading a file: for anything, and bytes in each of the others


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
    target = settled(output)
    source = Source(path)
    others: dict[int, Source] = {}
    try:
        others = ranks.every(source)
        contents = {rank: ArchiveContent(one) for rank, one in {0: source, **others}.items()}
        for content in contents.values():
            content.groups.pop("manifest", None)
        with fresh(target) as part:
            # Attributes may be larger than the 64 KiB that older forms of the file allow.
            with h5py.File(part, "x", libver=("v110", "latest")) as file:
                for rank, content in contents.items():
                    _write(content, file.require_group(ranks.within(rank) or "/"), compression, progress)
            with h5py.File(part, "r") as file:
                for rank, written in contents_of(file, part).items():
                    differs = difference(contents[rank], written)
                    if differs is not None:
                        raise ArchiveError(
                            f"the file written differs from the archive in {differs}; check the disk"
                        )
    finally:
        for one in (source, *others.values()):
            one.close()
    return target


def import_hdf5(
    path: str | os.PathLike[str], output: str | os.PathLike[str], *, progress: Progress | None = None
) -> Path:
    """Write the archive that `export_hdf5` put into an HDF5 file to a new directory: every array bit for bit.

    Errors: ArchiveError if ``output`` exists, or the file is not such an export.
    """
    target, source = settled(output), Path(path).absolute()
    if not source.exists():
        raise ArchiveError(f"there is no file at {os.fspath(path)!r}; check the path")
    with fresh(target) as part:
        part.mkdir()
        seconds = _SECONDS + (source.stat().st_size if source.is_file() else 0) / _SLOWEST
        confined(
            write_archive,
            (str(source), str(part)),
            what=repr(str(source)),
            seconds=seconds,
            progress=progress,
        )
    return target


def write_archive(path: str, folder: str, progress: Progress | None = None) -> None:
    """Write the archive of an exported file into an empty directory, and compare the two.

    Errors: ArchiveError for what is no export. A file that is made to harm may end the process: see `confined`.
    """
    with _open(path) as file:
        whole = contents_of(file, Path(path))
        _check_room(whole, Path(folder))
        allow(max(content.largest for content in whole.values()))
        for rank, content in whole.items():
            place = Path(folder) / ranks.within(rank)
            place.mkdir(parents=True, exist_ok=True)
            write_tree(content, place, pack=False, progress=progress)
            _check(content, Source(folder, ranks.within(rank)))


def _check_room(whole: Mapping[int, Content], folder: Path) -> None:
    arrays = [array for content in whole.values() for array in content.arrays.values()]
    nbytes = sum(prod(array.shape) * array.dtype.itemsize for array in arrays)
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise ArchiveError(
            f"the archive takes {nbytes} bytes, of which {free} have room at {str(folder.parent)!r}"
        )


def _check(content: Content, written: Source) -> None:
    try:
        differs = difference(content, ArchiveContent(written))
    finally:
        written.close()
    if differs is not None:
        raise ArchiveError(f"the archive written differs from the file in {differs}; check the disk")


def _open(path: str | os.PathLike[str]) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ArchiveError(
            f"{os.fspath(path)!r} cannot be read as HDF5 ({error}); name a file that `tracer export` wrote"
        ) from None


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
            scale.make_scale(f"{BARE}{size:10d}")
        scale = file[group][dim]
        if isinstance(scale, h5py.Dataset) and scale.is_scale:
            dataset.dims[axis].attach_scale(scale)


def _describe(node: Any, attributes: Mapping[str, Any]) -> None:
    texts = []
    for name, value in attributes.items():
        if name in RESERVED or "\0" in name:
            raise ArchiveError(f"attribute {name!r} of {node.name!r} has no place in HDF5")
        plain = isinstance(value, bool | int | float) or (isinstance(value, str) and "\0" not in value)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            plain = False
        if not plain:
            texts.append(name)
        node.attrs[name] = value if plain else to_json(value)
    if texts:
        node.attrs[JSON] = json.dumps(texts)
