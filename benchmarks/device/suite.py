"""Parts (a) and (b): the tests that need a device, in the order of what matters, each outcome written as it comes."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device.results import Results

ROOT = Path(__file__).parents[2]
FILE = "tests/tracer/recorder/test_gpu.py"
NEUTRALITY = "test_training_is_unchanged"
# What is claimed first, and what was never seen before what is likely to hold.
FIRST = (
    "test_a_thousand",
    "test_between_the_checks",
    "test_the_device_sees",
    "test_gradients_are",
    "test_skipped",
    "test_settings",
    "test_an_update_within",
)
STYLES_FIRST = (
    "-sgd]",
    "-minibatch]",
    "-bf16]",
    "-adamw, fp16",
    "-adamw, fused",
    "-fused",
    "-tf32]",
    "-minibatch, bf16",
    "-compiled",
)


class Watch:
    """A plugin of pytest: puts tests in order, keeps outcomes, and stops at the deadline."""

    def __init__(self, results: Results) -> None:
        self._results, self._counts = results, dict.fromkeys(("passed", "failed", "skipped"), 0)
        self._session: Any = None
        self._written = 0.0

    def pytest_sessionstart(self, session: Any) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: rank(item.nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and not (report.when == "setup" and report.outcome != "passed"):
            return
        self._counts[report.outcome] += 1
        row = {"test": report.nodeid.rpartition("::")[2], "outcome": report.outcome}
        row["seconds"] = round(report.duration, 2)
        if report.outcome == "failed":
            row["error"] = report.longreprtext[-3000:]
            print(f"FAILED {report.nodeid}: {_cause(report)}", flush=True)
        self._results.content["results"].setdefault("tests", []).append(row)
        self._results.put(**self._counts)
        if self._results.left < 0 and self._session is not None:
            self._session.shouldstop = "out of time"

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        text = str(warning_message.message)[:300]
        seen = self._results.content["results"].setdefault("warnings", {})
        seen[text] = seen.get(text, 0) + 1


def rank(nodeid: str) -> tuple[int, int]:
    """Where a test comes in the order of what matters.

    >>> rank("x.py::test_a_thousand") < rank("x.py::test_settings[a]") < rank("x.py::test_other")
    True
    """
    name = nodeid.rpartition("::")[2]
    kind = next((place for place, start in enumerate(FIRST) if name.startswith(start)), len(FIRST))
    style = next((place for place, text in enumerate(STYLES_FIRST) if text in name), len(STYLES_FIRST))
    return kind, style


def run(results: Results, chosen: str, jobs: int, marker: str = "gpu", file: str = FILE) -> None:
    """Run the tests of a file that `-k chosen` names, in so many processes."""
    os.chdir(ROOT)
    # A warning is counted instead of ending a test: this machine's versions are not those the suite is kept clean for.
    arguments = [
        file,
        "-q",
        "-m",
        marker,
        "-k",
        chosen,
        "-o",
        "addopts=",
        "--import-mode=importlib",
        "-W",
        "default",
    ]
    arguments += [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:logging",
        "-p",
        "no:benchmark",
        "--strict-markers",
        "--tb=short",
    ]
    if jobs > 1:
        arguments += ["-n", str(jobs), "--dist", "load", "--maxschedchunk", "1"]
    began = time.time()
    code = pytest.main(arguments, plugins=[Watch(results)])
    results.put(exit_code=int(code), wall_seconds=round(time.time() - began, 1))
    counts = results.content["results"]
    if int(code) not in (0, 1) or not counts.get("passed"):
        results.add(
            "errors", where="pytest", error=f"exit code {int(code)}, {counts.get('passed', 0)} tests passed"
        )
    elif counts.get("failed"):
        results.add("errors", where="pytest", error=f"{counts['failed']} tests failed")


def _cause(report: Any) -> str:
    lines = [line[2:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return (lines[0] if lines else report.longreprtext.strip().rpartition("\n")[2])[:200]
