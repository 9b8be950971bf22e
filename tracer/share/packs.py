"""Packing: snapshots joined along time, compressed, compared with the original; in one file if asked."""

import ctypes
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.content import ArchiveContent, Content, difference
from tracer.share.selection import Selection, Steps, select
from tracer.share.tree import Progress, write_tree
from tracer.store.files import Lock, sync
from tracer.store.zip_writer import write_zip

_EXCHANGE = 2  # of renameat2: both names at once
_HERE = -100  # AT_FDCWD


def pack(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    zip: bool = False,
    probes: Collection[str] | None = None,
    sites: Collection[str] | None = None,
    steps: Steps | None = None,
    gradients: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Join the snapshots of an archive along time and compress them; every array stays as it is, bit for bit.

    The result is compared with the original, array by array, before it takes its place: ``output``, which
    must not exist; without it the archive itself, or with ``zip=True`` a file beside it named ``.zip``. A zip
    file is stored uncompressed, so that it is read in place. ``path`` is anything that `tracer.open` takes.

    ``probes``, ``sites``: names to keep. ``steps``: snapshots to keep, as a slice or list of steps; rows of
    ``steps`` all stay. ``gradients=False`` leaves per-example gradients out (their Grams stay). The card says
    under ``packed`` what was left out. Returns the path written.

    Errors: ArchiveError for names that are not there, an archive that is still recorded, a part of an archive
    without ``output``, or an output that exists.
    """
    source = Source(path)
    try:
        chosen = select(source, probes=probes, sites=sites, steps=steps, gradients=gradients)
        if chosen.left_out and output is None:
            raise ArchiveError("a part of an archive does not replace the whole: name an output for it")
        target = _target(source, output, zip, ".zip")
        content = ArchiveContent(source, chosen)
        content.attributes = _described(content.attributes, source, chosen)
        return _place(source, content, target, pack=True, zip=zip, progress=progress)
    finally:
        source.close()


def unpack(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write a packed or zipped archive as a directory in the form in which the recorder writes.

    Without ``output`` a packed directory is replaced, and a zip file gets a directory ``.zarr`` beside it.
    Returns the path written. Errors: as `pack`.
    """
    source = Source(path)
    try:
        local = Path(source.path)
        target = _target(source, output, local.is_file(), ".zarr")
        content = ArchiveContent(source)
        card = dict(content.attributes.get("card", {}))
        if not card.get("packed", {}).get("left_out"):
            card.pop("packed", None)
        content.attributes = {**content.attributes, "card": card}
        return _place(source, content, target, pack=False, zip=False, progress=progress)
    finally:
        source.close()


def _target(source: Source, output: str | os.PathLike[str] | None, beside: bool, suffix: str) -> Path:
    if output is not None:
        target = Path(output).absolute()
    elif "://" in source.path:
        raise ArchiveError(f"{source.path!r} is not on this machine: name an output")
    else:
        target = Path(source.path).absolute()
        target = target.with_suffix(suffix) if beside else target
        if target.is_file() and not beside:
            raise ArchiveError(f"{source.path!r} is a zip file already: name an output, or unpack it")
    own = target == Path(source.path).absolute()
    if target.exists() and not (own and target.is_dir()):
        raise ArchiveError(f"{str(target)!r} exists already; choose another output or remove it first")
    return target


def _described(attributes: dict[str, Any], source: Source, chosen: Selection) -> dict[str, Any]:
    card = dict(attributes.get("card", {}))
    before = card.get("packed", {})
    left_out = {**before.get("left_out", {}), **chosen.left_out}
    card["packed"] = {"original": before.get("original", source.record["digest"]), "left_out": left_out}
    return {**attributes, "card": card}


def _place(
    source: Source, content: Content, target: Path, *, pack: bool, zip: bool, progress: Progress | None
) -> Path:
    """Write beside the target, compare, and rename."""
    part = target.with_name(f"{target.name}.part")
    locks: list[Lock] = []
    parts: dict[int, Source] = {}
    try:
        parts = ranks.every(source)
        for one in (source, *parts.values()):
            if one.store.folder is not None:
                locks.append(Lock(Path(one.path).absolute()))
                if one.store.root_now() != one.store.root:
                    raise ArchiveError(f"{one.path!r} changed meanwhile; pack it again")
        contents = {0: content} | {rank: ArchiveContent(part) for rank, part in parts.items()}
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(part)  # what an earlier attempt that was cut off left behind
        part.mkdir()
        # Waiting for the disk at every object is only worth it where the original goes.
        for rank, whole in contents.items():
            place = part / ranks.within(rank)
            place.mkdir(parents=True, exist_ok=True)
            write_tree(whole, place, pack=pack, sync=target.exists(), progress=progress)
        if zip:
            part = _zipped(part, target)
        for rank, whole in contents.items():
            _compare(whole, part, ranks.within(rank))
        if target.exists():
            _exchange(part, target)
            sync(target.parent)  # before anything of the original is removed
            remove(part)
        else:
            part.rename(target)
    except BaseException:
        remove(part)
        raise
    finally:
        for one in parts.values():
            one.close()
        for lock in locks:
            lock.release()
    return target


def _zipped(folder: Path, target: Path) -> Path:
    file = target.with_name(f"{target.name}.part.zip")
    try:
        remove(file)
        write_zip(folder, file)
    except BaseException:
        remove(file)
        raise
    finally:
        remove(folder)
    return file


def _compare(content: Content, written: Path, within: str) -> None:
    source = Source(written, within)
    try:
        found = difference(content, ArchiveContent(source))
    finally:
        source.close()
    if found is not None:
        raise ArchiveError(
            f"what was written differs from the original in {found}, so the original was left as it is; "
            "check the disk with `tracer verify`"
        )


def remove(path: Path) -> None:
    """Remove a file or directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names at once, or where the system cannot, one after the other."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = _HERE, os.fsencode(one), _HERE, os.fsencode(other)
    if hasattr(libc, "renameat2") and libc.renameat2(*names, _EXCHANGE) == 0:
        return
    aside = other.with_name(f"{other.name}.original")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
