"""Ratios, interleaved: ours, theirs, ours, theirs ..., so that a drifting machine moves both."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Work = Callable[[], Any]
CASES: dict[str, "Case"] = {}
INT8 = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "asimddp", "asimd")  # the fastest first


@dataclass
class Case:
    """One comparison: `make` yields (label, ours, theirs, goal) rows and cleans up when closed."""

    name: str
    against: str
    make: Callable[[], Iterator[tuple[str, Work, Work, float]]] = field(repr=False)
    repeats: int = 7
    clock: str = "cpu"


@dataclass(frozen=True)
class Ratio:
    """What was measured: ours / theirs, pair by pair."""

    case: str
    label: str
    against: str
    goal: float
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        return self.median <= self.goal


def case(against: str, *, repeats: int = 7, clock: str = "cpu") -> Callable[[Any], Any]:
    """Register a generator of rows as a case named after the function."""

    def register(make: Any) -> Any:
        CASES[make.__name__] = Case(make.__name__, against, make, repeats, clock)
        return make

    return register


def instructions(about: str | None = None) -> str:
    """What int8 products run on here, of which the same ratio depends: several times faster with each of them.

    about: the system's text about its processor, by default /proc/cpuinfo.

    >>> instructions("flags : fpu avx2 avx512_vnni")
    'avx512_vnni'
    """
    file = Path("/proc/cpuinfo")
    text = about if about is not None else file.read_text() if file.is_file() else ""
    known = set(text.split())
    return next((name for name in INT8 if name in known), "unknown instructions")


def measure(chosen: Case) -> Iterator[Ratio]:
    """Run a case: one warm-up of each side, then interleaved pairs."""
    clock = time.process_time if chosen.clock == "cpu" else time.perf_counter
    for label, ours, theirs, goal in chosen.make():
        ours(), theirs()
        ratios = []
        for _ in range(chosen.repeats):
            ratios.append(timed(ours, clock) / max(timed(theirs, clock), 1e-9))
        yield Ratio(chosen.name, label, chosen.against, goal, tuple(ratios))


def timed(work: Work, clock: Callable[[], float]) -> float:
    """Seconds that `work` took; work that prepares something first returns its own measurement instead."""
    gc.collect()  # before each side: it empties the caches, at the cost of whoever comes next
    start = clock()
    own = work()
    return own if isinstance(own, float) else clock() - start


def table(results: list[Ratio]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| what | compared with | median | min | max | goal | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.case.replace('_', ' ')}: {r.label} | {r.against} | {r.median:.3g} | {min(r.ratios):.3g} | "
            f"{max(r.ratios):.3g} | {r.goal:g} | {'yes' if r.met else 'no'} |"
        )
    return "\n".join(lines)
