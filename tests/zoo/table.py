"""The tables of docs/recording.md that say what becomes of the zoo: a row a case, and a checksum of the rows."""

import re
import zlib
from importlib import import_module

from tests import ROOT
from tests.zoo.case import Case
from tests.zoo.judge import Verdict

PAGE = ROOT / "docs" / "recording.md"
HEAD = "| {} | network | gradients | replayed | metrics | said |\n|---|---|---|---|---|---|\n"
_LONGEST = 340  # characters of a sentence


def row_of(case: Case) -> tuple[str, str]:
    """What a row is called, and its reduction: losses that differ in that alone share a row."""
    loss, _, reduction = case.name.partition("(")
    return (loss, reduction.rstrip(")")) if case.family == "losses" and reduction else (case.name, "")


def replayed(verdict: Verdict) -> str:
    """Whether outputs and gradients came out of the archive again; nothing where there is none."""
    return "yes" if verdict.replayed == "yes" else "no" if verdict.network != "refused" else ""


def row(case: Case, verdict: Verdict) -> str:
    """The line of the table that says what became of a case."""
    name, _ = row_of(case)
    cells = [name + ", every reduction" * (row_of(case)[1] != ""), verdict.network, verdict.gradients]
    cells += [replayed(verdict), str(verdict.metrics or ""), _said(case, verdict)]
    return f"| {' | '.join(cells)} |"


def _said(case: Case, verdict: Verdict) -> str:
    """The first thing that the recording said, without where the code lies."""
    if not verdict.notes:
        return case.stated
    sentence = re.sub(r"\S*/(\w+\.py:\d+) \(.*?\)(?=:)", r"\1", verdict.notes[0]).replace("|", "\\|")
    short = sentence if len(sentence) <= _LONGEST else sentence[:_LONGEST].rpartition(" ")[0] + " ..."
    return f"{case.stated}: {short}" if case.stated else short


def shown(family: str) -> dict[str, str]:
    """The rows that docs/zoo.py has written of a family, by name: none where the page has others."""
    table = re.search(rf"<!-- zoo {family} (\w*) -->\n\n(.*?)\n\n<!-- /zoo {family} -->", _page(), re.DOTALL)
    lines = [] if table is None else table[2].splitlines()[2:]
    if table is None or table[1] != _sum(lines):
        return {}
    return {line.split(" | ")[0][2:].partition(", every")[0]: line for line in lines}


def put(family: str, table: dict[str, str]) -> None:
    """Write a family's table into the page, in the order of its cases."""
    names = dict.fromkeys(row_of(case)[0] for case in import_module(f"tests.zoo.{family}").CASES)
    lines = [table[name] for name in names if name in table]
    head, start, rest = _page().partition(f"<!-- zoo {family}")
    end = f"<!-- /zoo {family} -->"
    body = HEAD.format(family) + "\n".join(lines)
    made = f"{head}{start} {_sum(lines)} -->\n\n{body}\n\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(made, encoding="utf-8")


def _page() -> str:
    return PAGE.read_text(encoding="utf-8")


def _sum(lines: list[str]) -> str:
    return f"{zlib.crc32(chr(10).join(lines).encode()):08x}"
