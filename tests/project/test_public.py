"""What a stranger meets: names that import and resolve, versions that agree, keys that complete."""

import ast
import pydoc
import re
import subprocess
import sys
import tomllib
import typing
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import analyze
import tracer
from analyze.results import Results
from tests import ROOT, parsed
from tests.loops import run_loop
from tracer.errors import byte_size
from tracer.spec import release

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PUBLIC = [f"{package.__name__}.{name}" for package in (tracer, analyze) for name in package.__all__]
PACKAGES = [
    path for package in ("tracer", "analyze") for path in sorted((ROOT / package).rglob("__init__.py"))
]


@pytest.mark.parametrize("package", [tracer, analyze])
def test_a_package_lists_its_public_names_and_no_other(package):
    assert dir(package) == sorted(package.__all__)
    assert not [name for name in dir(package) if name.startswith("_")]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_found_by_its_dotted_path_and_documented(name):
    found = pydoc.locate(name)
    assert found is not None
    assert found.__doc__
    assert pydoc.locate(f"{found.__module__}.{found.__qualname__}") is found  # where it is defined, too


def bound(statements):
    """Names that statements of a module bind, with the module an import takes each from."""
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node.module) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                (name.id, None)
                for target in targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name)
            )
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from bound(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: ".".join(path.relative_to(ROOT).parts[:-1]))
def test_no_name_of_a_package_hides_a_module_of_it(path):
    """So that `import a.b.c as m` gives the module, and tools that walk dotted names arrive."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    modules = {item.stem for item in path.parent.glob("*.py")} | {
        item.parent.name for item in path.parent.glob("*/*.py")
    }
    lazy = getattr(import_module(package), "_HOME", {}) if package in ("tracer", "analyze") else {}
    names = [*bound(parsed(path).body), *((name, None) for name in lazy)]
    assert not [name for name, source in names if name in modules and source != package]


def test_metrics_import_as_modules():
    import analyze.metrics.gradients.stiffness as module

    assert module is sys.modules["analyze.metrics.gradients.stiffness"]
    assert pydoc.locate("analyze.metrics.gradients.stiffness.stiffness") is module.stiffness


def test_every_refusal_is_a_tracer_error_and_a_standard_one():
    refusals = {tracer.ArchiveError: ValueError, tracer.MissingTraceError: LookupError}
    refusals |= {
        tracer.RecordError: ValueError,
        tracer.ArgumentError: ValueError,
        analyze.AnalysisError: RuntimeError,
    }
    for error, standard in refusals.items():
        assert issubclass(error, tracer.TracerError) and issubclass(error, standard)
    assert isinstance(tracer.every(3), tracer.Schedule)


def test_a_plain_value_error_is_worded_by_its_caller():
    """What people read is ours by its class; reasons that a caller makes a sentence of are these rooms' own."""
    inside = ("tracer/store/", "tracer/gradients/rules.py")
    files = [*(ROOT / "tracer").rglob("*.py"), *(ROOT / "analyze").rglob("*.py")]
    names = [path.relative_to(ROOT).as_posix() for path in files if "raise ValueError(" in path.read_text()]
    assert any(name.startswith(inside) for name in names)
    assert not [name for name in names if not name.startswith(inside)], "raise ArgumentError"


def test_errors_schedules_version_and_reading_need_no_torch():
    code = """
import sys
import cli
assert "importlib.metadata" not in sys.modules  # tens of milliseconds of `tracer --help`
import analyze, tracer
tracer.TracerError, tracer.Schedule, tracer.open, tracer.Archive, analyze.AnalysisError, analyze.available_metrics
tracer.__version__
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("package", [tracer, analyze])
def test_types_are_shipped_and_known_to_checkers(package):
    """Names that are loaded at first use are declared for type checkers, who run nothing."""
    assert Path(package.__file__).with_name("py.typed").exists()
    (block,) = (
        node
        for node in parsed(Path(package.__file__)).body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    )
    declared = dict(bound(block.body))
    assert {name: declared.get(name) for name in package.__all__} == package._HOME
    assert not typing.TYPE_CHECKING


def test_keys_complete_in_a_notebook(tmp_path):
    run_loop(tmp_path / "run.zarr", epochs=1, gradients="none")
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.probes._ipython_key_completions_() == ["train", "test"]
    results = Results({"cna": xr.Dataset({"cna": ("step", np.zeros(2))})}, {"hessian": "no weights"})
    assert results._ipython_key_completions_() == ["cna"]


def test_the_version_is_written_in_one_place():
    assert tracer.__version__ == PROJECT["version"], "install again: pip install -e ."
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == PROJECT["version"]
    written = [path for package in ("tracer", "analyze") for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in written if f'"{PROJECT["version"]}"' in path.read_text(encoding="utf-8")]


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert release.version.__wrapped__() == PROJECT["version"]


def test_sizes_are_written_one_way():
    assert [byte_size(n) for n in (0, 1023, 1024, 5 << 40)] == ["0 B", "1023 B", "1.0 KiB", "5.0 TiB"]
    assert byte_size(5 << 50) == "5120.0 TiB"
    shown = re.compile(r"\} ?[kKMGT]i?B\b")  # a number put into a text with a unit of its own
    sources = [path for package in ("tracer", "analyze") for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in sources if shown.search(path.read_text(encoding="utf-8"))]
