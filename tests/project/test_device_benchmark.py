"""The benchmark of a device, rehearsed on a processor: every part leaves real numbers, and the pages take them in."""

import json
import math
import os
import runpy
import subprocess
import sys
import textwrap
import time
from argparse import Namespace
from dataclasses import replace

import pytest

from benchmarks.device import __main__ as benchmark
from benchmarks.device import gallery, overhead, profiles, replays, snapshots, summary, workloads
from benchmarks.device.results import Results, read
from tests import ROOT

SCRIPT = """
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
(out / "figure.svg").write_text("<svg/>")
about = "A title.\\n\\nClaim: it runs.\\n\\nHere: this.\\n\\nVerdict: that."
numbers = {"script": "walker_1_boundary", "figure": "figure.svg", "verdict": "holds", "scale": "quick", "about": about}
(out / "numbers.json").write_text(json.dumps(numbers))
"""
TESTS = """
import pytest
def test_right(): pass
def test_wrong(): assert 1 == 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of every part, at the smallest size."""
    folder = tmp_path_factory.mktemp("results")

    def results(part):
        return Results(folder / f"{part}.json", "cpu", time.time() + 600)

    with pytest.MonkeyPatch.context() as patch:
        for part, work in {
            "overhead": lambda r: overhead.run(r, "cpu", True, [replace(workloads.resnet18(True), every=6)]),
            "snapshots": lambda r: snapshots.run(r, "cpu", 2),
            "replay": lambda r: replays.run(r, "cpu", True, ["jacobian"]),
        }.items():
            made = results(part)
            work(made)
            made.finish()
        scripts = folder / "scripts"
        scripts.mkdir()
        (scripts / "walker_1_boundary.py").write_text(SCRIPT)
        patch.setattr(gallery, "FIGURES", scripts)
        made = results("gallery")
        gallery.run(made, "cpu", "quick", None, 2, ["walker_1_boundary", "no_such_script"])
        made.finish()
    (folder / "test_two.py").write_text(TESTS)
    code = f"""
        from pathlib import Path
        from benchmarks.device import suite
        from benchmarks.device.results import Results
        results = Results(Path({str(folder)!r}) / "tests.json", "cpu")
        suite.run(results, "right or wrong", 1, marker="", file={str(folder / "test_two.py")!r})
        results.finish()
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True, capture_output=True
    )
    return folder


@pytest.mark.slow  # no user runs it, and what it measures has tests of its own
def test_every_part_leaves_real_numbers(folder):
    found = {
        part: read(folder / f"{part}.json")
        for part in ("tests", "overhead", "snapshots", "replay", "gallery")
    }
    assert [part["state"] for part in found.values()] == ["failed", "done", "done", "done", "done"]
    assert all(part["machine"]["versions"]["torch"] and part["seconds"] > 0 for part in found.values())
    tests = found["tests"]["results"]
    assert (tests["passed"], tests["failed"]) == (1, 1) and "assert 1 == 2" in tests["tests"][1]["error"]
    for one in found["overhead"]["results"]["right"]:
        assert one["unchanged"] and one["bit_for_bit"] and one["within_1e-5_of_cpu"]
        assert one["same_device"]["replayed"] == 3 and one["same_device"]["bytes"] > 0
    for one in found["overhead"]["results"]["compared"]:
        assert one["ratio"] > 0 and one["kernel_ratio"] > 0 and len(one["bare_seconds"]) >= 3
        assert one["recorded_between"]["events"] > 0
    assert found["snapshots"]["results"]["right"] == found["snapshots"]["results"]["stored"] == 3
    (jacobian,) = found["replay"]["results"]["metrics"]
    assert jacobian["nan_alike"] and set(jacobian["differences"].values()) == {0.0}
    states = [one["state"] for one in found["gallery"]["results"]["scripts"]]
    assert (
        states == ["done", "failed"]
        and "no_such_script" in found["gallery"]["results"]["scripts"][1]["error"]
    )


@pytest.mark.slow
def test_the_summary_and_the_page_say_what_came_out(folder):
    parts = {part: read(folder / f"{part}.json") for part in benchmark.SECONDS}
    told = summary.text(parts)
    assert "1 passed, 1 failed" in told and "test_wrong" in told and "3 of 3 hold the true weights" in told
    assert len(told) < 12_000 and "bit for bit True" in told
    docs = runpy.run_path(str(ROOT / "docs" / "device.py"))
    known = docs["read"](folder)
    text = docs["section"](known)
    page = docs["put"]((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), text)
    assert page.count(docs["BEGIN"]) == page.count(docs["END"]) == 1 and docs["put"](page, text) == page
    for words in ("Tests: 1 passed, 1 failed", "bit for bit", "| jacobian |", "torch 2", "`test_wrong`"):
        assert words in page
    made = folder / "figures"
    made.mkdir()
    assert docs["figures"](known, made) == ["walker_1_boundary"]
    numbers = json.loads((made / "walker_1_boundary" / "numbers.json").read_text())
    assert numbers["verdict"] == "holds"
    assert known["gallery"]["machine"]["card"] in numbers["hardware"] and "cores" in numbers["hardware"]
    assert (made / "walker_1_boundary" / "figure.svg").read_text() == "<svg/>"


def test_a_part_that_hangs_or_dies_is_ended_and_named(tmp_path, monkeypatch):
    chosen = Namespace(out=tmp_path, device="cpu", jobs=1, small=True, data=None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho begun; sleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setattr(benchmark, "LEAST", 0.0)
    benchmark.in_child("tests", chosen, 0.2)
    assert read(tmp_path / "tests.json")["state"] == "out of time"
    fake.write_text("#!/bin/sh\necho it broke >&2; exit 7\n")
    benchmark.in_child("replay", chosen, 60)
    died = read(tmp_path / "replay.json")
    assert died["state"] == "failed" and died["exit_code"] == 7 and "it broke" in died["tail"]
    assert "it broke" in summary.text({"replay": died})


def test_what_waits_is_counted_on_the_thread_that_trains():
    def event(name, cat, tid, dur=1000):
        return {"ph": "X", "name": name, "cat": cat, "tid": tid, "dur": dur}

    events = [
        event("gemm", "kernel", 7, 2_000_000),
        event("Memcpy", "gpu_memcpy", 7, 500_000),
        event("cudaStreamSynchronize", "cuda_runtime", 1),
        event("cudaEventSynchronize", "cuda_runtime", 2),
        event("cudaLaunchKernel", "cuda_runtime", 1),
    ]
    found = profiles.summary(events, 1)
    assert math.isclose(found["kernel_seconds"], 2.5) and found["kernels"] == 1
    assert found["waits"] == {"cudaStreamSynchronize": 1}
    assert found["waits_of_other_threads"] == {"cudaEventSynchronize": 1}
