"""Progress in a notebook: one line of text, written again, and gone at the end."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from analyze.engine import progress
from analyze.engine.progress import shown


@pytest.fixture
def cell(monkeypatch):
    """What the output of a cell has shown, line by line."""
    lines = []

    def display(told, raw, display_id):
        lines.append(told["text/plain"])
        return SimpleNamespace(update=lambda told, raw: lines.append(told["text/plain"]))

    notebook, module = ModuleType("IPython"), ModuleType("IPython.display")
    notebook.get_ipython = lambda: SimpleNamespace(kernel="a kernel")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return lines


def test_a_notebook_shows_a_line_at_most_five_times_a_second(cell, monkeypatch):
    now = iter([0.0, 0.0, 0.1, 0.5, 0.5])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with shown(None) as tell:
        tell(1, 3, "stiffness")
        tell(2, 3, "cna")
        tell(3, 3, "margin")
    assert cell == ["1/3  stiffness", "3/3  margin", ""]


def test_nothing_is_shown_where_there_is_nothing_to_tell_or_somebody_asks_himself(cell, monkeypatch):
    with shown(None):
        pass
    asked = []
    with shown(lambda *told: asked.append(told)) as tell:
        tell(1, 1, "x")
    assert cell == [] and asked == [(1, 1, "x")]
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)  # a script beside IPython
    with shown(None) as tell:
        tell(1, 1, "x")
    assert cell == []
