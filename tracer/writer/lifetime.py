"""What happens to open archives when their process ends or forks."""

import atexit
import os
import signal
import threading
from types import FrameType
from typing import Protocol


class Mortal(Protocol):
    """Something that must be closed before its process ends, and never by a forked child."""

    def interrupt(self) -> None:
        """Close as interrupted, without waiting forever."""

    def forget(self) -> None:
        """Disown everything, in a forked child."""


_open: set[Mortal] = set()  # not weak: a recording its program lost sight of is still closed at the end


def watch(writer: Mortal) -> None:
    """Close ``writer`` when the process ends regularly, or by SIGTERM if the program does not handle it."""
    _open.add(writer)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def unwatch(writer: Mortal) -> None:
    """Leave a writer alone from now on."""
    _open.discard(writer)


def _interrupt_all() -> None:
    for writer in list(_open):
        writer.interrupt()


def _forget_all() -> None:
    for writer in list(_open):
        writer.forget()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    # The process still dies of the signal, as its parent expects.
    _interrupt_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


atexit.register(_interrupt_all)
os.register_at_fork(after_in_child=_forget_all)
