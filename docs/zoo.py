"""Write the table of recorded models in recording.md: `PYTHONPATH=. python docs/zoo.py [FAMILY ...]`."""

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
_LONGEST = 200  # characters of a sentence


def table(family: str) -> str:
    """One line a case; cases that differ in the reduction of their loss alone share it where it is the same."""
    lines: dict[tuple[str, str], list[str]] = {}
    for case in import_module(f"tests.zoo.{family}").CASES:
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(case, Path(folder))
        print(case.name, verdict, flush=True)
        if not verdict.sound:
            raise SystemExit(f"{case.name}: {verdict}")
        name, _, reduction = case.name.partition("(")
        alike = family == "losses" and reduction
        lines.setdefault((name if alike else case.name, _line(case, verdict)), []).append(reduction)
    rows = []
    for (name, line), reductions in lines.items():
        every = (
            ", every reduction"
            if len(reductions) == 3
            else f" ({', '.join(reductions)}"
            if reductions[0] and family == "losses"
            else ""
        )
        rows.append(f"| {name}{every} | {line}")
    return HEAD.format(family) + "\n".join(rows) + "\n"


def _line(case: Case, verdict: Verdict) -> str:
    replayed = "yes" if verdict.replayed == "yes" else "no"
    metrics = str(verdict.metrics or "")
    gradients = verdict.gradients
    cells = [verdict.network, gradients, replayed, metrics, _said(case, verdict)]
    if verdict.network == "refused":
        cells[1:4] = ["", "", ""]
    return " | ".join(cells) + " |"


def _said(case: Case, verdict: Verdict) -> str:
    """What the recording said of it, without where the code lies."""
    if not verdict.notes:
        return case.stated
    sentence = re.sub(r"\S*/(\w+\.py:\d+) \(.*?\)(?=:)", r"\1", verdict.notes[0])
    sentence = sentence.replace("|", "\\|")
    short = sentence if len(sentence) <= _LONGEST else sentence[:_LONGEST].rpartition(" ")[0] + " ..."
    return f"{case.stated}: {short}" if case.stated else short


def write(family: str) -> None:
    """Put the table of a family where its last one is."""
    text = PAGE.read_text(encoding="utf-8")
    start, end = f"<!-- zoo {family} -->\n", f"<!-- /zoo {family} -->\n"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{start}\n{table(family)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        write(name)
