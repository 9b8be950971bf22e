"""No test waits for a time or asserts one: what it says would depend on what else the machine does."""

import ast

from tests import ROOT

CLOCKS = {"monotonic", "perf_counter", "perf_counter_ns", "monotonic_ns", "time_ns", "sleep"}
# They kill recordings at any instant, which is what they are for; what must be true afterwards does not depend on it.
RANDOM_INSTANTS = {"soak.py"}


def clocks(source: str) -> set[str]:
    """Calls of a clock, or of sleep, in a source."""
    if not any(f"time.{name}" in source for name in CLOCKS):
        return set()
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    names = [
        (getattr(getattr(f, "value", None), "id", ""), f.attr) for f in calls if isinstance(f, ast.Attribute)
    ]
    return {name for owner, name in names if owner == "time" and name in CLOCKS}


def test_no_test_looks_at_a_clock() -> None:
    assert clocks("start = time.monotonic()\ntime.sleep(1)") == {"monotonic", "sleep"}
    found = {
        str(file.relative_to(ROOT / "tests")): clocks(file.read_text())
        for file in (ROOT / "tests").rglob("*.py")
        if file.name not in RANDOM_INSTANTS
    }
    assert not {name: used for name, used in found.items() if used}
