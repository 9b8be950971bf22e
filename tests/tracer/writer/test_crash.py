"""kill -9 at any file of a commit leaves the last one, whole, to tracer and to plain xarray, live too."""

import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import tracer
from tests import ROOT
from tests.crash_writer import SIZES, ids, values
from tracer.errors import ArchiveError
from tracer.writer import Writer


def start(path: Path, *options: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.crash_writer", str(path), *map(str, options or (10_000,))]
    root = ROOT
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def check(path: Path, acknowledged: int, latest: int = 1000) -> int:
    """Every acknowledged row is there and the latest are right; returns how many there are."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_plain(path, acknowledged)
        with tracer.open(path) as archive:
            n = len(archive.rows["step"])
            assert n >= acknowledged
            assert archive.rows["step"].tolist() == list(range(n))
            assert archive.rows["loss"].tolist() == [step + 0.5 for step in range(n)]
            if "late" in archive.rows:
                assert np.array_equal(archive.rows["late"][3:], np.arange(3, n))
            for step in range(max(0, n - latest), n):
                assert np.array_equal(archive.ids(step), ids(step))
            for group in SIZES:
                steps = archive._source.steps(group)
                assert steps.tolist() == list(range(n))
                for row in range(max(0, n - latest), n):
                    assert np.array_equal(archive._source.read(f"{group}/values", row), values(group, row))
    return n


def check_plain(path: Path, acknowledged: int) -> None:
    with xr.open_datatree(path, engine="zarr") as tree:
        n = tree["steps"].sizes["step"]
        assert n >= acknowledged
        assert tree["steps/loss"].values.tolist() == [step + 0.5 for step in range(n)]
        for group in SIZES:
            stored = tree[f"{group}/values"]
            assert stored.sizes["step"] == n
            if n:
                assert np.array_equal(stored[-1].values, values(group, n - 1))


def kill(path: Path, instant: random.Random) -> int:
    """Kill a recording within one of its first steps; returns how many steps it had acknowledged."""
    process = start(path)
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(instant.randrange(12))]
    for _ in range(instant.randrange(300_000)):  # somewhere within a step
        pass
    process.kill()
    seen += process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return sum(line.endswith("\n") for line in seen)


@pytest.mark.parametrize(
    "files", [pytest.param(n, marks=[] if n in (4, 19) else [pytest.mark.slow]) for n in range(1, 44, 3)]
)
def test_killed_between_any_two_files_of_a_commit(tmp_path: Path, files: int) -> None:
    process = start(tmp_path / "run.zarr", 100, files)
    assert process.stdout is not None
    acknowledged = len(process.stdout.readlines())
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    n = check(tmp_path / "run.zarr", acknowledged)
    assert n <= acknowledged + 1


def test_live_readers_see_whole_commits(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    process = start(path)
    seen = [check(path, 0, latest=2) for _ in range(5)]
    process.kill()
    assert process.stdout is not None
    process.stdout.close()
    process.wait()
    assert seen == sorted(seen)
    assert check(path, seen[-1]) >= seen[-1]


def test_killed_recording_frees_the_lock_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    kill(path, random.Random(0))
    with pytest.raises(ArchiveError, match="exists already"):
        Writer(path, attributes={})


def run(code: str, path: Path) -> "subprocess.CompletedProcess[str]":
    root = ROOT
    return subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True)


HEAD = """
import os, signal, sys
from tests.recording import put_row
from tracer.writer import Writer
writer = Writer(sys.argv[1], attributes={})
for step in range(3):
    put_row(writer, step)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param("", 0, marks=pytest.mark.slow),  # as any script of these tests that ends
        ("raise RuntimeError('bug in the training script')", 1),
        pytest.param("sys.exit(3)", 3, marks=pytest.mark.slow),  # an exception too
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_any_orderly_end_of_the_process_commits_everything(tmp_path: Path, end: str, code: int) -> None:
    path = tmp_path / "run.zarr"
    assert run(HEAD + end, path).returncode == code
    with tracer.open(path) as archive:
        assert archive.state == "interrupted"
        assert archive.rows["step"].tolist() == [0, 1, 2]
    assert not path.with_name("run.zarr.lock").exists()


def test_a_sigterm_handler_of_the_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    code = (
        HEAD.replace("writer =", handler + "writer =")
        + "os.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()"
    )
    assert run(code, path).returncode == 7
    with tracer.open(path) as archive:
        assert archive.state == "interrupted"
