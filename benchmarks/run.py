"""Measure everything: `python -m benchmarks.run [CASE ...] [--save FILE] [--compare FILE]`.

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

from benchmarks.harness import CASES, Ratio, measure, table

MODULES = ("startup", "network", "gradients", "peers", "recording", "storage", "reading", "analysis", "norms")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of tracer against peers and limits.")
    parser.add_argument("cases", nargs="*", help="names of cases; all by default")
    parser.add_argument("--save", type=Path, help="write the ratios as JSON")
    parser.add_argument("--compare", type=Path, help="warn where a ratio has grown since this saved run")
    options = parser.parse_args()
    for name in MODULES:
        import_module(f"benchmarks.{name}")
    unknown = set(options.cases) - CASES.keys()
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    results: list[Ratio] = []
    for name in options.cases or CASES:
        for ratio in measure(CASES[name]):
            results.append(ratio)
            print(
                f"{name}: {ratio.label}: {ratio.median:.3g} (goal {ratio.goal:g})",
                file=sys.stderr,
                flush=True,
            )
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, one thread\n")
    print(table(results))
    if options.save:
        options.save.write_text(json.dumps({f"{r.case}: {r.label}": r.median for r in results}, indent=1))
    if options.compare:
        warn(results, json.loads(options.compare.read_text()))


def warn(results: list[Ratio], before: dict[str, float]) -> None:
    """Say which medians grew by more than a quarter."""
    for r in results:
        old = before.get(f"{r.case}: {r.label}")
        if old is not None and r.median > 1.25 * old:
            print(f"slower: {r.case}: {r.label} was {old:.3g}, is {r.median:.3g}", file=sys.stderr)


if __name__ == "__main__":
    main()
