"""Findings: claims about one run in plain words, with their numbers, said only where the intervals allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from analyze.findings.depth import cna, complexity, paths
from analyze.findings.evidence import Datasets, Finding
from analyze.findings.generalization import broken, margin, outcome, turned
from analyze.findings.gradients import classes, stiffness

__all__ = ["Finding", "findings"]

# The most telling first; a rule sees what was said before it, and may refine that.
RULES: tuple[Callable[[Datasets, Mapping[str, Finding]], Finding | None], ...] = (
    broken,
    outcome,
    turned,
    stiffness,
    classes,
    complexity,
    cna,
    paths,
    margin,
)


def findings(results: Datasets) -> list[Finding]:
    """Everything that can be said of the results of one run, most telling first.

    Intervals hold at 99 % for all findings of a run together. A rule whose metric is absent or undefined, or whose
    interval leaves the claim open, says nothing, or that nothing can be told.
    """
    said: dict[str, Finding] = {}
    for rule in RULES:
        finding = rule(results, said)
        if finding is not None:
            said[finding.name] = finding
    return list(said.values())
