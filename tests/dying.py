"""Metrics that fail, for tests of workers; apart, so that a worker that looks them up need not load much."""

import os
import signal
from pathlib import Path

from analyze.contract import metric
from analyze.reference import FORT_2019

ABOUT = {"variables": {"a": ("step",)}, "title": "Made for a test", "reference": FORT_2019}


def fatal(losses, marker="", tester=0):
    """Kills the process that computes it, once if `marker` is a path; never the tester's own."""
    if os.getpid() != tester and not (marker and Path(marker).exists()):
        if marker:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"a": losses.mean(-1)}


def fails_late(losses, step):
    """Fails at every step from 4 on, and says at which."""
    if (step >= 4).any():
        raise ValueError(f"no luck at step {step[step >= 4][0]}")
    return {"a": losses.mean(-1)}


def crashing(states, tester=0):
    """Crashes as a kernel does, in any process but the tester's own."""
    if os.getpid() != tester:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"a": [0.0 for _ in states]}


crashing = metric(reads=("states",), **ABOUT)(crashing)
fatal = metric(reads=("losses",), **ABOUT)(fatal)
fails_late = metric(reads=("losses", "step"), **ABOUT)(fails_late)
