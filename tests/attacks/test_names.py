"""Names made to harm stay names: in tables, in messages, in a report and in a notebook."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import analyze
import cli
import tracer
from tests.attacks.hostile import change_root
from tests.synthetic import write_archive
from tracer.verify import verify

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\b\u202e"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{7*7}}{%raw%}$\\frac{"


def named(path: Path, name: str) -> Path:
    """An archive in which everything that can have a name has this one."""
    write_archive(path, steps=(0, 1, 2))

    def change(root: dict[str, Any]) -> None:
        attributes = root["attributes"]
        for table in ("sites", "calls", "layers"):
            for number, row in enumerate(attributes[table]):
                row["name"] = f"{name}{number}"
                row["op"] = row["module"] = name
        attributes["title"] = name
        attributes["card"] |= {"model": name, "optimizer": name, "loss": name, "settings": {name: name}}
        nodes = root["consolidated_metadata"]["metadata"]
        nodes["probes/train"]["attributes"]["split"] = name
        nodes["steps/accuracy"]["attributes"].update(logged_as=name, long_name=name)

    change_root(path, change)
    return path


@pytest.mark.parametrize("command", [["info"], ["verify"], ["verify", "--full"], ["info", "--format", "csv"]])
def test_a_terminal_is_not_driven_by_an_archive(tmp_path: Path, command: list[str]) -> None:
    path = named(tmp_path / "run.zarr", ESCAPES)
    done = CliRunner().invoke(cli.main, [command[0], str(path), *command[1:]])
    assert not set(done.output) & set(ESCAPES) - set("[2J]0;owned"), repr(done.output)


def test_a_terminal_is_not_driven_by_a_message(tmp_path: Path) -> None:
    path = named(tmp_path / "run.zarr", ESCAPES)
    (path / ("stray" + ESCAPES.replace("/", ""))).write_text("")
    done = CliRunner().invoke(cli.main, ["verify", str(path)])
    assert done.exit_code == 1
    assert "stray\\x1b[2J" in done.output
    assert "\x1b" not in done.output


def test_a_notebook_shows_markup_as_text(tmp_path: Path) -> None:
    with tracer.open(named(tmp_path / "run.zarr", MARKUP)) as archive:
        page = archive._repr_html_()
    assert "<script" not in page
    assert "<img" not in page


def test_a_report_shows_markup_as_text(tmp_path: Path) -> None:
    path = named(tmp_path / "run.zarr", MARKUP)
    results = analyze.run(path, metrics=["generalization", "path_cross_similarity"])
    results.save(tmp_path / "out")
    pages = [file.read_text() for file in (tmp_path / "out").rglob("*") if file.suffix in (".html", ".svg")]
    assert pages
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "onerror=alert(2)>" not in page.replace("&gt;", "").replace("onerror=alert(2)&", "")
    for file in (tmp_path / "out").rglob("*.json"):
        json.loads(file.read_text())
    outside = {file.name for file in tmp_path.iterdir()}
    assert outside == {"run.zarr", "out"}


def test_names_do_not_choose_where_results_go(tmp_path: Path) -> None:
    path = named(tmp_path / "run.zarr", "../../escaped")
    analyze.run(path, metrics=["generalization"]).save(tmp_path / "deep" / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"run.zarr", "deep"}
    assert not verify(path).ok  # the names were changed in the root alone
