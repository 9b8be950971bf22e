"""Without PyTorch, and without what only extras bring, the reading side works and the rest says what it needs."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests import ROOT

ARCHIVE = ROOT / "tests/archives/1.0/run.zarr"
# One process for all commands, since starting it is most of what they take.
SCRIPT = """
    import json, sys
    from pathlib import Path
    from click.testing import CliRunner
    import analyze, tracer
    from cli import main
    from tracer.__main__ import main as entry


    archive, out = sys.argv[1], Path(sys.argv[2])
    told = {}

    def command(name, *arguments):
        done = CliRunner().invoke(main, [name, *map(str, arguments)])
        told[" ".join([name, *map(str, arguments)])] = [done.exit_code, done.stderr]

    command("info", archive)
    command("verify", archive, "--full")
    command("pack", archive, "-o", out / "packed.zip", "--zip")
    command("export", archive, out / "run.h5")
    command("analyze", archive, "-o", out / "analysis", "-m", "margin", "-m", "stiffness")
    command("analyze", archive, "-o", out / "other", "-m", "hessian")
    command("demo", "--out", out / "demo")
    for name in ("record", "Probe", "check"):
        try:
            getattr(tracer, name)
        except ImportError as error:
            told[f"tracer.{name}"] = str(error)
    sys.argv = ["tracer", "info", archive]
    try:
        entry()
    except SystemExit as end:
        told["entry"] = end.code
    results = analyze.run(archive)
    told["computed"], told["skipped"] = list(results), dict(results.skipped)
    told["imported"] = [name for name in ("torch", "numkong", "sklearn") if name in sys.modules]
    print("\\n" + json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a process that finds no torch says: exit code and stderr of commands, and what functions give."""
    folder = tmp_path_factory.mktemp("without")
    for name in ("torch", "numkong", "sklearn"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError('no {name} here', name='{name}')\n"
        )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(ARCHIVE), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = {
        name.replace(str(ARCHIVE), "ARCHIVE").replace(str(folder), "OUT"): value
        for name, value in json.loads(done.stdout.splitlines()[-1]).items()
    }
    assert said["imported"] == [] and said["entry"] == 0
    return said | {"report": (folder / "analysis/report.html").is_file()}


@pytest.mark.parametrize(
    "command",
    [
        "info ARCHIVE",
        "verify ARCHIVE --full",
        "pack ARCHIVE -o OUT/packed.zip --zip",
        "export ARCHIVE OUT/run.h5",
    ],
)
def test_reading_needs_no_pytorch(told, command):
    code, stderr = told[command]
    assert code == 0, stderr


def test_what_is_stored_is_analyzed_and_the_rest_says_what_it_needs(told):
    code, stderr = told["analyze ARCHIVE -o OUT/analysis -m margin -m stiffness"]
    assert code == 0 and told["report"], stderr
    assert {"margin", "stiffness", "cna"} <= set(told["computed"])
    assert "needs the package torch" in told["skipped"]["hessian"]
    code, stderr = told["analyze ARCHIVE -o OUT/other -m hessian"]
    assert code == 1 and "needs the package torch" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("name", ["record", "Probe", "check"])
def test_recording_says_that_it_needs_pytorch(told, name):
    assert "needs the package torch: install PyTorch" in told[f"tracer.{name}"]


def test_the_demo_says_that_it_needs_pytorch(told):
    code, stderr = told["demo --out OUT/demo"]
    assert code == 1 and "needs the package torch" in stderr and "Traceback" not in stderr
