"""`budget=`: scheduled snapshots are left out where they would take more than a share of the time."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tracer.errors import RecordError
from tracer.recorder.device import Mark


class Budget:
    """Decides which scheduled snapshots are taken; the first and the last always are, and come on top.

    share: of the time that training itself takes; None takes everything. gaps: what was left out, as
    {"streams": [...], "steps": [...]}.
    """

    def __init__(self, share: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        if share is not None and (isinstance(share, bool) or not 0 < share <= 1):
            raise RecordError(
                f"budget={share!r}, expected the share of the training time that snapshots "
                "may take, such as 0.05."
            )
        self.share = share
        self._clock = clock
        self._costs: dict[frozenset[str], float] = {}
        self._started = clock()
        self._taken = self._spent = 0.0
        self._gaps: dict[frozenset[str], list[int]] = {}
        self._mark: Callable[[], Mark] | None = None
        self._pending: deque[tuple[frozenset[str], bool, float, Mark, Mark]] = deque()

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """Steps at which scheduled streams were left out, by set of streams."""
        return [
            {"streams": sorted(streams), "steps": steps} for streams, steps in self._gaps.items() if steps
        ]

    def start(self, mark: Callable[[], Mark] | None = None) -> None:
        """Training starts now; `mark` where it runs on a device that works asynchronously."""
        self._started, self._taken = self._clock(), 0.0
        self._mark = None if self.share is None else mark

    def allows(self, step: int, streams: Collection[str]) -> bool:
        """Whether a scheduled snapshot may be taken; if not, the gap is noted."""
        if self.share is None:
            return True
        self._settle()
        training = self._clock() - self._started - self._taken
        if self._spent + self.expected(streams) <= self.share * training:
            return True
        steps = self._gaps.setdefault(frozenset(streams), [])
        if not steps or steps[-1] != step:
            steps.append(step)
        return False

    def taken(self, step: int, streams: Collection[str]) -> None:
        """A snapshot is taken: what was left out at this step is so no more."""
        for chosen, steps in self._gaps.items():
            if chosen.issubset(streams) and step in steps[-1:]:
                steps.pop()

    def expected(self, streams: Collection[str]) -> float:
        """Seconds that a snapshot of these streams will take, by the last one like it, or of more streams."""
        chosen = frozenset(streams)
        known = [cost for measured, cost in self._costs.items() if chosen <= measured]
        return self._costs.get(chosen, min(known, default=0.0))

    @contextmanager
    def measured(self, streams: Collection[str], always: bool = False) -> Iterator[None]:
        """Measure what a snapshot of these streams takes; `always`: it is not charged to the budget."""
        start = self._clock()
        begun = None if self._mark is None else self._mark()
        yield
        took, chosen = self._clock() - start, frozenset(streams)
        self._charge(chosen, took, 0.0, always)
        if begun is not None and self._mark is not None:
            self._pending.append((chosen, always, took, begun, self._mark()))

    def _charge(self, streams: frozenset[str], seconds: float, before: float, always: bool) -> None:
        """Charge the seconds of a snapshot, of which some were charged before."""
        self._costs[streams] = seconds
        self._taken += seconds - before
        self._spent += 0.0 if always else seconds - before

    def _settle(self) -> None:
        """Charge what a device went on working after the clock was stopped, as far as it is known by now."""
        while self._pending and self._pending[0][-1].query():
            streams, always, took, begun, ended = self._pending.popleft()
            self._charge(streams, max(took, begun.elapsed_time(ended) / 1000), took, always)
