"""What is installed: exactly our three top-level names, the templates, and a command that guards itself."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Files of a wheel built from a copy of the sources, with the setuptools at hand and no network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.zarr", "*.analysis")
    for name in ("tracer", "analyze", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=leave)
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True, timeout=120
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


def test_the_wheel_installs_exactly_our_top_level_names(names):
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tracer", "analyze", "cli.py"}


def test_the_version_of_a_wheel_is_that_of_the_project(names):
    assert f"tracer_nn-{VERSION}.dist-info/METADATA" in names


def test_every_module_and_template_is_in_the_wheel(names):
    sources = [*(ROOT / "tracer").rglob("*.py"), *(ROOT / "analyze").rglob("*.py")]
    sources += [
        *(ROOT / "analyze" / "report" / "templates").iterdir(),
        ROOT / "tracer" / "py.typed",
        ROOT / "analyze" / "py.typed",
    ]
    assert {str(path.relative_to(ROOT)) for path in sources} <= set(names)


def run_tracer(*arguments, cwd=ROOT, path=()):
    paths = os.pathsep.join([*map(str, path), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "tracer", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_python_m_tracer_runs_the_command():
    result = run_tracer("--version")
    assert (result.returncode, result.stdout) == (0, f"tracer, version {VERSION}\n")


def test_a_stranger_called_cli_is_named_and_not_run(tmp_path):
    (tmp_path / "cli.py").write_text('print("stranger")\n\n\ndef main():\n    print("stranger")\n')
    result = run_tracer("--version", path=[tmp_path])
    assert result.returncode == 1
    assert str(tmp_path / "cli.py") in result.stderr
    assert "stranger" not in result.stdout
    assert "Traceback" not in result.stderr
