"""Processes started beside this one end with it, in the middle of what they do, however it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

STARTING = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell

from analyze.numerics.processes import pool
from tests.tracer.test_ending import busy
from tracer.apart import Apart

try:
    with pool(1) as beside:
        beside.submit(busy)
        Apart().call(busy)
except KeyboardInterrupt:
    raise SystemExit(3)
"""


def busy() -> None:
    """Say so, and then have no end."""
    os.write(2, b"+")
    threading.Event().wait(600.0)


def ctrl_c(process: "subprocess.Popen[bytes]") -> int:
    """What a terminal does: every process of the group is interrupted."""
    os.killpg(process.pid, signal.SIGINT)
    return 3


def ended(process: "subprocess.Popen[bytes]") -> int:
    process.terminate()
    return -signal.SIGTERM


def killed(process: "subprocess.Popen[bytes]") -> int:
    process.kill()
    return -signal.SIGKILL


@pytest.mark.parametrize("end", [ctrl_c, ended, pytest.param(killed, marks=pytest.mark.slow)])
def test_no_process_outlives_the_one_that_asked(end: "Callable[[subprocess.Popen[bytes]], int]") -> None:
    starting = [sys.executable, "-c", STARTING]
    with subprocess.Popen(starting, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        assert process.stderr.read(2) == b"++", "both are at work"
        code = end(process)
        try:  # each holds the other end of this pipe as long as it lives
            said, _ = process.communicate(timeout=60.0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code and not said
