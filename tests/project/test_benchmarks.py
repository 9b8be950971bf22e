"""What the benchmarks measure with: their own parts, at sizes that take no time."""

import json
import os
import subprocess
from importlib import import_module
from pathlib import Path

from benchmarks import run
from benchmarks.harness import CASES, Ratio, instructions
from benchmarks.regression import grown, not_compared, warnings


def ratio(case, label, *ratios):
    return Ratio(case, label, "it", 1.0, ratios)


def test_the_instructions_that_int8_products_run_on_are_named():
    flags = "processor : 0\nflags\t\t: fpu avx2 avx512bw {}\n"
    names = [instructions(flags.format(last)) for last in ("avx512_vnni amx_int8", "avx512_vnni", "")]
    assert names == ["amx_int8", "avx512_vnni", "avx512bw"]
    import_module("benchmarks.analysis")
    assert (
        instructions("") == "unknown instructions"
        and f"({instructions()})" in CASES["overlap_of_masks"].against
    )


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
