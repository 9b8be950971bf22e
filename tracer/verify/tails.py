"""Objects that may still change: the rows of them that are committed, and whether they are what was committed."""

from typing import Any

import google_crc32c
import numpy as np

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.store import grid as objects
from tracer.store.layout import ArrayLayout


def box(grid: ArrayLayout, numbers: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of an array that an object holds."""
    spans = zip(numbers, grid.chunk, grid.shape, strict=True)
    return tuple(slice(at * step, min((at + 1) * step, size)) for at, step, size in spans)


def committed(
    source: Source, grid: ArrayLayout, numbers: tuple[int, ...], read: objects.Read, size: int
) -> np.ndarray | None:
    """The committed values of an object, None if some are lost. ValueError for damage."""
    part = box(grid, numbers)
    if grid.inner is not None and (not grid.raw or grid.inner[1:] != grid.chunk[1:]):
        return source.read(grid.path, part)
    rows = objects.values(read, size, grid)
    if not part:
        return rows
    n = part[0].stop - part[0].start
    return None if len(rows) < n else rows[:n]


def fault(
    source: Source, grid: ArrayLayout, numbers: tuple[int, ...], read: objects.Read, size: int
) -> str | None:
    """What is wrong with an object of the record's ``tails``, None if nothing is."""
    key = grid.key(numbers)
    try:
        rows = committed(source, grid, numbers, read, size)
    except (ValueError, ArchiveError) as error:
        return str(error)
    if rows is None or not is_as_committed(source.record, key, rows):
        return "its committed rows are not what was committed"
    return None


def is_as_committed(record: dict[str, Any], key: str, rows: np.ndarray) -> bool:
    """Whether rows are those of an object's commit, but for one thing: that the last one ended an epoch.

    That may be known only after a commit; a recording that is killed before the next one leaves it so.
    """
    crc = record["tails"][key]
    if crc_of(rows) == crc:
        return True
    if not key.rpartition("/")[0].endswith("/epoch_end") or record["state"] != "recording":
        return False
    before = rows.copy()
    before[-1:] = False
    return bool(rows[-1:].all()) and crc_of(before) == crc


def crc_of(rows: np.ndarray) -> int:
    """CRC-32C of values, little-endian, in C order."""
    little = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    return google_crc32c.value(little.reshape(-1).view(np.uint8))
