"""Who may import whom, and what a light command may not load."""

import ast
import functools
import json
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests import ROOT, parsed

# Modules that read archives: a collaborator who only reads pays for numpy and zarr, not for torch.
LIGHT = (
    *(
        "archive",
        "spec",
        "errors",
        "bits",
        "command/console",
        "archive/summary",
        "command/summary",
        "schedule",
    ),
    *("__init__", "__main__"),
)
# What watches a training loop and writes: no analysis may need it.
RECORDING = {"recorder", "writer", "schedule", "share", "demo"}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def imports(path):
    """Every module a file imports, lazily too; a lazy torch import counts only in `eager`."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else str(node.module) for name in names}
    return found


@functools.cache
def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@functools.cache
def eager(path):
    """Modules imported when the file is: those of functions and of `if TYPE_CHECKING` left out."""
    found, waiting = set(), list(parsed(path).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
        waiting.extend(ast.iter_child_nodes(node))
    return found


def belongs(name, package):
    return name == package or name.startswith(package + ".")


def importing(package, forbidden):
    """Which files of a package import what is forbidden, and what they import of it."""
    return {
        (str(path.relative_to(ROOT)), name)
        for path in modules(package)
        for name in imports(path)
        if any(belongs(name, module) for module in forbidden)
    }


def test_tracer_never_imports_analyze():
    assert not importing("tracer", ["analyze"])


def test_only_the_console_entry_imports_the_command_line():
    assert {path for path, _ in importing("tracer", ["cli"])} == {"tracer/__main__.py"}


def test_analyze_imports_nothing_that_records():
    assert not importing("analyze", [*(f"tracer.{name}" for name in RECORDING), "cli"])


@pytest.mark.parametrize("name", LIGHT)
def test_reading_modules_do_not_load_torch(name):
    path = ROOT / "tracer" / f"{name}.py"
    path = path if path.exists() else path.with_suffix("") / "__init__.py"
    assert not {found for found in eager(path) if belongs(found, "torch")}


def test_the_command_line_imports_what_is_slow_inside_its_commands():
    slow = (
        "torch",
        "numpy",
        "xarray",
        "matplotlib",
        "tracer.archive",
        "tracer.command.demo",
        "analyze.engine",
    )
    files = [ROOT / "cli.py", *modules("tracer/command"), *modules("analyze/command")]
    files.remove(ROOT / "tracer" / "command" / "demo.py")  # which trains
    files.remove(ROOT / "tracer" / "command" / "summary.py")  # imported by the command that needs it
    named = {name for path in files for name in eager(path)}
    assert not {name for name in named if any(belongs(name, package) for package in slow)}


def loaded_after(code):
    """Names of the modules a fresh interpreter has loaded after running `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_only_replay_loads_torch_neither_reading_nor_listing():
    names = [path.relative_to(ROOT).with_suffix("") for path in modules("analyze")]
    light = [".".join(name.parts).removesuffix(".__init__") for name in names if "replay" not in name.parts]
    code = [f"import {name}" for name in light]
    assert "torch" not in loaded_after(
        "\n".join([*code, "import tracer", "tracer.open", "analyze.available_metrics()"])
    )


def test_help_loads_neither_numbers_nor_plots():
    code = "import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0"
    heavy = {
        "torch",
        "numpy",
        "xarray",
        "matplotlib",
        "zarr",
        "starlette",
        "analyze.contract",
        "analyze.engine",
    }
    assert not heavy & loaded_after(code)


# ---- no circles ----


def executed(path):
    """Every module that a file can import while it runs: in functions and by `import_module` too, types left out."""
    found, waiting = set(), list(parsed(path).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else str(node.module) for name in names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found |= {str(node.args[0].value)} if called == "import_module" else set()
        waiting.extend(ast.iter_child_nodes(node))
    return {name for name in found if is_module(name) and name.partition(".")[0] in ("tracer", "analyze")}


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(name):
    """The folder of a package that a module is in; a module of its own where it lies loose."""
    return ".".join(name.split(".")[:2])


@functools.cache
def import_graph():
    return {dotted(path): executed(path) for package in ("tracer", "analyze") for path in modules(package)}


def test_no_modules_import_each_other():
    graph = {name: found - {name} for name, found in import_graph().items()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_no_rooms_import_each_other():
    rooms: dict[str, set[str]] = {}
    for name, found in import_graph().items():
        if "." in name:  # the packages themselves hand out names of every room
            rooms.setdefault(room(name), set()).update(room(other) for other in found if "." in other)
    graph = {name: found - {name} for name, found in rooms.items()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize("package", ["tracer", "analyze"])
def test_few_files_lie_loose(package):
    assert len(list((ROOT / package).glob("*.py"))) <= 8


@pytest.mark.parametrize("package", ["tracer", "analyze", "tests"])
def test_no_file_is_longer_than_a_room(package):
    assert not {dotted(path) for path in modules(package) if len(path.read_text().splitlines()) > 400}


def test_the_command_line_is_no_longer_than_a_room():
    assert len((ROOT / "cli.py").read_text().splitlines()) <= 400
