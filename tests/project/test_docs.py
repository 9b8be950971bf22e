"""The documentation is kept true: generated pages are fresh, what exists is described, what is shown runs."""

import re
import runpy
import shlex

import click
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import analyze
import cli
from tests import ROOT, loops
from tracer import ops

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
GENERATED = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]


def blocks(page, *languages):
    """Fenced code blocks of a page in one of some languages."""
    pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def shown_commands():
    lines = [
        line.strip().removeprefix("$ ")
        for page in PAGES
        for block in blocks(page, "console", "sh", "bash", "shell")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return sorted({line.split(" #")[0].strip() for line in lines if line.startswith("tracer ")})


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_fresh(page):
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == GENERATED[page](), "run: python docs/generate.py"


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_every_command_and_option_is_documented_and_helped(name):
    command = cli.main.commands[name]
    assert command.help
    assert f"tracer {name}" in TEXT
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert max(option.opts, key=len) in TEXT


@pytest.mark.parametrize("name", sorted(cli.main.commands))
def test_the_front_page_names_every_command(name):
    assert f"tracer {name}" in PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", analyze.available_metrics())
def test_every_metric_is_documented(name):
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_shown_can_be_typed(line):
    context = cli.main.make_context("tracer", shlex.split(line)[1:])
    arguments = [*context._protected_args, *context.args]
    _, command, rest = cli.main.resolve_command(context, arguments)
    assert command is not None
    command.make_context(str(command.name), rest, parent=context)


def test_the_code_on_the_front_page_runs(tmp_path, monkeypatch):
    """Blocks marked `python` run in order, in an empty directory, around a loop such as a reader brings."""
    monkeypatch.chdir(tmp_path)
    x, y = loops.blobs()
    model = loops.mlp()
    brought = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": DataLoader(TensorDataset(x, y), batch_size=8),
        **{"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9]},
    }
    source = "\n".join(blocks(PAGES[0], "python"))
    assert "tracer.record(" in source
    code = compile(source, "python blocks of README.md", "exec")
    exec(code, {"__name__": "readme", **brought})
    assert list(tmp_path.rglob("*.zarr"))


def test_adding_an_operation_is_one_record(monkeypatch):
    """The worked example of `docs/add-an-op.md`, run as it is written."""
    record, use = blocks(ROOT / "docs" / "add-an-op.md", "python")
    names = {"__name__": "example"}
    exec(record, names)
    added = names["record"]
    assert added.name not in ops.OPS and not ops.op(added.name).activation
    monkeypatch.setitem(ops.OPS, added.name, added)
    exec(use, names)
