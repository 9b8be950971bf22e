"""The line before work starts, and the level it is logged at."""

import importlib
import logging

import pytest

from tracer import announce

LOGGER = logging.getLogger("tracer")


@pytest.fixture
def unused(monkeypatch):
    """The logger as it is before tracer has said anything."""
    level = LOGGER.level
    monkeypatch.setattr(LOGGER, "handlers", [])
    LOGGER.setLevel(logging.NOTSET)
    yield
    LOGGER.setLevel(level)


@pytest.mark.parametrize(("chosen", "lines"), [(None, 1), (logging.WARNING, 0), (logging.DEBUG, 1)])
def test_a_level_chosen_before_the_first_line_stays(unused, capsys, chosen, lines):
    if chosen is not None:
        LOGGER.setLevel(chosen)
    importlib.reload(announce).announce("About to begin.")
    assert capsys.readouterr().err.count("About to begin.") == lines
    assert LOGGER.level == (chosen or logging.INFO)
