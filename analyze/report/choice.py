"""What comes first on the page of a run: the figures that matter for it, by what changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from analyze.summary import Line

MOST = 8  # figures before the chapters
OF_A_CHAPTER = 2  # of those that no finding speaks of


def changed(lines: Sequence[Line]) -> float:
    """How much a metric's numbers moved over the run, from 0 to 2: steadily, and next to their size.

    >>> moves = [Line("m", "a", (), (0, 1, 2), np.array(values), 1) for values in ([1.0, 2.0, 4.0], [1.0, 4.0, 1.1])]
    >>> [round(changed([one]), 2) for one in moves]
    [0.75, 0.0]
    """
    return max((_moved(line.values) for line in lines if line.steps), default=0.0)


def _moved(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    if len(defined) < 3:
        return 0.0
    way, size = float(np.abs(np.diff(defined)).sum()), float(np.abs(defined).max())
    moved = abs(float(defined[-1] - defined[0]))
    return moved / way * moved / size if way > 0 else 0.0


def leading(entries: Sequence[dict[str, Any]], spoken_of: Collection[str]) -> list[dict[str, Any]]:
    """Entries that come first: what findings speak of, in their order, then what changed most, of several chapters."""
    by_name = {one["name"]: one for one in entries if one["drawable"]}
    chosen = [by_name[name] for name in dict.fromkeys(spoken_of) if name in by_name][:MOST]
    taken: dict[str, int] = {}
    for one in sorted(by_name.values(), key=lambda entry: (-entry["score"], entry["title"])):
        room = len(chosen) < MOST and taken.get(one["chapter"], 0) < OF_A_CHAPTER
        if room and one not in chosen and one["score"] > 0:
            chosen.append(one)
            taken[one["chapter"]] = taken.get(one["chapter"], 0) + 1
    return chosen
