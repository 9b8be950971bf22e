"""Processes beside this one, which end with it, and the threads each may take."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor

_THREADS = "OMP_NUM_THREADS"
_GIVEN = _THREADS in os.environ  # by who started this process


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool(n: int) -> Executor:
    """So many processes beside this one, which share the cores and end when this one does, however it ends."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    threads = max(1, cores() // n) if n > 1 else 1
    # A fresh interpreter: a fork would share the locks of whatever threads the caller has running.
    return ProcessPoolExecutor(
        n, get_context("spawn"), initializer=_begin, initargs=(None if _GIVEN else threads,)
    )


def leave_a_core() -> Callable[[], None]:
    """Have this process leave a core to one beside it, until what is returned is called."""
    return (lambda: None) if _GIVEN else _limit_threads(max(1, cores() - 1))


def _begin(threads: int | None) -> None:
    # Ctrl-C reaches every process of a terminal: one that is waited for says nothing of its own.
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    _end_with_parent()
    if threads is not None:
        _limit_threads(threads)


def _end_with_parent() -> None:
    # Executors leave a process alone whose parent was killed: it finishes what it does, and then waits for ever.
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _limit_threads(threads: int) -> Callable[[], None]:
    # Each process would take a thread a core for its matrix products; together they would crowd the machine, where
    # threads that wait for each other keep all from going on.
    from threadpoolctl import threadpool_limits

    limited = threadpool_limits(threads)
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(threads)  # for what is loaded later, and for processes begun by this one

    def undo() -> None:
        limited.restore_original_limits()
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before

    return undo
