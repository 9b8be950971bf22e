"""The pages of the site: each is in the navigation, tables name what exists, quoted messages are the code's."""

import ast
import pydoc
import re

import xarray

import analyze
import tracer
from tests import ROOT, parsed

DOCS = ROOT / "docs"


def test_every_metric_answers_a_question_and_every_answer_is_a_metric():
    table = (DOCS / "questions.md").read_text(encoding="utf-8").partition("|---|---|")[2]
    named = set(re.findall(r"`([a-z_\d]+)`", table))
    assert named == set(analyze.available_metrics())


def constants():
    """Every text in the code, pieces of f-strings and of joined lines included."""
    for package in ("tracer", "analyze"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_message_that_is_explained_is_said_by_the_code():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        message
        for line in re.findall(r"^`.*`$", page, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", line)
    ]
    quoted = [message for message in quoted if not message.startswith("module 'analyze'")]  # said by Python
    assert len(quoted) > 15
    said = "\n".join(constants())
    assert not [message for message in quoted if message not in said]


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    assert all(pydoc.locate(name) is not None for name in listed)
    shown = [pydoc.locate(name) for name in listed]
    public = {name: getattr(package, name) for package in (tracer, analyze) for name in package.__all__}
    assert not [name for name, thing in public.items() if not any(thing is one for one in shown)]


def test_the_navigation_holds_every_page_and_no_other():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- .*: (\S+\.md)$", settings, re.MULTILINE)
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | {"tutorial.md"}
    assert set(listed) == pages
    assert len(listed) == len(set(listed))


def test_plain_xarray_opens_a_zip_file_as_the_pages_say():
    call = re.search(
        r"`xarray\.open_datatree\(\"zip::runs/mlp\.zip\", engine=\"zarr\"\)`",
        (DOCS / "share.md").read_text(encoding="utf-8"),
    )
    assert call
    tree = xarray.open_datatree(f"zip::{ROOT / 'tests' / 'archives' / '1.0' / 'run.zip'}", engine="zarr")
    assert "steps" in tree.children
