"""kill -9 at random instants of recording, resuming, packing, repairing: what was acknowledged is there.

By default test_crash.py kills processes at chosen files, and tests/tracer/recovery/test_kills.py after any call.
"""

from pathlib import Path

import pytest

from tests.soak import soak


def kill(folder: Path, times: int, seed: int, training: bool) -> dict[str, int]:
    for run in soak(folder, times, seed, training):
        kills = run.kills
    return kills


@pytest.mark.slow
def test_ten_times(tmp_path: Path) -> None:
    kills = kill(tmp_path, 10, seed=0, training=False)
    assert sum(kills.values()) == 10 and kills["resume"] >= 2


@pytest.mark.slow
def test_a_thousand_times(tmp_path: Path) -> None:
    kills = kill(tmp_path, 1000, seed=1, training=True)
    assert kills.keys() == {"new", "resume", "train", "pack", "repair", "describe"}
