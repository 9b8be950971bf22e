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
START, END = "<!-- zoo {} -->\n", "<!-- /zoo {} -->\n"
METRICS = "--no-metrics" not in sys.argv  # which take most of the time
_LONGEST = 340  # characters of a sentence


def row_of(case: Case) -> tuple[str, str]:
    """What a row is called, and its reduction: losses that differ in that alone share a row."""
    loss, _, reduction = case.name.partition("(")
    return (loss, reduction.rstrip(")")) if case.family == "losses" and reduction else (case.name, "")


def judged(case: Case) -> Verdict:
    """What becomes of a case."""
    whole = case.family != "losses" and METRICS
    with tempfile.TemporaryDirectory() as folder:
        verdict = judge(case, Path(folder), metrics=whole, report=whole)
    print(case.name, verdict, flush=True)
    return verdict


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
    """Run a family and put each row into its table as it is known; the cases that are not as they should be."""
    table, run, wrong = shown(family), set(), []
    for case in import_module(f"tests.zoo.{family}").CASES:
        if not re.search(only, case.name):
            continue
        name, _ = row_of(case)
        verdict = judged(case)
        if name not in run:
            run.add(name)
            table[name] = _row(name, case, verdict)
            put(family, table)
        if not verdict.sound or f"| {verdict.gradients} | {_replayed(verdict)} |" not in table[name]:
            wrong.append(case.name)
    return wrong


def shown(family: str) -> dict[str, str]:
    """The rows that the page has of a family, by name."""
    text = (
        PAGE.read_text(encoding="utf-8").partition(START.format(family))[2].partition(END.format(family))[0]
    )
    lines = [line for line in text.splitlines()[3:] if line[:2] == "| "]
    return {line.split(" | ")[0][2:].partition(", every")[0]: line for line in lines}


def put(family: str, table: dict[str, str]) -> None:
    """Write a family's table into the page, in the order of its cases."""
    names = dict.fromkeys(row_of(case)[0] for case in import_module(f"tests.zoo.{family}").CASES)
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(START.format(family))
    rows = "\n".join(table[name] for name in names if name in table)
    after = rest.partition(END.format(family))[2]
    made = f"{START.format(family)}\n{HEAD.format(family)}{rows}\n\n{END.format(family)}{after}"
    PAGE.write_text(head + made, encoding="utf-8")


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--no-metrics"]
    if wrong := [name for family in given[:1] or FAMILIES for name in write(family, *given[1:2])]:
        sys.exit(f"not as they should be: {', '.join(wrong)}")
