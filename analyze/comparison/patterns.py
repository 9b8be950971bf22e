"""Runs as people name them: paths, patterns, directories."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from analyze.comparison.runs import SUFFIXES, Run, read_run
from tracer.archive.listing import archives_and_links, is_pattern, matching
from tracer.errors import ArchiveError
from tracer.store.store import is_remote, local_path


def runs_at(paths: str | Path | Sequence[str | Path]) -> list[Run]:
    """The runs that paths name, each once: archives, analyses, patterns of either, or directories of archives.

    Where a pattern matches an archive and its analysis, they are one run. Errors: ArchiveError for a path of neither,
    a pattern that matches nothing, or a directory without archives.
    """
    return [read_run(one) for one in paths_of(paths)]


def paths_of(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """The same as paths: patterns and directories expanded, others as they are, each once."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    return list(dict.fromkeys(one for path in given for one in _expanded(os.fspath(path))))


def _expanded(location: str) -> list[str]:
    if is_pattern(location):
        found = [one for one in matching(location) if _is_run(one)]
        archives = [one for one in found if not one.endswith(".analysis")]
        if not found:
            raise ArchiveError(f"no archive and no analysis matches {location!r}; check the pattern")
        beside = {one[: -len(suffix)] for one in archives for suffix in SUFFIXES if one.endswith(suffix)}
        return [one for one in found if one in archives or one.removesuffix(".analysis") not in beside]
    if not is_remote(location) and local_path(location).is_dir() and not _is_run(location):
        found, links = archives_and_links(location)
        if not found:
            other = links or "name the directory that recording wrote to"
            raise ArchiveError(f"{location!r} holds no archives; {other}")
        return found
    return [location]


def _is_run(location: str) -> bool:
    if is_remote(location):
        return location.rstrip("/").endswith(SUFFIXES)
    place = local_path(location)
    analysis = (place / "summary.json").is_file() or (place / "results.zarr").is_dir()
    return analysis or (place / "zarr.json").is_file() or (place.suffix == ".zip" and place.is_file())
