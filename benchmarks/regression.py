"""What has grown since a saved table: medians of this run against those of `baseline.json`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.harness import Ratio

LIMIT = 1.25  # times what it was: less is within the noise of shared machines


class Growth(NamedTuple):
    """A ratio that was `before` and is `after`."""

    row: str
    before: float
    after: float


def key(ratio: Ratio) -> str:
    """Name of a row in a saved table."""
    return f"{ratio.case}: {ratio.label}"


def grown(results: Iterable[Ratio], before: Mapping[str, float]) -> list[Growth]:
    """Rows whose median grew by more than a quarter while no single ratio is as small as it was, worst first."""
    found = [
        Growth(key(r), before[key(r)], r.median)
        for r in results
        if key(r) in before and r.median > LIMIT * before[key(r)] and min(r.ratios) > before[key(r)]
    ]
    return sorted(found, key=lambda growth: growth.before / growth.after)


def not_compared(results: Sequence[Ratio], before: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Rows that the saved table lacks, and its rows of the cases measured that no case yields any more."""
    rows, cases = {key(r) for r in results}, {r.case for r in results}
    gone = [row for row in before if row.partition(": ")[0] in cases and row not in rows]
    return [key(r) for r in results if key(r) not in before], gone


def warnings(results: Sequence[Ratio], before: Mapping[str, float]) -> str:
    """The comparison in words, with a Markdown table of what has grown."""
    worse = grown(results, before)
    added, gone = not_compared(results, before)
    n = len(results) - len(added)
    lines = [f"{len(worse)} of {n} ratios have grown by more than a quarter since the saved table."]
    if worse:
        lines += ["", "| slower | was | is | times |", "|---|---|---|---|"]
        lines += [f"| {row} | {was:.3g} | {now:.3g} | {now / was:.2f} |" for row, was, now in worse]
    if added:
        lines += ["", f"Not in the saved table: {'; '.join(added)}."]
    if gone:
        lines += ["", f"In the saved table, but measured no more: {'; '.join(gone)}."]
    return "\n".join(lines)
