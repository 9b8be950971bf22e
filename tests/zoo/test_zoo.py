"""Every case of the zoo is recorded with right gradients, replayed and analyzed, or a sentence says what is not."""

from importlib import import_module

import pytest

from tests import ROOT
from tests.zoo import FAMILIES
from tests.zoo.judge import judge

# A few for every day: those whose ways through the recorder differ.
QUICK = {
    "SmoothL1Loss(sum)",
    "nodes of one graph as examples",
    "one edge index for all examples",
    "encoder and decoder, teacher forcing",
}
CASES = [case for family in FAMILIES for case in import_module(f"tests.zoo.{family}").CASES]
PAGE = (ROOT / "docs" / "recording.md").read_text(encoding="utf-8")


def marked(case):
    return pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_what_becomes_of_a_case(tmp_path, case):
    whole = case.name not in QUICK
    verdict = judge(case, tmp_path, metrics=whole, report=whole)
    assert verdict.sound, verdict
    said = " ".join(verdict.notes)
    assert case.refused in said and case.off in said
    wanted = "refused" if case.refused else "eager" if case.eager else "table"
    assert verdict.network == wanted, verdict
    assert verdict.gradients == ("" if case.refused else "off" if case.off else "equal"), verdict


def test_names_are_those_of_the_page():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) and set(names) >= QUICK
    shown = {
        line.split(" | ")[0][2:].partition(", every")[0] for line in PAGE.splitlines() if line[:2] == "| "
    }
    known = {case.name.partition("(")[0] if case.family == "losses" else case.name for case in CASES}
    tables = PAGE.partition("<!-- zoo losses -->")[2].partition("### Models")[0]
    rows = {name for name in shown if f"| {name} |" in tables or f"| {name}, every" in tables}
    assert rows - set(FAMILIES) <= known, "run: PYTHONPATH=. python docs/zoo.py"
    assert {case.name.partition("(")[0] for case in CASES if case.family == "losses"} <= rows
