"""The archives of the other processes of a run, carried over as they are."""

from pathlib import Path

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.share.content import ArchiveContent
from tracer.share.tree import write_tree


def copy_others(source: Source, target: Path) -> None:
    """Write into `target` what ranks other than 0 recorded. Errors: ArchiveError if one cannot be read."""
    parts = ranks.every(source)
    try:
        for rank, part in parts.items():
            (place := target / ranks.within(rank)).mkdir(parents=True)
            write_tree(ArchiveContent(part), place, pack=False)
    finally:
        for part in parts.values():
            part.close()
