"""Processes started beside this one end with it, in the middle of what they do, however it ends."""

import os
import signal
import subprocess
import sys
import threading

import pytest

STARTING = """
from analyze.numerics.processes import pool
from tests.tracer.test_ending import busy
from tracer.apart import Apart

with pool(1) as beside:
    beside.submit(busy)
    Apart().call(busy)
"""


def busy() -> None:
    """Say so, and then have no end."""
    os.write(2, b"+")
    threading.Event().wait(600.0)


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_no_process_outlives_the_one_that_asked(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTING], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.read(2) == b"++", "both are at work"
        process.send_signal(how)
        # Each holds the other end of this pipe as long as it lives.
        said, _ = process.communicate(timeout=60.0)
        assert process.returncode == -how and not said
