"""Write the tables of recording.md: `PYTHONPATH=. python docs/zoo.py [--no-metrics] [FAMILY [NAME]]`.

Rows of cases that are not run stay. A case that is neither right nor explained ends it with an error, once all are run.
"""

import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from tests.zoo import FAMILIES
from tests.zoo.case import Case
from tests.zoo.judge import Verdict, judge

PAGE = Path(__file__).parent / "recording.md"
HEAD = "| {} | network | gradients | replayed | metrics | said |\n|---|---|---|---|---|---|\n"
METRICS = "--no-metrics" not in sys.argv  # which take most of the time
_LONGEST = 220  # characters of a sentence


def row_of(case: Case) -> tuple[str, str]:
    """What a row is called, and its reduction: losses that differ in that alone share a row."""
    loss, _, reduction = case.name.partition("(")
    return (loss, reduction.rstrip(")")) if case.family == "losses" and reduction else (case.name, "")


def rows(family: str, only: str, before: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """The row of each case by name, and the cases that are not as they should be."""
    made: dict[str, str] = {}
    wrong = []
    for case in import_module(f"tests.zoo.{family}").CASES:
        name, _ = row_of(case)
        if not re.search(only, case.name):
            made.setdefault(name, before.get(name, ""))
            continue
        first = name not in made
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(case, Path(folder), metrics=family != "losses" and METRICS, report=False)
        print(case.name, verdict, flush=True)
        if first:
            made[name] = _row(name, case, verdict)
        if not verdict.sound or made[name].count(f"| {verdict.gradients} | {_replayed(verdict)} |") != 1:
            wrong.append(case.name)
    return {name: row for name, row in made.items() if row}, wrong


def _replayed(verdict: Verdict) -> str:
    return "yes" if verdict.replayed == "yes" else "no" if verdict.network != "refused" else ""


def _row(name: str, case: Case, verdict: Verdict) -> str:
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
    """Put the table of a family where its last one is; the cases that are not as they should be."""
    start, end = f"<!-- zoo {family} -->\n", f"<!-- /zoo {family} -->\n"
    old = PAGE.read_text(encoding="utf-8").partition(start)[2].partition(end)[0]
    before = {
        line.split(" | ")[0][2:].partition(", every")[0]: line
        for line in old.splitlines()
        if line[:2] == "| "
    }
    made, wrong = rows(family, only, before)
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(start)
    table = HEAD.format(family) + "\n".join(made.values()) + "\n"
    PAGE.write_text(f"{head}{start}\n{table}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
    return wrong


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--no-metrics"]
    if wrong := [name for family in given[:1] or FAMILIES for name in write(family, *given[1:2])]:
        sys.exit(f"not as they should be: {', '.join(wrong)}")
