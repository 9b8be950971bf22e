"""One line on stderr before work starts, through Python's logging: `logging.getLogger("tracer")` turns it off."""

import logging
import sys


class _Stderr(logging.Handler):
    """Prints to what is stderr now: a notebook and a test put another one in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


_LOGGER = logging.getLogger("tracer")
if not _LOGGER.handlers:
    _LOGGER.addHandler(_Stderr())
    if _LOGGER.level == logging.NOTSET:  # this module is imported late: a level may have been chosen already
        _LOGGER.setLevel(logging.INFO)


def announce(sentence: str) -> None:
    """Say what is about to be done, and what it will take."""
    _LOGGER.info(sentence)
