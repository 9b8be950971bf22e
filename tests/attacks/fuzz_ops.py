"""Every operation on the list with hostile operands, in child processes that may die.

    python -m tests.attacks.fuzz_ops --cases 100000 --seed 1

A case is made from a sound call by a few changes, so that kernels are reached; it is known by its seed and
number alone, so one that killed its process is made again and shown. Each goes the way of a row of a foreign
table: weighed, its operands checked, run; then its result is read and differentiated.
"""

import argparse
import json
import mmap
import os
import resource
import signal
import struct
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.attacks.operands import Case, case, describe, sound
from tracer.errors import ArchiveError
from tracer.network import cost, program, read
from tracer.network.table import encode
from tracer.ops import op

SECONDS = 20  # of one case, on the processor
MEMORY = 3 << 30  # bytes of a child
LIMITS = 1 << 27, 10**8  # bytes and work of one case
TABLE: dict[str, Any] = {
    **{part: [] for part in ("targets", "sites", "calls", "layers", "buffers", "constants")},
    **{"version": 1, "output": ["row", 0], "losses": None, "batch": None},
    "inputs": [{"shape": [], "dtype": "float32", "batched": False}],
}
EXPECTED = (
    *(RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, OverflowError, ZeroDivisionError),
    *(AssertionError, MemoryError),
)


def attempt(one: Case) -> str:
    """Run a case as the only row of a foreign table: `refused` before it ran, `error` from its kernel, or `done`."""
    tensors: dict[str, Tensor] = {}
    try:
        row = {"name": "r0", "op": one.op, "args": _encoded(one.args, tensors)}
        row["kwargs"] = {name: _encoded(value, tensors) for name, value in one.kwargs.items()}
        if op(one.op).by_value:  # what it says is taken, and has to turn out true
            row["shape"] = one.rng.choice([[5, 6], [5, 6, 5], [15], [300]])
        network = read(json.dumps(TABLE | {"rows": [row], "parameters": list(tensors)}).encode(), {})
    except (ArchiveError, TypeError):
        return "unread"
    given = {"x": torch.zeros(())} | tensors
    roll = one.rng.random() if one.changes else 1.0
    floats = [leaf for leaf in tensors.values() if leaf.dtype in (torch.float32, torch.float64)]
    for leaf in floats if roll < 0.6 else ():
        leaf.requires_grad_(True)
    try:
        out, _ = network.run(given, given["x"], until="r0")  # which need not be what a network gives
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for leaf in results:
            leaf.detach().clone().sum()
        if roll < 0.6 and floats:
            _differentiate(results, floats, twice=roll < 0.15)
    except ArchiveError:
        return "refused"
    except EXPECTED:
        return "error"
    return "done"


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach()
        return {"tensor": name}
    return [_encoded(item, tensors) for item in value] if isinstance(value, list) else encode(value)


def _differentiate(results: list[Tensor], floats: list[Tensor], twice: bool) -> None:
    smooth = [leaf for leaf in results if leaf.requires_grad and leaf.dtype.is_floating_point]
    if not smooth:
        return
    total = sum(leaf.double().mul(0.7).sum() for leaf in smooth)
    slopes = torch.autograd.grad(total, floats, create_graph=twice, allow_unused=True)
    if twice:
        more = [
            slope.double().square().sum() for slope in slopes if slope is not None and slope.requires_grad
        ]
        if more:
            torch.autograd.grad(sum(more), floats, allow_unused=True)


@dataclass
class Outcome:
    """What became of the cases: deaths as (number, signal, description), and how often each came how far."""

    deaths: list[tuple[int, int, str]] = field(default_factory=list)
    fates: dict[str, Counter[str]] = field(default_factory=dict)


def fuzz(
    seed: int, cases: range, *, checks: bool = True, only: list[str] | None = None, show: bool = False
) -> Outcome:
    """Run cases in forked children, going on behind one that killed its child."""
    torch.set_num_threads(1)
    sound()
    shared, outcome = mmap.mmap(-1, 8), Outcome()
    start, done = cases.start, 0
    while start < cases.stop:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(seed, range(start, cases.stop), checks, only, shared, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            for line in pipe:
                done += 1
                if show and done % 1000 == 0:
                    print(f"{done} cases", file=sys.stderr, flush=True)
                if not line.endswith("\n"):
                    break
                op, fate = line.split()
                outcome.fates.setdefault(op, Counter())[fate] += 1
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        number = struct.unpack("q", shared[:8])[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = describe(case(seed, number, only))
        code = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        outcome.deaths.append((number, code, text))
        if show:
            print(number, signal.Signals(code).name if code > 0 else code, text, flush=True)
        start = number + 1
    return outcome


def _child(
    seed: int, cases: range, checks: bool, only: list[str] | None, shared: mmap.mmap, write: int
) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        cost.MEMORY, cost.WORK = LIMITS
        cost.MEMORY_RATIO = cost.WORK_RATIO = 0
        if not checks:
            program.checked = lambda row, op, call, *rest: call
        with os.fdopen(write, "w", buffering=1) as pipe:
            for number in cases:
                shared[:8] = struct.pack("q", number)
                signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
                one = case(seed, number, only)
                fate = attempt(one)
                pipe.write(f"{one.op} {fate}{'' if one.changes else '-sound'}\n")
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--off", action="store_true", help="without the checks of operands")
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    cases = range(options.start, options.start + options.cases)
    outcome = fuzz(options.seed, cases, checks=not options.off, only=options.only, show=True)
    print("\n" + json.dumps({"deaths": outcome.deaths, "fates": outcome.fates}), file=sys.stdout)


if __name__ == "__main__":
    main()
