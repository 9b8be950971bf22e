"""Archives are changed in one place: nothing else of the package renames, removes or opens files for writing."""

import ast
from pathlib import Path

import tracer

ROOT = Path(tracer.__file__).parent
HOME = ("writer/", "store/files.py")
NAMES = {
    *("rename", "renames", "unlink", "rmdir", "rmtree", "mkdir", "makedirs", "removedirs"),
    *("copy2", "copyfile", "copytree", "symlink_to", "hardlink_to", "link", "symlink", "touch", "truncate"),
    *("write_text", "write_bytes", "writev", "pwrite"),
}
# What is no archive that anyone reads by then, or lies at the other end of a wire.
ELSEWHERE = {
    "demo.py": {"mkdir"},
    "share/remote.py": {"mkdir"},
    "share/sending.py": {"mkdir"},
    "store/zip_writer.py": {"open"},  # one new file, of its own name, exclusively
    "share/hdf5.py": {"mkdir", "rename"},
    "share/packs.py": {"mkdir"},  # the new folder beside the target
    "materialize/others.py": {"mkdir"},
    "recovery/repair.py": {"mkdir"},  # the side folder
}


def changes(source: str) -> set[str]:
    """Names of the calls in it that change files: methods of paths and of `os`, and `open` for writing."""
    found = set()
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(getattr(function, "value", None), "id", "")
        if name in NAMES and owner != "self":
            found.add(name)
        if name == "replace" and isinstance(function, ast.Attribute):
            one = len(call.args) == 1 and not call.keywords
            if owner == "os" or (one and owner not in ("source", "self", "dataclasses")):
                found.add(name)
        if name == "open":
            modes = [
                a.value
                for a in [*call.args, *(k.value for k in call.keywords)]
                if isinstance(a, ast.Constant)
            ]
            if any(isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in modes):
                found.add(name)
            if owner == "os" and "O_CREAT" in ast.dump(call):
                found.add("os.open")
    return found


def test_the_search_sees_what_it_should() -> None:
    seen = {
        "a.rename(b)": {"rename"},
        "os.replace(a, b)": {"replace"},
        "path.replace(target)": {"replace"},
        "text.replace(a, b)": set(),
        "replace(row, a=1)": set(),
        "dataclasses.replace(row)": set(),
        "open(p, 'w')": {"open"},
        "p.open(mode='r+b')": {"open"},
        "p.open('rb')": set(),
        "os.open(p, os.O_CREAT | os.O_WRONLY)": {"os.open"},
        "os.open(p, os.O_RDONLY)": set(),
        "shutil.rmtree(p)": {"rmtree"},
    }
    assert {text: changes(text) for text in seen} == seen


def test_nothing_but_the_writer_changes_files() -> None:
    wrong = {}
    for file in sorted(ROOT.rglob("*.py")):
        name = str(file.relative_to(ROOT))
        if not name.startswith(HOME):
            over = changes(file.read_text()) - ELSEWHERE.get(name, set())
            if over:
                wrong[name] = over
    assert not wrong
