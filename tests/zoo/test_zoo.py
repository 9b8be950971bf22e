"""Every case of the zoo is recorded with right gradients, replayed and analyzed, or a sentence says what is not."""

from importlib import import_module

import pytest

from tests import ROOT
from tests.zoo import FAMILIES
from tests.zoo.judge import judge

# One or two of a family for every day: those whose ways through the recorder differ.
QUICK = {
    "SmoothL1Loss(sum)",
    "contrastive, in the batch",
    "one edge index for all examples",
    "encoder and decoder, teacher forcing",
    "DenseNet block",
}
CASES = [case for family in FAMILIES for case in import_module(f"tests.zoo.{family}").CASES]
PAGE = (ROOT / "docs" / "recording.md").read_text(encoding="utf-8")


def marked(case):
    return pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("case", map(marked, CASES))
def test_what_becomes_of_a_case(tmp_path, case):
    whole = case.name not in QUICK
    verdict = judge(case, tmp_path, metrics=whole, report=whole)
    assert verdict.sound, verdict
    said = " ".join(verdict.notes)
    assert case.refused in said and case.off in said
    wanted = "refused" if case.refused else "eager" if case.eager else "table"
    assert verdict.network == wanted, verdict
    assert verdict.gradients == ("" if case.refused else "off" if case.off else "equal"), verdict


@pytest.mark.slow
def test_names_are_those_of_the_page():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) and set(names) >= QUICK
    for case in CASES:
        name = case.name.partition("(")[0] if case.family == "losses" else case.name
        assert f"| {name}" in PAGE, (
            f"{case.name} is not in recording.md, run: PYTHONPATH=. python docs/zoo.py"
        )
