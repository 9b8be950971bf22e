"""Write the tables of recording.md: `PYTHONPATH=. python docs/zoo.py [FAMILY [NAME]]`.

Rows of cases that are not run stay, if this wrote them: a table bears a checksum of its rows, and one whose rows are
others is begun anew. A case that is neither right nor explained ends it with an error, once all are run.
"""

import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from tests.zoo import FAMILIES
from tests.zoo.case import Case
from tests.zoo.judge import Verdict, judge
from tests.zoo.table import put, replayed, row, row_of, shown


def judged(case: Case, metrics: bool = True) -> Verdict:
    """What becomes of a case."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = judge(case, Path(folder), metrics=metrics, report=False)
    print(case.name, verdict, flush=True)
    return verdict


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
        if not verdict.sound or f"| {verdict.gradients} | {replayed(verdict)} |" not in lines[name]:
            wrong.append(case.name)
    return wrong


if __name__ == "__main__":
    given = sys.argv[1:]
    if wrong := [name for family in given[:1] or FAMILIES for name in write(family, *given[1:2])]:
        sys.exit(f"not as they should be: {', '.join(wrong)}")
