"""Blocks that run the network of an archive, in a process of its own: a crash there is one failed metric."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from analyze.arrays import closure
from analyze.engine.blocks import Block, Outcome, blocks_of
from analyze.engine.cost import Work, work_of
from analyze.engine.distribute import (
    OfArchive,
    Task,
    address,
    in_a_process_of_its_own,
    packed,
    perform,
    sources,
    worker_of,
)
from analyze.engine.plan import Plan
from tracer.apart import WorkerDiedError, shared
from tracer.archive import Archive

_NETWORK = frozenset({"states", "network", "networks"})
Answer = Future[dict[str, Outcome]]


@dataclass(frozen=True)
class Count(OfArchive):
    """Counts what a forward pass of an archive's network takes, in the process that runs it."""

    def __call__(self) -> list[float]:
        """Numbers of `Work`."""
        return list(work_of(worker_of(self).archive, self.replay))


class Apart:
    """Has blocks that run what the archive says done in another process, while this one does the others.

    wanted: whether to at all. A network that the caller gives (`model=`) is run here, and so is what cannot
    travel, such as a metric of a notebook. Left as a context, it ends the process if that is in the middle of a block.
    """

    def __init__(self, archive: Archive, settings: dict[str, Any], memory: int, *, wanted: bool) -> None:
        self._archive, self._settings, self._memory = archive, settings, memory
        self.wanted = wanted and settings.get("model") is None
        self._session = uuid.uuid4().hex
        self._asking: ThreadPoolExecutor | None = None  # one thread, which waits for answers
        self._last: Answer | None = None
        self._at_once = False

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking is not None:
            while self._last is not None and not (self._last.cancel() or self._last.done()):
                shared().close()
                wait([self._last], timeout=0.1)  # it may not have begun to ask
            self._asking.shutdown()
            self._asking = None

    def work(self) -> Work:
        """What a forward pass takes, counted where the network is run; nothing where that process is lost."""
        content = packed(Count(*self._of_archive())) if self.wanted else None
        if content is None:
            return work_of(self._archive, self._settings)
        try:
            return Work(*shared().call(perform, content, sources(), memory=self._memory))
        except (WorkerDiedError, TypeError):
            return Work()

    def blocks(
        self,
        plans: Sequence[Plan],
        failed: MutableMapping[str, Outcome],
        pieces: int,
        share: int | None = None,
    ) -> list[Block]:
        """Plans cut into blocks, so that those computed at a time fit into the memory.

        share: how many other processes compute; None: this one, beside that for networks if half of it is enough.
        """
        self._at_once = share is None and len({self._runs_network([plan]) for plan in plans}) == 2
        if self._at_once:
            tight: dict[str, Outcome] = {}
            blocks = list(blocks_of(plans, self._archive, self._memory // 2, tight, pieces))
            if not tight and not any(block.banded or block.groups_of_sites > 1 for block in blocks):
                return blocks
            self._at_once = False
        return list(blocks_of(plans, self._archive, self._memory // (share or 1), failed, pieces))

    def jobs(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Answer | None]]:
        """Blocks, and what is under way of them: those of this process first, with the first of the others begun."""
        here, there = list[Block](), deque[Block]()
        for block in blocks:
            (there if self._runs_network(block.plans) else here).append(block)
        if there:
            shared().start("analyze.engine.distribute", "analyze.replay.replay")
        begun = self._begin(there) if self._at_once else None
        yield from ((block, None) for block in here)
        begun = begun or self._begin(there)
        while begun is not None:
            job, begun = begun, self._begin(there)
            yield job

    def task(self, block: Block) -> Task:
        """A block as another process needs it."""
        made = tuple(plan.card.source for plan in block.plans)
        memory = self._memory if self._runs_network(block.plans) else None
        return Task(*self._of_archive(), block.trimmed(), made, memory)

    def _of_archive(self) -> tuple[str, str, str, dict[str, Any]]:
        where, run = address(str(self._archive.path)), str(self._archive.run_id)
        return self._session, where, run, self._settings

    def _begin(self, blocks: deque[Block]) -> tuple[Block, Answer | None] | None:
        if not blocks:
            return None
        if self._asking is None:
            self._asking = ThreadPoolExecutor(1, "tracer-apart")
        block = blocks.popleft()
        content = packed(replace(self.task(block), apart=None))
        if content is None:
            return block, None
        self._last = self._asking.submit(in_a_process_of_its_own, content, block.names, self._memory)
        return block, self._last

    def _runs_network(self, plans: Iterable[Plan]) -> bool:
        if not self.wanted:
            return False
        return any(
            plan.replays or any(entry.name in _NETWORK for entry in closure(plan.arrays)) for plan in plans
        )
