"""Packing: snapshots joined along time, compressed, compared with the original; in one file if asked."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.content import ArchiveContent, Content, difference
from tracer.share.selection import Selection, Steps, select
from tracer.share.tree import Progress, write_tree
from tracer.store.store import parted
from tracer.store.stores import is_path
from tracer.store.zip_writer import write_zip
from tracer.writer.place import beside, exists, fresh, remove, settled


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
    source = Source(_whole(path))
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
    source = Source(_whole(path))
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


def _whole(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    return settled(path) if is_path(path) else path


def _target(source: Source, output: str | os.PathLike[str] | None, beside: bool, suffix: str) -> Path:
    if output is not None:
        target = settled(output)
    elif not is_path(source.path):
        raise ArchiveError(f"{source.path!r} is not on this machine: name an output")
    else:
        target = Path(source.path).absolute()
        target = target.with_name(parted(target.name)[0] + suffix) if beside else target
        if target.is_file() and not beside:
            raise ArchiveError(f"{source.path!r} is a zip file already: name an output, or unpack it")
    own = target == Path(source.path).absolute()
    if os.path.lexists(target) and not (own and target.is_dir()):
        raise exists(target)
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
    others = ranks.every(source)
    try:
        every = (source, *others.values())
        folders = tuple(settled(one.path) for one in every if one.store.folder is not None)
        contents = {0: content} | {rank: ArchiveContent(other) for rank, other in others.items()}
        with fresh(target, replace=target in folders, sources=folders) as part:
            for one in every:
                if one.store.folder is not None and one.store.root_now() != one.store.root:
                    raise ArchiveError(f"{one.path!r} changed meanwhile; pack it again")
            with _zipped(part) if zip else nullcontext(part) as folder:
                folder.mkdir()
                # Waiting for the disk at every object is only worth it where the original goes.
                for rank, whole in contents.items():
                    place = folder / ranks.within(rank)
                    place.mkdir(parents=True, exist_ok=True)
                    write_tree(whole, place, pack=pack, sync=target.exists(), progress=progress)
            for rank, whole in contents.items():
                _compare(whole, part, ranks.within(rank))
    finally:
        for other in others.values():
            other.close()
    return target


@contextmanager
def _zipped(file: Path) -> Iterator[Path]:
    """A path at which nothing is; the folder that was put there becomes a zip file."""
    folder = beside(file)
    remove(folder)
    try:
        yield folder
        write_zip(folder, file)
    finally:
        remove(folder)


def _compare(content: Content, written: Path, within: str) -> None:
    source = Source(written, within)
    try:
        differs = difference(content, ArchiveContent(source))
    finally:
        source.close()
    if differs is not None:
        raise ArchiveError(
            f"what was written differs from the original in {differs}, so the original was left as it is; "
            "check the disk with `tracer verify`"
        )
