"""Progress that is seen without being asked for: a line below the cell of a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int, str], None]
OFTEN = 0.2  # seconds between two lines: a browser has to draw them


@contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """What was given; else, in a notebook, a line below the cell that goes away at the end; else nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if progress is not None or not hasattr(shell, "kernel"):
        yield progress or (lambda done, total, text: None)
        return
    line = Line()
    try:
        yield line
    finally:
        line.write("")


class Line:
    """One line of text in the output of a cell, written again and again."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._last = -OFTEN

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show that `done` of `total` pieces are finished, and which one is."""
        if time.monotonic() - self._last >= OFTEN:
            self._last = time.monotonic()
            self.write(f"{done}/{total}  {text}")

    def write(self, text: str) -> None:
        """Write the line; nothing where there is no line yet and nothing to say."""
        from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

        told = {"text/plain": text}
        if self._handle is not None:
            self._handle.update(told, raw=True)
        elif text:
            self._handle = display(told, raw=True, display_id=True)
