"""Without PyTorch, and without what only extras bring, the reading side works and the rest says what it needs."""

import os
import subprocess
import sys

import pytest

ROOT_ARCHIVE = "tests/archives/1.0/run.zarr"


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """Environment of a process that finds no torch."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("torch", "numkong", "sklearn"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError('no {name} here', name='{name}')\n"
        )
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def tracer(environment, *arguments):
    command = [sys.executable, "-m", "tracer", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_reading_needs_no_pytorch(without_torch, tmp_path):
    for arguments in (["info"], ["verify", "--full"]):
        done = tracer(without_torch, *arguments, ROOT_ARCHIVE)
        assert done.returncode == 0, done.stderr
    done = tracer(without_torch, "pack", ROOT_ARCHIVE, "-o", tmp_path / "packed.zip", "--zip")
    assert done.returncode == 0, done.stderr
    done = tracer(without_torch, "export", ROOT_ARCHIVE, tmp_path / "run.h5")
    assert done.returncode == 0, done.stderr


def test_what_is_stored_is_analyzed_and_the_rest_says_what_it_needs(without_torch, tmp_path):
    done = tracer(without_torch, "analyze", ROOT_ARCHIVE, "-o", tmp_path / "analysis")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "analysis" / "report.html").is_file()
    assert "needs the package torch" in (tmp_path / "analysis" / "summary.json").read_text()
    named = tracer(without_torch, "analyze", ROOT_ARCHIVE, "-o", tmp_path / "other", "-m", "hessian")
    assert named.returncode == 1 and "needs the package torch" in named.stderr
    assert "Traceback" not in named.stderr


@pytest.mark.parametrize("code", ["tracer.record", "tracer.Probe", "tracer.check"])
def test_recording_says_that_it_needs_pytorch(without_torch, code):
    script = f"import tracer\ntry:\n    {code}\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", script], env=without_torch, capture_output=True, text=True)
    assert "needs the package torch: install PyTorch" in done.stdout


def test_the_demo_says_that_it_needs_pytorch(without_torch, tmp_path):
    done = tracer(without_torch, "demo", "--out", tmp_path / "demo")
    assert (
        done.returncode == 1 and "needs the package torch" in done.stderr and "Traceback" not in done.stderr
    )
