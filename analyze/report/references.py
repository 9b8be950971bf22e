"""The numbered list of publications at the end of a report."""

from collections.abc import Sequence
from typing import Any

from analyze.reference import Reference


def number_references(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each publication once, in the order the page cites them; gives every entry its numbers as `cites`."""
    listed: dict[str, dict[str, Any]] = {}
    sections = [section for group in groups for section in group["entries"]]
    for entry in (one for section in sections for one in (section, *section.get("also", ()))):
        entry["cites"] = []
        for reference in entry["references"]:
            if reference.key not in listed:
                # Only web addresses become links: a metric from elsewhere brings its own references.
                link = reference.link if reference.link.startswith("https://") else ""
                links = [(link.removeprefix("https://"), link)] if link else []
                text = full_citation(reference)
                listed[reference.key] = {
                    "number": len(listed) + 1,
                    "text": text,
                    "links": links,
                    "metrics": [],
                }
            listed[reference.key]["metrics"].append(entry["name"])
            entry["cites"].append(listed[reference.key]["number"])
    return list(listed.values())


def full_citation(reference: Reference) -> str:
    """Authors, year, title and venue of a publication in one line.

    >>> full_citation(Reference("x", ("Fort, Stanislav", "Narayanan, Srini"), "Stiffness", 2019))
    'Stanislav Fort and Srini Narayanan (2019). Stiffness.'
    """
    names = [" ".join(reversed(author.split(", "))) for author in reference.authors]
    if len(names) > 1:
        names = [", ".join(names[:-1]) + " and " + names[-1]]
    place = f" {reference.venue}." if reference.venue else ""
    return f"{names[0]} ({reference.year}). {reference.title}.{place}"
