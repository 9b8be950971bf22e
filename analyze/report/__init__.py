"""The report: one HTML page that explains a run and its metrics, with nothing to fetch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from analyze.catalogue import available_metrics
from analyze.contract import Metric
from analyze.findings import findings
from analyze.findings.intervals import CONFIDENCE
from analyze.report import page
from analyze.report.choice import leading
from analyze.report.entries import COMING, chapters, drawing, entry, grid, joined, title_of
from analyze.report.references import number_references
from analyze.report.run import run_section
from tracer.store.files import write_whole

if TYPE_CHECKING:
    from tracer.archive import Archive


def write(
    results: Mapping[str, xr.Dataset],
    path: str | Path,
    archive: Archive | None = None,
    *,
    figures: str | Path | None = None,
) -> Path:
    """Write the report of some results to `path` and return it.

    `archive` adds what was trained and what was recorded. `figures` is a directory of `<metric>.svg` of these
    very results; those are used as they are, and the others drawn.
    """
    path = Path(path)
    write_whole(path, render(results, archive, figures=figures))
    return path


def render(
    results: Mapping[str, xr.Dataset],
    archive: Archive | None = None,
    *,
    figures: str | Path | None = None,
    entries: dict[tuple[str, str], dict[str, Any]] | None = None,
    drawn: Callable[[Collection[str]], Collection[str]] | None = None,
) -> str:
    """The report as one HTML page. Every text is escaped: names in a foreign archive are only ever shown.

    `entries` keeps what was made of each result, by name and fingerprint, for the page to be made again sooner.
    `drawn`, given the metrics that come first, returns those whose figures this page has; by default, all.
    """
    cards = available_metrics() | getattr(results, "cards", {})
    folder = None if figures is None else Path(figures)
    cache = {} if entries is None else entries
    keys = {name: (name, str(data.attrs.get("fingerprint", ""))) for name, data in results.items()}
    for name, data in results.items():
        if keys[name] not in cache or not keys[name][1]:
            cache[keys[name]] = entry(name, data, cards.get(name))
    shown = [cache[key] for key in keys.values()]
    empty = {
        one["name"]: one["undefined"]["rule"] or "every value is undefined" for one in shown if one["empty"]
    }
    spoken = _findings(results)
    sections = joined([one for one in shown if not one["empty"]])
    first = leading(sections, [one["metric"] for one in spoken])
    there = results if drawn is None else drawn([one["name"] for one in _parts(first)])
    for one in _parts(sections):
        name, made = one["name"], cache[keys[one["name"]]]
        if name in there and "figure" not in made:
            made |= drawing(name, results[name], cards.get(name), folder)
        one |= {part: made.get(part, empty) for part, empty in COMING.items()}
    first = [one for one in first if one["figure"]]
    groups = chapters([one for one in sections if one not in first])
    skipped = _skipped({**getattr(results, "skipped", {}), **empty}, cards)
    references = number_references([{"entries": first}, *groups])
    run = run_section(archive, results) if archive is not None else None
    return page.render(
        "report.html",
        topics=_topics(spoken, run is not None, first, groups, skipped is not None, bool(references)),
        findings=spoken,
        confidence=CONFIDENCE,
        first=first,
        groups=groups,
        references=references,
        skipped=skipped,
        coming=[cards[name].title if name in cards else name for name in getattr(results, "coming", ())],
        analysis=_analysis(results),
        run=run,
    )


def _parts(sections: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each metric of these sections, with those that say the same."""
    for one in sections:
        yield from (one, *one["also"])


def _topics(
    findings: Sequence[Any],
    has_run: bool,
    first: Sequence[dict[str, Any]],
    groups: Sequence[dict[str, Any]],
    skipped: bool,
    references: bool,
) -> list[dict[str, Any]]:
    top = [("findings", "Findings")] if findings else []
    run = [("trained", "What was trained"), ("recorded", "What was recorded")] if has_run else []
    last = [("skipped", "Not computed")] if skipped else []
    last += [("references", "References")] if references else []
    topics = [
        page.topic("This run", [*top, *_links(first)]),
        *(page.topic(one["name"], _links(one["entries"])) for one in groups),
        page.topic("Appendix", [*run, *last, ("provenance", "Provenance")]),
    ]
    return [topic for topic in topics if topic["links"]]


def _links(entries: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["name"], one["title"]) for one in _parts(entries)]


def _findings(results: Mapping[str, xr.Dataset]) -> list[dict[str, str]]:
    return [
        {"sentence": one.sentence, "metric": one.metric, "title": title_of(one.metric, results[one.metric])}
        for one in findings(results)
    ]


def _skipped(skipped: Mapping[str, str], cards: Mapping[str, Metric]) -> dict[str, Any] | None:
    """A row for each reason, which many metrics may share."""
    alike: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        alike.setdefault(str(reason), []).append(cards[name].title if name in cards else name)
    rows = [[", ".join(titles), reason] for reason, titles in alike.items()]
    caption = "Metrics that were not computed"
    return grid(["metric", "what is missing"], rows, caption=caption) if rows else None


def _analysis(results: Mapping[str, xr.Dataset]) -> list[tuple[str, str]]:
    """What the results themselves say about where they come from."""
    named = ("run_id", "archive_digest", "archive_state", "tracer_version", "created")
    facts = []
    for name in named:
        values = dict.fromkeys(str(data.attrs[name]) for data in results.values() if name in data.attrs)
        if values:
            # Metrics finish one after another; the last says when the analysis was done.
            shown = max(values) if name == "created" else ", ".join(values)
            facts.append((name.replace("_", " "), shown))
    return facts
