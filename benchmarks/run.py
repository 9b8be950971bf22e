"""Measure everything: `python -m benchmarks.run [CASE ...] [--quick] [--save FILE] [--compare FILE]`.

Prints ratios with median, min and max; `--save` writes them as JSON, `--compare` warns where a median grew
by more than a quarter since a saved run.
"""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # goals are for one core, and two noisy ones measure the neighbours

import argparse
import json
import platform
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.harness import CASES, Ratio, instructions, measure, table
from benchmarks.regression import key, warnings

MODULES = (
    "startup",
    "network",
    "gradients",
    "peers",
    "recording",
    "storage",
    "packing",
    "reading",
    "analysis",
    "first_report",
    "norms",
)


# One or more of each kind of work, under five minutes together.
QUICK = (
    "start",
    "recorded_steps",
    "ids_and_scalars_per_step",
    "stall_per_snapshot",
    "append_and_commit",
    "table_run",
    "streaming_an_archive",
    "overlap_of_masks",
    "path_norms",
    "first_report",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of tracer against peers and limits.")
    parser.add_argument("cases", nargs="*", help="names of cases; all by default")
    parser.add_argument("--quick", action="store_true", help="a selection that takes under five minutes")
    parser.add_argument("--save", type=Path, help="write the ratios as JSON")
    parser.add_argument("--compare", type=Path, help="warn where a ratio has grown since this saved run")
    options = parser.parse_args()
    for name in MODULES:
        import_module(f"benchmarks.{name}")
    unknown = set(options.cases) - CASES.keys()
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    results: list[Ratio] = []
    for name in options.cases or (QUICK if options.quick else CASES):
        for ratio in measure(CASES[name]):
            results.append(ratio)
            print(f"{key(ratio)}: {ratio.median:.3g} (goal {ratio.goal:g})", file=sys.stderr, flush=True)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores ({instructions()}), "
        f"Python {platform.python_version()}, one thread\n"
    )
    print(table(results))
    if options.save:
        options.save.write_text(json.dumps({key(r): r.median for r in results}, indent=1))
    if options.compare:
        print("\n" + warnings(results, json.loads(options.compare.read_text())))


if __name__ == "__main__":
    main()
