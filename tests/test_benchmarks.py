"""What the benchmarks measure with: their own parts, at sizes that take no time."""

import json
import os
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import gpu, run
from benchmarks.harness import CASES, Ratio
from benchmarks.regression import grown, not_compared, warnings

SMALL = gpu.Size(width=4, examples=32, batch=8, probe=6, every=2, snapshots=1)


def small_network(loop):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10)
    )


def test_the_loop_recorded_on_a_device_is_checked_bit_for_bit(monkeypatch, capsys):
    check = gpu.check

    def check_twice(folder, loop):
        compared = check(folder, loop)
        loop.probe.inputs[3] += 1
        with pytest.raises(RuntimeError, match="does not follow from its weights"):
            check(folder, loop)
        return compared

    monkeypatch.setattr(gpu, "check", check_twice)
    monkeypatch.setattr(gpu.Loop, "network", small_network)
    rows = gpu.recorded_and_bare("cpu", SMALL)
    _, ours, theirs, goal = next(rows)
    assert ours() > 0 and theirs() > 0 and goal == 1.04
    assert list(rows) == []
    recorded, bare = ours.__self__, theirs.__self__
    assert recorded.updates == bare.updates == 3
    for one, other in zip(recorded.model.parameters(), bare.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "bit for bit" in capsys.readouterr().err


def test_without_a_gpu_one_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(gpu.recorded_on_a_gpu()) == []
    assert "no CUDA device" in capsys.readouterr().err


def ratio(case, label, *ratios):
    return Ratio(case, label, "it", 1.0, ratios)


def test_what_grew_by_more_than_a_quarter_is_named_worst_first():
    before = {"a: x": 1.0, "a: y": 2.0, "b: z": 0.1, "a: old": 3.0, "c: other": 1.0}
    results = [
        ratio("a", "x", 1.2, 1.26, 1.3),
        ratio("a", "y", 2.4, 2.49, 9.0),
        ratio("b", "z", 0.2, 0.21, 0.3),
        ratio("b", "new", 5.0),
    ]
    assert [growth.row for growth in grown(results, before)] == ["b: z", "a: x"]
    assert not_compared(results, before) == (["b: new"], ["a: old"])
    text = warnings(results, before)
    assert text.startswith("2 of 3 ratios have grown") and "| b: z | 0.1 | 0.21 | 2.10 |" in text
    assert text.index("b: z") < text.index("a: x") and "a: y" not in text
    assert "Not in the saved table: b: new." in text and "measured no more: a: old." in text


def test_noise_does_not_warn():
    spread = ratio("a", "x", 0.9, 5.0, 16.0)  # as small as before at least once
    assert grown([spread], {"a: x": 1.0}) == []
    assert (
        warnings([spread], {"a: x": 1.0})
        == "0 of 1 ratios have grown by more than a quarter since the saved table."
    )


def test_the_committed_table_is_of_cases_there_are():
    for name in run.MODULES:
        import_module(f"benchmarks.{name}")
    baseline = json.loads(Path(run.__file__).with_name("baseline.json").read_text())
    cases = {row.partition(": ")[0] for row in baseline}
    assert cases <= CASES.keys() and set(run.QUICK) <= CASES.keys()
    for name in ("start", "ids_and_scalars_per_step"):  # cheap to ask
        yielded = {f"{name}: {label}" for label, *_ in CASES[name].make()}
        assert {row for row in baseline if row.startswith(f"{name}: ")} <= yielded


def test_the_job_compares_the_selection_with_the_committed_table(tmp_path):
    """The script itself, with a Python that says what it was asked for."""
    asked = tmp_path / "python"
    asked.write_text('#!/bin/sh\necho "$@"\n')
    asked.chmod(0o755)
    job = Path(run.__file__).parents[1] / ".ci" / "benchmarks"
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def said(*arguments):
        return subprocess.run([job, *arguments], env=path, capture_output=True, text=True, check=True).stdout

    compared = "--compare benchmarks/baseline.json"
    assert said() == f"-m benchmarks.run --quick {compared}\n"
    assert said("--all", "--save", "x.json") == f"-m benchmarks.run {compared} --save x.json\n"
