"""What the command line prints: tables that fit, numbers that stay whole, progress that is seen anywhere."""

import os
import sys
import warnings

import click
import pytest
from click.testing import CliRunner

from tracer.command import console
from tracer.command.console import Bar, Commands, fit, table

ROWS = [
    {
        "measure": "stiffness.cosine[train-train, all]",
        "target": "gap in error",
        "tau": -0.1234,
        "count": 12345678,
    },
    {"measure": "cna", "target": "a target with a very long name indeed", "tau": None, "count": 1},
]


def on_terminal(monkeypatch, columns):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24)))


@pytest.mark.parametrize("columns", range(20, 120, 7))
def test_a_table_fits_the_terminal_and_never_cuts_a_number(monkeypatch, columns):
    on_terminal(monkeypatch, columns)
    lines = table(ROWS).splitlines()
    shown = [line for line in lines if not line.startswith("no room for ")]
    assert max(map(len, shown)) <= max(columns, len(ROWS[0]["measure"]))
    said = " ".join(shown).split()
    for name, text in (("tau", "-0.1234"), ("count", "12345678")):
        hidden = any(name in line for line in lines if line.startswith("no room for "))
        assert (text in said) != hidden, "whole, or said to be left out"


def test_where_there_is_room_for_few_columns_a_row_takes_several_lines(monkeypatch):
    on_terminal(monkeypatch, 40)
    assert table(ROWS).splitlines() == [
        "stiffness.cosine[train-train, all]",
        "  target gap in error  tau -0.1234",
        "  count 12345678",
        "cna",
        "  target a target with a very long name",
        "  indeed  tau -  count 1",
    ]


def test_a_table_that_is_no_terminal_s_is_whole():
    assert ROWS[1]["target"] in table(ROWS)


def test_text_gives_way_before_columns_are_left_out():
    assert fit([10, 30, 8], 40, [False, False, True]) == [10, 18, 8]
    assert fit([10, 30, 8], 33, [False, False, True]) == [10, 21]
    assert fit([10, 30, 8], 5, [False, False, True]) == [10]


def test_progress_is_a_line_each_ten_seconds_where_there_is_no_terminal(monkeypatch, capsys):
    now = iter([0.0, 3.0, 9.9, 10.0, 10.0, 19.0, 20.5, 20.5])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with Bar() as bar:
        for done in range(1, 6):
            bar(done, 5, f"block {done}")
    assert capsys.readouterr().err == "  3/5  block 3\n  5/5  block 5\n"


def test_progress_on_a_terminal_is_one_line_that_goes_away(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar() as bar:
        bar(1, 2, "\x1b[2J")
    assert capsys.readouterr().err == "\r\x1b[K  1/2  \\x1b[2J\r\x1b[K"


def test_a_warning_is_one_line_and_said_once():
    @click.group(cls=Commands)
    def group():
        pass

    @group.command()
    def warn():
        for k in (1, 2):
            click.echo(warnings.formatwarning(UserWarning("it is late"), UserWarning, __file__, k), nl=False)

    usual = warnings.formatwarning
    assert CliRunner().invoke(group, ["warn"]).output == "Warning: it is late\n"
    assert warnings.formatwarning is usual


def test_zero_has_no_minus():
    assert table([{"tau": -0.0}]).split() == ["tau", "0"]


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_process_without_streams_prints_nothing_and_goes_on(monkeypatch, form):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console.emit([{"metric": "cna", "value": 0.25}], form)
    with console.Bar() as bar:
        bar(1, 2, "cna")
