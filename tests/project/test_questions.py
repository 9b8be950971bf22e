"""Ten questions of researchers: what the page says to type is run, and answers."""

import re
import shutil

import pytest

import analyze
from tests import ROOT
from tests.project.test_docs import blocks
from tests.synthetic import write_archive

PAGE = ROOT / "docs" / "questions.md"
FIRST, *QUESTIONS = blocks(PAGE, "python")
NEEDED = [
    "generalization", "stiffness", "class_stiffness", "el2n", "layer_norms", "path_self_similarity", "margin",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, everything):
    folder = tmp_path_factory.mktemp("questions")
    (folder / "runs").mkdir()
    shutil.copytree(everything, folder / "runs" / "mlp.zarr")
    write_archive(folder / "runs" / "other.zarr")
    return folder, analyze.run(folder / "runs" / "mlp.zarr", NEEDED)


def test_the_page_asks_ten_and_none_takes_more_than_three_lines():
    assert (
        len(QUESTIONS)
        == len(re.findall(r"^\*\*\d+\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
        == 10
    )
    assert all(len(block.strip().splitlines()) <= 3 for block in QUESTIONS)
    assert 'results = analyze.run("runs/mlp.zarr")' in FIRST


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("number", range(1, 11))
def test_a_question_is_answered(number, runs, monkeypatch, capsys):
    folder, results = runs
    monkeypatch.chdir(folder)
    exec(compile(QUESTIONS[number - 1], str(PAGE), "exec"), {"analyze": analyze, "results": results})
    assert capsys.readouterr().out.strip()
