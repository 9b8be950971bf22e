"""How long running the network again would take, estimated from one measured pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyze.engine.plan import Plan
    from tracer.archive import Archive

_SHOWN = 64  # examples of the measured pass


class Stopwatch:
    """Times one forward pass of an archive's network, when first asked.

    elsewhere: has it measured in another process; None where that one cannot.
    """

    def __init__(
        self,
        archive: Archive,
        settings: Mapping[str, Any],
        elsewhere: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._archive, self._settings, self._elsewhere = archive, settings, elsewhere
        self._per_example: float | None = None

    def seconds(self, plan: Plan) -> float:
        """Estimated seconds of a replay metric: its passes, snapshots and examples at the measured rate."""
        if plan.card.passes is None:
            return 0.0
        held = sum(sum(counts) for _, counts in plan.views)
        examples = min(held, plan.options.get("examples") or held)
        passes = plan.card.passes(plan.options) * max(1, len(plan.steps))
        return passes * examples * self.per_example

    @property
    def per_example(self) -> float:
        """Seconds of a forward pass per example; 0 where the network cannot be run, as the metric will say."""
        if self._per_example is None:
            self._per_example = self._elsewhere()
        if self._per_example is None:
            from analyze.replay.replay import replay_of

            try:
                replay = replay_of(self._archive, self._settings)
                state = replay.at(int(replay.steps[-1]))
                examples = state.probe(next(iter(replay.probes))).first(_SHOWN)
                state.outputs(examples)
                start = time.perf_counter()
                state.outputs(examples)
                self._per_example = (time.perf_counter() - start) / examples.n
            except (ValueError, LookupError):
                self._per_example = 0.0
        return self._per_example


def in_words(seconds: float) -> str:
    """A duration as people say it.

    >>> in_words(4), in_words(600), in_words(9000)
    ('4 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
