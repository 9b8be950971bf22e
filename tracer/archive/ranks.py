"""A run on several processes: the archives of its other ranks, and the step up to which all of them are there.

Each process commits its own archive at its own times, so the run holds what the slowest of them has committed.
"""

import os
import warnings
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from tracer import spec
from tracer.archive.source import Source
from tracer.errors import ArchiveError, MissingTraceError
from tracer.store.documents import to_json
from tracer.store.store import ROOT


def world_size(source: Source) -> int:
    """Processes of the run that an archive is the first rank's of, or the only one's."""
    return int(source.group_attributes(spec.RANKS).get("world_size", 1))


def within(rank: int) -> str:
    """Where in a run's archive that of a rank is."""
    return f"{spec.RANKS}/{rank}" if rank else ""


def present(source: Source) -> list[int]:
    """Ranks other than 0 of which there is something, whole or not."""
    wanted = range(1, world_size(source))
    if not wanted:
        return []
    if source.store.folder is not None:  # what is there, be it ever so broken
        return [rank for rank in wanted if os.path.lexists(source.store.folder / within(rank))]
    there = source.store.present(f"{within(rank)}/{ROOT}" for rank in wanted)
    return [rank for rank in wanted if f"{within(rank)}/{ROOT}" in there]


def connect(source: Source, rank: int) -> Source:
    """The archive of another rank. Errors: ArchiveError if it cannot be read or belongs to another run."""
    rank_source = Source(source.place, within=within(rank))
    try:
        check(source, rank_source, rank)
    except BaseException:
        rank_source.close()
        raise
    return rank_source


def check(source: Source, rank_source: Source, rank: int) -> None:
    """Refuse an archive that is not that of this rank of this run."""
    told = rank_source.attributes.get("rank")
    if rank_source.record["run_id"] != source.record["run_id"]:
        raise ArchiveError(f"{rank_source.path!r} belongs to another run; restore it from a copy")
    if told != {"rank": rank, "world_size": world_size(source)}:
        raise ArchiveError(f"{rank_source.path!r} is not that of rank {rank} of {world_size(source)}")


def readable(source: Source) -> tuple[dict[int, Source], bool]:
    """The archives of other ranks that can be read, and whether any is there; a warning names the others."""
    sources, there = {}, present(source)
    for rank in there:
        try:
            sources[rank] = connect(source, rank)
        except ArchiveError as error:
            warnings.warn(
                f"what rank {rank} recorded of {source.path!r} is not shown: {error}",
                UserWarning,
                stacklevel=5,
            )
    return sources, bool(there)


def every(source: Source) -> dict[int, Source]:
    """The archives of all other ranks that are there. Errors: ArchiveError if one cannot be read."""
    sources: dict[int, Source] = {}
    try:
        for rank in present(source):
            sources[rank] = connect(source, rank)
    except BaseException:
        for part in sources.values():
            part.close()
        raise
    return sources


def last_step(source: Source) -> int:
    """The last update that an archive holds, -1 if it holds none."""
    step = source.record.get("committed_step")
    return -1 if step is None else int(step)


def last_steps(source: Source, others: Mapping[int, Source]) -> dict[int, int]:
    """The last update of each rank; the first source is that of the rank it says."""
    own = source.attributes.get("rank", {"rank": 0})["rank"]
    return {own: last_step(source)} | {rank: last_step(part) for rank, part in others.items()}


def cut(source: Source, step: int) -> None:
    """Let a source show nothing after a step: the same commit with fewer rows, as after resuming there."""
    if last_step(source) <= step:
        return
    rows = {
        group: int(np.searchsorted(source.steps(group), step, side="right"))
        for group in source.record["rows"]
    }
    ids = int(source.read("steps/n_ids", slice(0, rows["steps"])).sum(dtype=np.int64))
    known = source.steps("steps")[: rows["steps"]]
    source.replace(_shortened(source.document(), rows, ids, int(known[-1]) if len(known) else None, step))


def level(first: Source, others: Collection[Source]) -> None:
    """Let no rank show more than every one has committed."""
    if others:
        step = min(last_step(source) for source in (first, *others))
        for source in (first, *others):
            cut(source, step)


def check_all(source: Source, others: Collection[int]) -> None:
    """MissingTraceError where the archives of some ranks are there, but not of all."""
    missing = sorted({*range(1, world_size(source))} - {*others})
    if missing:
        raise MissingTraceError(
            f"{source.path!r} lacks what rank {missing[0]} of {world_size(source)} recorded, so the ids of an update "
            "are not known; those of one process are in ids(step, rank=)"
        )


def digest(first: str, others: Mapping[int, Source]) -> str:
    """Digest of a run from those of its ranks."""
    whole = [first, *(f"{rank}:{source.record['digest']}" for rank, source in sorted(others.items()))]
    return blake2b("/".join(whole).encode(), digest_size=32).hexdigest()


def _shortened(document: Any, rows: dict[str, int], ids: int, last: int | None, step: int) -> bytes:
    record = document["attributes"]["tracer"]
    record["rows"], record["committed_step"] = rows, last
    for path, node in document["consolidated_metadata"]["metadata"].items():
        group = path.rpartition("/")[0]
        if node["node_type"] == "array":
            along = node["dimension_names"][:1]
            if along == ["id"] and group in ("steps", "minibatch"):
                node["shape"][0] = ids
            elif along == ["step"] and group in rows:
                node["shape"][0] = rows[group]
        elif path == "network":
            versions = node["attributes"].get("versions", [])
            node["attributes"]["versions"] = [v for v in versions if v["from_step"] <= max(0, step)]
    return to_json(document).encode()
