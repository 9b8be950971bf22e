"""`memory=` is what recording and analysis take at most, measured: not an estimate of theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SLACK = 1.2

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not say")


def peak(what: str, mebibytes: int, n: int, folder: Path) -> int:
    arguments = [sys.executable, "-m", "tests.memory_worker", what, str(mebibytes), str(n), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("mebibytes", "n"), [(48, 1200), pytest.param(192, 4000, marks=pytest.mark.slow)], ids=["some", "much"]
)
def test_recording_stays_within_its_memory(mebibytes: int, n: int, tmp_path: Path) -> None:
    assert peak("record", mebibytes, n, tmp_path) < SLACK * (mebibytes << 20)


@pytest.mark.slow
@pytest.mark.parametrize(("mebibytes", "n"), [(48, 400), (192, 1200)])
def test_analysis_stays_within_its_memory(mebibytes: int, n: int, tmp_path: Path) -> None:
    assert peak("analyze", mebibytes, n, tmp_path) < SLACK * (mebibytes << 20)
