"""Write the tables of recording.md: `PYTHONPATH=. python docs/zoo.py [FAMILY [NAME]]`.

Rows of cases that are not run stay, if this wrote them: a table bears a checksum of its rows, and one whose rows are
others is begun anew. A case that is neither right nor explained ends it with an error, once all are run.
"""

import re
import sys
import tempfile
import zlib
from importlib import import_module
from pathlib import Path

from tests.zoo import FAMILIES
from tests.zoo.case import Case
from tests.zoo.judge import Verdict, judge

PAGE = Path(__file__).parent / "recording.md"
HEAD = "| {} | network | gradients | replayed | metrics | said |\n|---|---|---|---|---|---|\n"
_LONGEST = 340  # characters of a sentence


def row_of(case: Case) -> tuple[str, str]:
    """What a row is called, and its reduction: losses that differ in that alone share a row."""
    loss, _, reduction = case.name.partition("(")
    return (loss, reduction.rstrip(")")) if case.family == "losses" and reduction else (case.name, "")


def judged(case: Case, metrics: bool = True) -> Verdict:
    """What becomes of a case."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = judge(case, Path(folder), metrics=metrics, report=False)
    print(case.name, verdict, flush=True)
    return verdict


def _replayed(verdict: Verdict) -> str:
    return "yes" if verdict.replayed == "yes" else "no" if verdict.network != "refused" else ""


def row(case: Case, verdict: Verdict) -> str:
    """The line of the table that says what became of a case."""
    name, _ = row_of(case)
    cells = [name + ", every reduction" * (row_of(case)[1] != ""), verdict.network, verdict.gradients]
    cells += [_replayed(verdict), str(verdict.metrics or ""), _said(case, verdict)]
    return f"| {' | '.join(cells)} |"


def _said(case: Case, verdict: Verdict) -> str:
    """The first thing that the recording said, without where the code lies."""
    if not verdict.notes:
        return case.stated
    sentence = re.sub(r"\S*/(\w+\.py:\d+) \(.*?\)(?=:)", r"\1", verdict.notes[0]).replace("|", "\\|")
    short = sentence if len(sentence) <= _LONGEST else sentence[:_LONGEST].rpartition(" ")[0] + " ..."
    return f"{case.stated}: {short}" if case.stated else short


def write(family: str, only: str = "") -> list[str]:
    """Run a family and put each row into its table as it is known; the cases that are not as they should be."""
    lines: dict[str, str] = {}
    wrong = []
    for case in import_module(f"tests.zoo.{family}").CASES:
        if not re.search(only, case.name):
            continue
        name, _ = row_of(case)
        verdict = judged(case, metrics=name not in lines)
        if name not in lines:
            lines[name] = row(case, verdict)
            put(family, shown(family) | lines)
        if not verdict.sound or f"| {verdict.gradients} | {_replayed(verdict)} |" not in lines[name]:
            wrong.append(case.name)
    return wrong


def shown(family: str) -> dict[str, str]:
    """The rows that this has written of a family, by name: none where the page has others."""
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


if __name__ == "__main__":
    given = sys.argv[1:]
    if wrong := [name for family in given[:1] or FAMILIES for name in write(family, *given[1:2])]:
        sys.exit(f"not as they should be: {', '.join(wrong)}")
