"""Runs as people name them: paths, patterns, directories."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analyze.comparison.runs import SUFFIXES, Run, read_run
from tracer.archive.listing import archives_and_links, is_pattern, matching
from tracer.errors import ArchiveError, said
from tracer.store.store import is_remote, local_path


@dataclass
class Named:
    """The runs that paths name, each once.

    unread: why there is none of a path that leads to something. passed: a sentence on what directories hold besides,
    links and files that cannot be looked into.
    """

    runs: list[Run]
    unread: dict[str, str]
    passed: list[str]

    def readable(self) -> None:
        """Leave out runs whose archive turned out not to be readable."""
        self.unread |= {run.path: run.unread for run in self.runs if run.unread}
        self.runs = [run for run in self.runs if not run.unread]

    @property
    def left_out(self) -> list[str]:
        """A sentence on each run that cannot be read."""
        return [f"{path} is left out: {reason}" for path, reason in self.unread.items()]


def runs_at(paths: str | Path | Sequence[str | Path]) -> Named:
    """Archives, analyses, patterns of either, or directories of archives, as runs.

    Where a pattern matches an archive and its analysis, they are one run. Errors: ArchiveError for a path where nothing
    is, a pattern that matches nothing, or a directory without archives.
    """
    places, passed = paths_of(paths)
    named = Named([], {}, passed)
    for place in places:
        try:
            named.runs.append(read_run(place))
        except Exception as error:  # of many runs, the others are still wanted
            if not is_remote(place) and not os.path.lexists(local_path(place)):
                raise
            named.unread[place] = said(error)
    return named


def paths_of(paths: str | Path | Sequence[str | Path]) -> tuple[list[str], list[str]]:
    """The same as paths: patterns and directories expanded, others as they are, each once; and what was passed over."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    passed: list[str] = []
    return list(dict.fromkeys(one for path in given for one in _expanded(os.fspath(path), passed))), passed


def _expanded(location: str, passed: list[str]) -> list[str]:
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
        passed += [f"in {location}, {links}"] if links else []
        return found
    return [location]


def _is_run(location: str) -> bool:
    if is_remote(location):
        return location.rstrip("/").endswith(SUFFIXES)
    place = local_path(location)
    analysis = (place / "summary.json").is_file() or (place / "results.zarr").is_dir()
    return analysis or (place / "zarr.json").is_file() or (place.suffix == ".zip" and place.is_file())
