"""Blocks that run the network of an archive, in a process of its own: a crash there is one failed metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from analyze.arrays import closure
from analyze.engine.blocks import Block, Outcome, Worker
from analyze.engine.distribute import Task, address, in_a_process_of_its_own, packed
from tracer.apart import shared

_NETWORK = frozenset({"states", "network", "networks"})


class Apart:
    """Computes blocks here, or in another process where they run what the archive says.

    wanted: whether to at all. A network that the caller gives (`model=`) is run here, and so is what cannot
    travel, such as a metric of a notebook.
    """

    def __init__(self, here: Worker, memory: int, *, wanted: bool) -> None:
        self._here, self._memory = here, memory
        self.wanted = wanted and here.replay.get("model") is None

    def start(self, blocks: Iterable[Block]) -> None:
        """Have the other process ready by the time that one of these needs it."""
        if any(map(self._runs_network, blocks)):
            shared().start("analyze.engine.distribute", "analyze.replay.replay")

    def compute(self, block: Block, session: str) -> dict[str, Outcome]:
        """Outcomes by metric, as `Worker.compute`."""
        task = self.task(block, session)
        content = None if task.apart is None else packed(replace(task, apart=None))
        if content is None:
            return self._here.compute(block)
        return in_a_process_of_its_own(content, block.names, self._memory)

    def task(self, block: Block, session: str) -> Task:
        """A block as another process needs it."""
        sources = tuple(plan.card.source for plan in block.plans)
        where, run = address(str(self._here.archive.path)), str(self._here.archive.run_id)
        memory = self._memory if self._runs_network(block) else None
        return Task(session, where, run, self._here.replay, block.trimmed(), sources, memory)

    def _runs_network(self, block: Block) -> bool:
        if not self.wanted:
            return False
        reads = [entry for plan in block.plans for entry in closure(plan.arrays)]
        return any(plan.replays for plan in block.plans) or any(entry.name in _NETWORK for entry in reads)
