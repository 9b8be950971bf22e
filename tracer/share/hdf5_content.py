"""What an HDF5 file of an archive holds, read as a file that may come from anybody.

Everything the file declares is held against its own size and against what an export looks like before a value is
read. The library that reads HDF5 is not made for hostile bytes: `import_hdf5` lets this run in a confined process.
"""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tracer import spec
from tracer.archive.source import read_root
from tracer.errors import ArchiveError, MissingTraceError
from tracer.share.content import Array, Box
from tracer.spec import RANKS
from tracer.store.documents import ArrayNode, GroupNode, root_text
from tracer.store.encodings import recorded
from tracer.store.manifest import MANIFEST
from tracer.store.store import MAX_ROOT
from tracer.store.validate import MAX_CHUNK, is_path, parse

BARE = "This is a netCDF dimension but not a netCDF variable."  # how netCDF marks a dimension without values
JSON = "json_attributes"  # names of the attributes of an object that are JSON text
RESERVED = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", JSON}

_FILTERS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]
_DEPTH, _NODES, _ATTRIBUTES = 16, 1 << 16, 1 << 12
_OBJECTS = 1 << 20  # files that the archive may take
_SLACK = 1 << 16  # bytes that the values may have beyond those of the file however little they are compressed
_DEFLATED = 1032  # how many bytes deflate can make of one


@dataclass
class Bounds:
    """What is left of the limits for a file as a whole: its ranks are archives of their own in it."""

    path: Path
    seen: set[tuple[int, int]] = field(default_factory=set)
    stored: int = 0
    objects: int = 0

    def __post_init__(self) -> None:
        self.size = self.path.stat().st_size

    def refuse(self, why: str) -> ArchiveError:
        """The refusal of the file."""
        return ArchiveError(f"{str(self.path)!r} cannot be imported: {why}")

    def enter(self, node: Any, path: str) -> None:
        """Note an object of the file, each of which may have one name."""
        info = h5py.h5o.get_info(node.id)
        if (info.fileno, info.addr) in self.seen:
            raise self.refuse(f"{path!r} is a second name of something else in it")
        self.seen.add((info.fileno, info.addr))
        if len(self.seen) > _NODES:
            raise self.refuse(f"it has more than {_NODES} groups and arrays")

    def take(self, stored: int, objects: int, path: str) -> None:
        """Account for an array: bytes in the file, and objects that the archive will have of it."""
        self.stored += stored
        self.objects += objects
        if self.stored > self.size:
            raise self.refuse(f"with {path!r} its arrays take more than the {self.size} bytes it has")
        if self.objects > _OBJECTS:
            raise self.refuse(f"with {path!r} the archive would have more than {_OBJECTS} files")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the library is one sentence about the file."""
    try:
        yield
    except (ArchiveError, MissingTraceError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArchiveError(f"{str(path)!r} cannot be read as an export of an archive: {text}") from error


class Hdf5Content:
    """The content of an exported file. Links to other files and values kept elsewhere are refused."""

    def __init__(self, file: h5py.Group, bounds: Bounds) -> None:
        self._file, self._bounds = file, bounds
        self._path = bounds.path
        with reading(bounds.path):
            self._find()
            self._check()

    def _find(self) -> None:
        self._bounds.enter(self._file, self._file.name)
        root = _attributes(self._file)
        self.record: dict[str, Any] = root.pop("tracer", {})
        if not isinstance(self.record, dict) or self.record.get("format") != spec.FORMAT:
            raise ArchiveError(
                f"{str(self._path)!r} is no export of an archive; make one with `tracer export`"
            )
        self.attributes = root
        self.groups: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, Array] = {}
        self._sets: dict[str, h5py.Dataset] = {}
        for name, node in _walk(self._file, self._bounds):
            if isinstance(node, h5py.Group):
                self.groups[name] = _attributes(node)
            elif not _is_bare(node):
                self.arrays[name] = self._array(name, node)
                self._sets[name] = node

    def _array(self, path: str, dataset: h5py.Dataset) -> Array:
        if dataset.external or dataset.is_virtual or dataset.dtype.kind not in "biufc":
            raise ArchiveError(f"dataset {path!r} is none that an export of an archive holds")
        dims = tuple(str(dim.label) for dim in dataset.dims)
        return Array(dataset.dtype.newbyteorder("<"), dims, dataset.shape, _attributes(dataset))

    def _check(self) -> None:
        """Hold the documents of the archive, as they will be written, against what documents may say."""
        rows = self.record.get("rows", {})
        nodes: dict[str, GroupNode | ArrayNode] = {path: GroupNode(own) for path, own in self.groups.items()}
        objects, self.largest = 0, 0  # bytes of an object that the archive will have
        for path, array in self.arrays.items():
            if len(array.dims) != len(array.shape) or not isinstance(rows, dict):
                raise self._bounds.refuse(f"{path!r} does not name its dimensions")
            form = recorded(path, array.dims, array.shape, array.dtype, set(rows))
            nodes[path] = ArrayNode(
                array.dtype, array.dims, form.chunk, form.codecs, array.attributes, array.shape
            )
            self.largest = max(self.largest, form.layout(path).most_of_object)
            objects += prod(ceil(size / step) for size, step in zip(array.shape, form.chunk, strict=True))
        self._bounds.take(0, objects, "all its arrays")
        root = root_text({"digest": "", **self.record}, GroupNode(self.attributes), nodes)
        read_root(root.encode(), str(self._path))
        for path, dataset in self._sets.items():
            self._bounds.take(_stored(dataset, path, self._bounds), 0, path)

    def read(self, path: str, box: Box) -> np.ndarray:
        """Values within a box."""
        with reading(self._path):
            return np.asarray(self._sets[path][box])


def contents_of(file: h5py.File, path: Path) -> dict[int, Hdf5Content]:
    """What each process of a run recorded. Errors: ArchiveError for a file that is no export, or would harm."""
    bounds = Bounds(path)
    contents = {0: Hdf5Content(file, bounds)}
    with reading(path):
        ranks = file[RANKS] if RANKS in contents[0].groups else {}
        world = contents[0].groups.get(RANKS, {}).get("world_size", 1)
        for name in ranks:
            number = int(name) if name.isdecimal() and len(name) < 9 else 0
            if str(number) != name or not 0 < number < world or not _is_hard(ranks, name):
                raise ArchiveError(f"'{RANKS}/{name}' is a link or a name that no archive holds")
            contents[number] = Hdf5Content(ranks[name], bounds)
    return contents


def _walk(file: h5py.Group, bounds: Bounds) -> Iterator[tuple[str, Any]]:
    waiting = [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        below = []
        for name in group:
            path = f"{prefix}{name}"
            if not _is_hard(group, name) or not is_path(path) or path.count("/") >= _DEPTH:
                raise ArchiveError(f"{path!r} is a link or a name that no archive holds")
            if path == MANIFEST.split("/")[0]:
                continue
            node = group[name]
            if not isinstance(node, h5py.Group | h5py.Dataset):
                raise ArchiveError(f"{path!r} is neither an array nor a group")
            bounds.enter(node, path)
            yield path, node
            if isinstance(node, h5py.Group) and path != RANKS:  # below which are archives of their own
                below.append((f"{path}/", node))
        waiting += reversed(below)


def _is_hard(group: h5py.Group, name: str) -> bool:
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _is_bare(dataset: h5py.Dataset) -> bool:
    if "NAME" not in dataset.attrs:
        return False
    name = _scalar(dataset, "NAME")
    return (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).startswith(BARE)


def _attributes(node: Any) -> dict[str, Any]:
    names = list(node.attrs)
    if len(names) > _ATTRIBUTES:
        raise ArchiveError(f"{node.name!r} has more than {_ATTRIBUTES} attributes")
    texts = parse(str(_scalar(node, JSON)).encode()) if JSON in names else []
    attributes = {}
    for name in names:
        if name not in RESERVED:
            value = _scalar(node, name)
            attributes[name] = parse(str(value).encode()) if name in texts else value
    return json.loads(json.dumps(attributes, allow_nan=True))


def _scalar(node: Any, name: str) -> Any:
    """An attribute that is one number or text; of anything else not a byte is read."""
    attribute = node.attrs.get_id(name)
    kind = attribute.dtype.kind
    text = kind == "S" or (kind == "O" and h5py.check_string_dtype(attribute.dtype) is not None)
    if attribute.shape != () or attribute.get_storage_size() > MAX_ROOT or not (text or kind in "biuf"):
        raise ArchiveError(f"attribute {name!r} of {node.name!r} is none that an export of an archive holds")
    value = node.attrs[name]
    return value.item() if isinstance(value, np.generic) else value


def _stored(dataset: h5py.Dataset, path: str, bounds: Bounds) -> int:
    """Bytes of an array in the file, all of which must be there and unpack to what the array takes."""
    if not prod(dataset.shape):
        return 0
    layout, settings = dataset.id, dataset.id.get_create_plist()
    nbytes = prod(dataset.shape) * dataset.dtype.itemsize
    if nbytes > _SLACK + _DEFLATED * bounds.size:
        raise bounds.refuse(f"{path!r} should have {nbytes} bytes, which a file of {bounds.size} cannot hold")
    if settings.get_layout() != h5py.h5d.CHUNKED:
        if layout.get_storage_size() < nbytes:
            raise bounds.refuse(f"values of {path!r} are not in it")
        return nbytes
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if filters != [one for one in _FILTERS if one in filters]:
        raise bounds.refuse(f"{path!r} is filtered by other means than shuffle, gzip and Fletcher-32")
    chunk = prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > MAX_CHUNK:
        raise bounds.refuse(
            f"{path!r} has chunks of {chunk} bytes, more than the {MAX_CHUNK} that are unpacked"
        )
    infos: list[Any] = []
    layout.chunk_iter(infos.append)
    places = {tuple(info.chunk_offset) for info in infos}
    if len(places) != prod(ceil(a / b) for a, b in zip(dataset.shape, dataset.chunks, strict=True)):
        raise bounds.refuse(f"chunks of {path!r} are not in it")
    if sum(info.size for info in infos) > bounds.size:
        raise bounds.refuse(f"the chunks of {path!r} take more than the {bounds.size} bytes it has")
    for info in infos:
        _check_chunk(layout.read_direct_chunk(info.chunk_offset), filters, chunk, path, bounds)
    return sum(info.size for info in infos)


def _check_chunk(read: tuple[int, bytes], filters: list[int], size: int, path: str, bounds: Bounds) -> None:
    skipped, data = read
    if h5py.h5z.FILTER_FLETCHER32 in filters:
        data = data[:-4]
    if h5py.h5z.FILTER_DEFLATE in filters:
        unpack = zlib.decompressobj()
        unpacked = len(unpack.decompress(data, size + 1))
    else:
        unpacked = len(data)
    if skipped or unpacked != size:
        raise bounds.refuse(f"a chunk of {path!r} does not unpack to its {size} bytes")
