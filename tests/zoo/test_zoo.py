"""Every case of the zoo is recorded with right gradients, replayed and analyzed, or a sentence says what is not."""

from importlib import import_module

import pytest

from tests.zoo import FAMILIES
from tests.zoo.judge import judge
from tests.zoo.table import row, row_of, shown

# A few for every day: those whose ways through the recorder differ.
QUICK = {
    "SmoothL1Loss(sum)",
    "nodes of one graph as examples",
    "one edge index for all examples",
}
CASES = [case for family in FAMILIES for case in import_module(f"tests.zoo.{family}").CASES]


def marked(case):
    return pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow])


# What PyTorch says of a loss, or of making a model, it says without a recorder too.
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_what_becomes_of_a_case(tmp_path, case):
    whole = case.name not in QUICK
    name, reduction = row_of(case)
    verdict = judge(case, tmp_path, metrics=whole, report=whole)
    assert verdict.sound, verdict
    said = " ".join(verdict.notes)
    assert case.refused in said and case.off in said
    wanted = "refused" if case.refused else "eager" if case.eager else "table"
    assert verdict.network == wanted, verdict
    assert verdict.gradients == ("" if case.refused else "off" if case.off else "equal"), verdict
    if whole and reduction in ("", "mean"):
        assert shown(case.family)[name] == row(case, verdict), (
            f"run: PYTHONPATH=. python docs/zoo.py {case.family}"
        )


def test_rows_of_the_page_are_those_that_its_script_wrote():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) and set(names) >= QUICK
    for family in FAMILIES:
        wanted = dict.fromkeys(row_of(case)[0] for case in CASES if case.family == family)
        assert list(shown(family)) == list(wanted), f"run: PYTHONPATH=. python docs/zoo.py {family}"
