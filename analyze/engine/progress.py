"""What is told of work without being asked for: what long work will take, and how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from analyze.engine.cost import Prices, in_words, of_stored
from tracer.announce import announce
from tracer.errors import byte_size

if TYPE_CHECKING:
    from analyze.engine.plan import Plan
    from tracer.archive import Archive

Progress = Callable[[int, int, str], None]
ANNOUNCED = 30.0  # declared seconds from which work is announced
_NAMED = 8  # metrics that are named; of more their number is told
OFTEN = 0.2  # seconds between two lines: a browser has to draw them


def announce_long(plans: Sequence[Plan], archive: Archive, prices: Prices, memory: int) -> None:
    """Say in one line what plans take that take long: those that run the network again, and the others."""
    replays = [plan for plan in plans if plan.replays]
    stored = [plan for plan in plans if not plan.replays]
    for what, together, seconds, less in (
        ("metrics of what is stored take", stored, of_stored(stored, archive), "-m"),
        ("running the network again takes", replays, prices.together(replays), "--patience or -m"),
    ):
        if seconds > ANNOUNCED:
            few = len(together) <= _NAMED
            names = ", ".join(plan.card.name for plan in together) if few else f"{len(together)} metrics"
            announce(
                f"{archive.path}: {what} about {in_words(seconds)} ({names}), "
                f"and at most {byte_size(memory)} of memory; {less} asks for less."
            )


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
