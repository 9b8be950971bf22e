"""What running the network again costs, counted in passes and operations: the same on any machine, busy or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analyze.arrays import closure
from analyze.engine.sketched import sketch_of
from tracer.errors import ArchiveError, ArgumentError, first_of

if TYPE_CHECKING:
    from analyze.engine.plan import Plan
    from tracer.archive import Archive

# What is declared of a machine, for costs to be told in seconds: operations on numbers that its two cores do in a
# second, numbers read and written, numbers looked at in windows of a pool, rows of a table, and rows whose sizes are
# checked before they first run. Which metrics are computed must not depend on how busy the machine is.
RATE, MOVED, POOLED, ROWS, CHECKED = 1.25e11, 1.5e9, 2e8, 2e4, 400.0
SIZES = 3  # different numbers of examples, or precisions, in which a probe goes through
EXAMPLES = 256  # whose operations are counted; so many go through the rows at a time
PASSES = 300  # forward and backward of these examples, which running the network again may take unasked
LEAST, MOST = 1.0, 60.0  # and what that is in seconds: small networks get more, and nobody waits long unasked
# Declared seconds for each number, or byte of bits, of the largest array that a metric reads.
STORED, BITS = 1.5e-8, 2.5e-9
SOON = 5.0  # which a metric of what is stored may take before the first report is written
FEW = 5  # snapshots at which the network is run again unless more are asked for


class Work(NamedTuple):
    """What a forward pass takes: declared seconds for each example, rows, outputs, rows that are not alike."""

    example: float = 0.0
    rows: int = 0
    outputs: int = 0
    unlike: int = 0

    def seconds(self, n: int) -> float:
        """A pass of n examples, so many at a time as go through together."""
        return n * self.example + -(-n // EXAMPLES) * self.rows / ROWS


class Prices:
    """Costs of plans of one archive, from what a forward pass of its network takes, which is asked for once."""

    def __init__(self, work: Callable[[], Work]) -> None:
        self._work = work

    def seconds(self, plan: Plan, *, alone: bool = True) -> float:
        """Declared seconds of a plan: its passes at its snapshots, of its examples; 0 for one without passes.

        alone: with what the first to run the network again pays for all, `first`.
        """
        if not plan.replays or not plan.steps:
            return 0.0
        n = len(plan.steps)
        # Activations are looked at once, and those of one more snapshot, with which they are compared.
        passes = n + 1.0 if plan.card.passes is None else plan.card.passes(plan.options, n)
        if plan.card.per_output:
            passes *= min(self._network.outputs, plan.options.get("projections") or self._network.outputs)
        return passes * sum(map(self._network.seconds, _counts(plan))) + alone * self.first(plan)

    def first(self, plan: Plan) -> float:
        """Declared seconds before its passes: sizes are checked, and each snapshot is run once to see that it is so."""
        if not plan.replays or not plan.steps:
            return 0.0
        counts = _counts(plan)
        seen = len(plan.steps) * max(map(self._network.seconds, counts), default=0.0)
        return seen + len(counts) * SIZES * self._network.unlike / CHECKED

    def together(self, plans: Sequence[Plan]) -> float:
        """Declared seconds of plans that are computed one after the other."""
        return sum(self.seconds(plan, alone=False) for plan in plans) + max(
            map(self.first, plans), default=0.0
        )

    def patience(self, stored: float = 0.0) -> float:
        """Declared seconds that all metrics together take unless told: `PASSES`, within `LEAST` and `MOST`.

        stored: those of the metrics that read what is stored; half of them may be added without asking, too.
        """
        one = 3 * self._network.seconds(EXAMPLES)  # a backward pass takes two forward
        return min(max(PASSES * one, stored / 2, LEAST), MOST)

    @cached_property
    def _network(self) -> Work:
        return self._work()


def work_of(archive: Archive, settings: Mapping[str, Any]) -> Work:
    """A forward pass of an archive's network, from the operations its table takes; nothing where it cannot be run."""
    try:
        from analyze.replay.replay import replay_of
        from tracer.network.cost import effort
        from tracer.rerun.stored import tensors_of

        replay = replay_of(archive, settings)
        step = int(replay.steps[-1])
        network = replay.network(step)
        examples = replay.probe(next(iter(replay.probes))).first(network.batch or EXAMPLES)
        tensors = tensors_of(archive, step, replay.device)
        work = effort(network, tensors, examples.inputs, examples.targets)
        output = network.rows[network.output[1]].size(2) or (2,)
        seconds = work.arithmetic / RATE + work.moved / MOVED + work.pooled / POOLED
        return Work(seconds / examples.n, len(network.rows), prod(output[1:]), work.calls)
    except (ValueError, LookupError, StopIteration, ModuleNotFoundError):
        return Work()


def of_stored(plans: Iterable[Plan], archive: Archive) -> float:
    """Declared seconds of plans that read what is stored; from sketches each is computed once more a block of these."""
    return sum(
        plan.card.work * max(1, len(plan.steps)) * _reading(plan, archive) * (1 + _blocks(plan, archive))
        for plan in plans
        if not plan.replays
    )


def _reading(plan: Plan, archive: Archive) -> float:
    """Declared seconds for the largest array of a snapshot that a metric reads, in all its views."""
    read = [[dim for dim in each.dims if dim != "step"] for each in closure(plan.arrays) if not each.static]
    try:
        views = [plan.view(archive, examples) for examples in plan.views]
        return sum(
            max((view.entries(dims) * (BITS if _packed(dims) else STORED) for dims in read), default=0.0)
            for view in views
        )
    except ArchiveError:
        return 0.0  # damaged: the metric that reads it says so


def _packed(dims: Sequence[str]) -> bool:
    return bool(dims) and dims[-1].endswith("byte")


def _blocks(plan: Plan, archive: Archive) -> int:
    return int(sketch_of(archive)["blocks"]) if plan.sketched else 0


def _counts(plan: Plan) -> list[int]:
    """Examples of each probe."""
    limit = plan.options.get("examples")
    return [min(sum(counts), limit or sum(counts)) for _, counts in plan.views]


def as_asked(
    snapshots: str | Collection[int], patience: float | None, archive: Archive
) -> tuple[str | tuple[int, ...], float | None]:
    """Where to run the network again and how long, as a caller asked for it.

    Errors: ArgumentError for snapshots other than `few`, `all` and steps of snapshots of the archive, and for a time
    below 0 or none.
    """
    if patience is not None and not patience >= 0:
        raise ArgumentError(f"patience is a number of seconds, 0 or more, got {patience!r}")
    if isinstance(snapshots, str) and snapshots in ("few", "all"):
        return snapshots, patience
    there = archive.snapshots.tolist()
    steps = () if isinstance(snapshots, str) else tuple(snapshots)
    lacking = [step for step in steps if step not in set(there)]
    if lacking or not steps:
        raise ArgumentError(
            f"snapshots got {_some(lacking) if lacking else repr(snapshots)}, expected few, all, or steps of "
            f"snapshots, of which {archive.path} has {len(there)}: {_some(there)}"
        )
    return steps, patience


def elsewhere(steps: Sequence[int], asked: Collection[Any]) -> str:
    """Why a metric is not computed that has none of the snapshots that were asked for."""
    return (
        f"was asked for at {_some(asked)}, and what it reads is recorded at {_some(steps)}; give one of these"
    )


def _some(steps: Collection[Any]) -> str:
    return first_of([str(step) for step in steps])


def few(timeline: Sequence[int], most: int = FEW) -> tuple[int, ...]:
    """The first, the last, and at most three steps between, evenly in the logarithm of the step.

    >>> few([0, 1, 2, 4, 8, 16, 32, 48])
    (0, 2, 8, 16, 48)
    """
    if len(timeline) <= most:
        return tuple(timeline)
    steps = np.asarray(timeline, np.float64)
    places = np.log1p(steps - steps[0])
    wanted = np.linspace(0.0, places[-1], most)
    left = list(range(len(timeline)))
    chosen = []
    for place in (wanted[0], wanted[-1], *wanted[1:-1]):
        chosen.append(min(left, key=lambda k: abs(places[k] - place)))
        left.remove(chosen[-1])
    return tuple(timeline[k] for k in sorted(chosen))


def within(
    plans: Iterable[Plan], prices: Prices, budget: float, *, fewer: bool = False
) -> tuple[list[Plan], list[tuple[Plan, float]]]:
    """Plans in order of cost as far as a budget of declared seconds reaches, and the others with their costs.

    fewer: what does not fit is tried at fewer snapshots, down to the first and the last.
    """
    plans = list(plans)
    budget -= max(map(prices.first, plans), default=0.0)  # paid once, whichever comes first
    costs = sorted(
        ((prices.seconds(plan, alone=False), plan.card.name, plan) for plan in plans),
        key=lambda cost: cost[:2],
    )
    chosen, over, left = [], [], budget * (1 + 1e-9)  # what was added up to fit does
    for seconds, _, plan in costs:
        ways = [plan]
        if fewer and not plan.whole:
            ways += [replace(plan, steps=few(plan.steps, n)) for n in range(len(plan.steps) - 1, 1, -1)]
        fitting = next((way for way in ways if prices.seconds(way, alone=False) <= left), None)
        if fitting is None:
            over.append((plan, seconds))
        else:
            chosen.append(fitting)
            left -= prices.seconds(fitting, alone=False)
    return chosen, over


def in_order(plans: Iterable[Plan], prices: Prices, archive: Archive) -> tuple[list[Plan], float]:
    """Plans by their declared seconds, and those of all together."""

    def cost(plan: Plan) -> tuple[float, str]:
        return prices.seconds(plan, alone=False) + of_stored([plan], archive), plan.card.name

    ordered = sorted(plans, key=cost)
    return ordered, prices.together(ordered) + of_stored(ordered, archive)


def in_words(seconds: float) -> str:
    """A duration as people say it.

    >>> in_words(0.43), in_words(4), in_words(600), in_words(9000)
    ('0.4 s', '4 s', '10 min', '2.5 h')
    """
    if seconds < 0.95:
        return f"{max(seconds, 0.1):.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
