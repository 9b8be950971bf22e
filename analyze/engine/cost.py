"""What running the network again costs, counted in passes and operations: the same on any machine, busy or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from analyze.engine.plan import Plan
    from tracer.archive import Archive

# What is declared of a machine, for costs to be told in seconds: operations on numbers, and rows of a table, that its
# two cores do in a second. Which metrics are computed must not depend on how busy the machine is.
RATE, ROWS = 1.25e11, 2e4
EXAMPLES = 256  # whose operations are counted; so many go through the rows at a time
PASSES = 300  # forward and backward of these examples, which running the network again may take unasked
LEAST, MOST = 1.0, 60.0  # and what that is in seconds: small networks get more, and nobody waits long unasked
FEW = 5  # snapshots at which the network is run again unless more are asked for


class Prices:
    """Costs of plans of one archive, from the operations that its network's table takes."""

    def __init__(self, archive: Archive, settings: Mapping[str, Any]) -> None:
        self._archive, self._settings = archive, settings

    def seconds(self, plan: Plan) -> float:
        """Declared seconds of a plan: its passes at its snapshots, of its examples; 0 for one without passes."""
        if not plan.replays or not plan.steps:
            return 0.0
        n = len(plan.steps)
        # Activations are looked at once, and those of one more snapshot, with which they are compared.
        passes = n + 1.0 if plan.card.passes is None else plan.card.passes(plan.options, n)
        limit = plan.options.get("examples")
        counts = [min(sum(counts), limit or sum(counts)) for _, counts in plan.views]
        work, rows, outputs = self._network
        if plan.card.per_output:
            passes *= min(outputs, plan.options.get("projections") or outputs)
        return passes * sum(n * work / RATE + -(-n // EXAMPLES) * rows / ROWS for n in counts)

    @property
    def patience(self) -> float:
        """Declared seconds that all metrics together take unless told: `PASSES`, within `LEAST` and `MOST`."""
        work, rows, _ = self._network
        one = 3 * (EXAMPLES * work / RATE + rows / ROWS)  # a backward pass takes two forward
        return min(max(PASSES * one, LEAST), MOST)

    @cached_property
    def _network(self) -> tuple[float, int, int]:
        """Operations of a forward pass per example, rows, outputs; 0 where it cannot be run."""
        try:
            from analyze.replay.replay import replay_of
            from tracer.network.cost import operations
            from tracer.rerun.stored import tensors_of

            replay = replay_of(self._archive, self._settings)
            step = int(replay.steps[-1])
            network = replay.network(step)
            examples = replay.probe(next(iter(replay.probes))).first(network.batch or EXAMPLES)
            tensors = tensors_of(self._archive, step, replay.device)
            work = operations(network, tensors, examples.inputs, examples.targets)
            output = network.rows[network.output[1]].size(2) or (2,)
            return work / examples.n, len(network.rows), prod(output[1:])
        except (ValueError, LookupError, StopIteration, ModuleNotFoundError):
            return 0.0, 0, 0


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
    costs = sorted(
        ((prices.seconds(plan), plan.card.name, plan) for plan in plans), key=lambda cost: cost[:2]
    )
    chosen, over, left = [], [], budget * (1 + 1e-9)  # what was added up to fit does
    for seconds, _, plan in costs:
        ways = [plan]
        if fewer and not plan.whole:
            ways += [replace(plan, steps=few(plan.steps, n)) for n in range(len(plan.steps) - 1, 1, -1)]
        fitting = next((way for way in ways if prices.seconds(way) <= left), None)
        if fitting is None:
            over.append((plan, seconds))
        else:
            chosen.append(fitting)
            left -= prices.seconds(fitting)
    return chosen, over


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
