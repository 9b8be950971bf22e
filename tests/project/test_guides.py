"""The guides for developers: their worked examples run, and every place in the code that the pages name exists."""

import ast
import re
import shutil
import textwrap
from functools import cache

import pytest

from tests import ROOT, parsed
from tests.forks import apart, run_in
from tests.project.test_docs import blocks
from tracer import ops
from tracer.gradients import rules

DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *sorted(DOCS.rglob("*.md"))]


@cache
def defined(path):
    """Names a file defines, those of classes with their class."""
    names = set()
    for node in parsed(ROOT / path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_place_in_the_code_that_a_page_names_exists():
    named = {
        (page, *match)
        for page in PAGES
        for match in re.findall(
            r"`((?:tracer|analyze|tests)/[\w/]+\.py):([\w.]+)`", page.read_text(encoding="utf-8")
        )
    }
    assert len(named) > 30
    assert not [
        place for place in named if not (ROOT / place[1]).exists() or place[2] not in defined(place[1])
    ]


def test_every_file_and_folder_of_the_code_that_a_page_names_exists():
    named = {
        (page, path)
        for page in PAGES
        for path in re.findall(
            r"`((?:tracer|analyze|tests|docs|benchmarks|examples)/[\w/.]*\w(?:\.py)?)`",
            page.read_text(encoding="utf-8"),
        )
        if page.name != "CHANGELOG.md"
    }
    assert not [
        place for place in named if not ((ROOT / place[1]).exists() or (ROOT / f"{place[1]}.py").exists())
    ]


def test_a_walk_names_methods_of_classes_that_it_names():
    """In a walk a class is named with its file once and by itself afterwards."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:tracer|analyze)/[\w/]+\.py):", text))
    short = set(re.findall(r"`([A-Z]\w+\.\w+)`", text))
    assert len(short) > 5
    assert not short - {name for path in files for name in defined(path)}


def test_adding_a_gradient_rule_is_one_function(tmp_path, monkeypatch):
    """The worked example, without the rule and with it: the gradients agree, and only the way differs."""
    monkeypatch.chdir(tmp_path)
    rule, record, use = blocks(DOCS / "add-a-gradient-rule.md", "python")
    names = {"__name__": "example"}
    exec(rule + record, names)
    exec(use, names)
    assert "rows" not in "".join(way for layer, way in names["ways"].items() if layer != "linear")
    monkeypatch.setitem(rules.RULES, "quotient", names["quotient"])
    monkeypatch.setitem(ops.OPS, "aten.div.Tensor", names["record"])
    shutil.rmtree("scaled.zarr")
    exec(use, names)
    assert set(names["ways"].values()) == {"rows"}


@pytest.fixture
def house(tmp_path):
    """A copy of both packages, to build on."""
    for package in ("tracer", "analyze"):
        shutil.copytree(ROOT / package, tmp_path / package)
    return tmp_path


def insert(path, before, text, indent):
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, (path, before)
    path.write_text(source.replace(before, textwrap.indent(text, indent) + before), encoding="utf-8")


def test_adding_a_stream_is_a_record_an_observer_and_a_reader(house):
    """The worked example, written into a copy of the packages where the guide says, and used."""
    record, observer, entry, reader, array, use = blocks(DOCS / "add-a-stream.md", "python")
    insert(
        house / "tracer/spec/streams.py",
        '        Stream(\n            "weights"',
        record.rstrip() + ",\n",
        " " * 8,
    )
    insert(house / "tracer/probe/observers.py", "\nOBSERVERS: ", "\n\n" + observer + "\n", "")
    insert(house / "tracer/probe/observers.py", '    "gradients": Observer(', entry, " " * 4)
    insert(house / "tracer/archive/probes.py", "    def activations(self", reader + "\n", " " * 4)
    with (house / "analyze/arrays/recorded.py").open("a", encoding="utf-8") as file:
        file.write("\n\n" + array)
    (house / "use.py").write_text(use, encoding="utf-8")
    apart(run_in, house, "use.py")
