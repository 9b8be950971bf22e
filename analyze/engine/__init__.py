"""Run metrics over an archive: plan, stream blocks of snapshots under a memory limit, resume, share."""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.contract import Metric, available_metrics, card_of
from analyze.engine.apart import Apart
from analyze.engine.assemble import added, assemble
from analyze.engine.blocks import Block, Outcome, Worker, blocks_of
from analyze.engine.cost import Stopwatch, in_words
from analyze.engine.distribute import DIED, Job, Routine, Task, Workers, address, complete, recruit
from analyze.engine.fingerprint import fingerprint
from analyze.engine.plan import Plan, make_plan
from analyze.engine.replayed import with_activations
from analyze.errors import AnalysisError
from analyze.report.save import ResultStore
from analyze.results import Results
from tracer.errors import ArchiveError, MissingTraceError
from tracer.store.files import claimed

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from tracer.archive import Archive

Progress = Callable[[int, int, str], None]
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def run(
    archive: str | Path | Archive,
    metrics: Iterable[str | Metric | Callable[..., Any]] | None = None,
    *,
    memory: int | str = "2GB",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    jobs: int = 1,
    scheduler: str | Client | None = None,
    progress: Progress | None = None,
    output: str | Path | None = None,
    replay: Mapping[str, Any] | None = None,
    patience: float = 120.0,
    apart: bool = False,
) -> Results:
    """Compute metrics of an archive; by default every one it supports.

    Memory holds at most one block of snapshots, in total over the `jobs` processes. `scheduler`, the address
    of a Dask cluster or a client of it, has the blocks computed there instead: each task then keeps to
    `memory`, workers have this version of tracer and reach the archive by the same path or URL. `options`
    maps a metric's name to its options. `progress(done, total, text)` is called as blocks finish. With
    `output`, each result is kept in that directory as it is finished, and those already there are not
    computed again unless the archive, the metric, its options or tracer changed. `replay` holds settings for
    running the network again: `device`, `model` (a function that returns the module, or (module, loss), for
    an archive without a usable network), `data` (a function that returns the training set, where no inputs
    are stored), `memory` (bytes of one pass), `examples` (of which activations are computed where none are
    recorded). A metric that runs the network again and would take more than `patience` seconds is computed
    only when named. What is not computed is in `Results.skipped`, with the reason.

    Raises MissingTraceError where a metric asked for by name lacks what it needs, AnalysisError where it
    fails, or where no scheduler or worker can do its part.
    """
    opened = _opened(archive)
    explicit = metrics is not None
    with claimed(output), recruit(jobs, scheduler) as workers:
        session = Session(
            opened,
            metrics,
            workers,
            memory=memory,
            options=options,
            progress=progress,
            output=output,
            replay=replay,
            patience=math.inf if explicit else patience,
            apart=apart,
        )
        complete(session.compute())
    if explicit:
        session.raise_failures()
    return session.results()


def parse_memory(memory: int | str) -> int:
    """Bytes of a size such as `2GB` (powers of 1000) or a number of bytes.

    >>> parse_memory("1.5GB"), parse_memory(1024)
    (1500000000, 1024)
    """
    text = str(memory).strip().upper().replace("IB", "B")
    number = text.rstrip("KMGTB ")
    try:
        value = int(float(number) * UNITS[text[len(number) :].strip()])
    except (KeyError, ValueError):
        value = 0
    if value <= 0:
        raise ValueError(f"memory is a number of bytes or a size such as '2GB', got {memory!r}")
    return value


class Session:
    """One analysis of one archive: what is done, what failed, and how to do the rest."""

    def __init__(
        self,
        archive: Archive,
        metrics: Iterable[str | Metric | Callable[..., Any]] | None,
        workers: Workers,
        *,
        memory: int | str = "2GB",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        progress: Progress | None = None,
        output: str | Path | None = None,
        replay: Mapping[str, Any] | None = None,
        patience: float = math.inf,
        pieces: int | None = None,
        apart: bool = False,
    ) -> None:
        self.wanted, self.options = _wanted(metrics), dict(options or {})
        _check_options(self.options, self.wanted)
        self.replay, self.patience = dict(replay or {}), patience
        self.opened, self.archive = archive, with_activations(archive, self.replay)
        self.workers, self.memory = workers, parse_memory(memory) // workers.share
        self.pieces = 2 * workers.n if pieces is None else pieces
        self._here = Worker(self.archive, self.replay)
        self.apart = Apart(self._here, self.memory, wanted=apart)
        self.stopwatch = Stopwatch(self.archive, self.replay, self.apart.per_example)
        self.progress = progress or (lambda done, total, text: None)
        self.store = None if output is None else ResultStore(output, str(archive.run_id))
        self.done: dict[str, xr.Dataset] = {}
        self.failed: dict[str, Outcome] = {}
        self.fingerprints: dict[str, str] = {}
        self._id = uuid.uuid4().hex

    def compute(self) -> Routine[None]:
        """Compute what is wanted, those metrics first whose results others read."""
        for level in _levels(self.wanted):
            yield from self._compute(level)

    def results(self) -> Results:
        """Results of the metrics that were asked for, and why others are missing."""
        kept = {name: self.done[name] for name in self.wanted if name in self.done}
        skipped = {name: self.failed[name].message for name in self.wanted if name in self.failed}
        return Results(kept, skipped, archive=self.opened)

    def _compute(self, cards: Sequence[Metric]) -> Routine[None]:
        """Compute metrics that do not read each other's results."""
        plans = [plan for plan in map(self._plan, cards) if plan is not None and self._affordable(plan)]
        blocks = list(blocks_of(plans, self.archive, self.memory, self.failed, max(1, self.pieces)))
        returned: dict[str, list[Any]] = {plan.card.name: [] for plan in plans}
        left = {name: sum(name in block.names for block in blocks) for name in returned}
        if self.workers.n and blocks:
            self.progress(0, len(blocks), f"tasks for {self.workers.name}")
        for plan in plans:
            if plan.replays:
                expected = in_words(self.stopwatch.seconds(plan))
                self.progress(0, len(blocks), f"{plan.card.name}: about {expected} of passes")
        finished, under_way = 0, deque[tuple[Block, Job | None]]()
        for block in [*blocks, None]:
            if block is not None:
                under_way.append((block, self._begin(block)))
            # In the order of blocks, so that sums and failures are those of one process.
            while under_way and (block is None or len(under_way) > self.workers.ahead):
                first, job = under_way.popleft()
                outcomes = yield from self._outcomes(first, job)
                finished += 1
                self.progress(finished, len(blocks), ", ".join(first.names))
                for plan in first.plans:
                    name = plan.card.name
                    left[name] -= 1
                    self._take(plan, returned[name], outcomes[name])
                    if not left[name] and name not in self.failed:
                        self._finish(plan, returned.pop(name))

    def raise_failures(self) -> None:
        """Raise the first failure among the metrics that were asked for."""
        for name in self.wanted:
            if name in self.failed:
                outcome = self.failed[name]
                kind = MissingTraceError if outcome.missing else AnalysisError
                raise kind(f"{name}: {outcome.message}") from outcome.error

    def _plan(self, card: Metric) -> Plan | None:
        options = self.options.get(card.name, {})
        try:
            self.fingerprints[card.name] = self._fingerprint(card, options)
            kept = self.store.load(card.name, self.fingerprints[card.name]) if self.store else None
            if kept is not None:
                self.done[card.name] = kept
                return None
            return make_plan(card, options, self.archive, self.done)
        except MissingTraceError as error:
            reasons = [self.failed[name].message for name in _other_metrics(card) if name in self.failed]
            message = ": ".join([str(error), *reasons[:1]])
            self.failed[card.name] = Outcome(message=message, missing=True, error=error)
            return None

    def _affordable(self, plan: Plan) -> bool:
        expected = self.stopwatch.seconds(plan) if plan.replays else 0.0
        if expected <= self.patience:
            return True
        self.failed[plan.card.name] = Outcome(
            message=f"would take about {in_words(expected)} of running the network; ask for it by name"
        )
        return False

    def _begin(self, block: Block) -> Job | None:
        if not self.workers.n:
            return None
        where, sources = address(str(self.archive.path)), tuple(plan.card.source for plan in block.plans)
        run = str(self.archive.run_id)
        return self.workers.begin(Task(self._id, where, run, self.replay, block.trimmed(), sources))

    def _outcomes(self, block: Block, job: Job | None) -> Routine[dict[str, Outcome]]:
        if all(name in self.failed for name in block.names):
            return {name: self.failed[name] for name in block.names}
        if job is None:
            return self.apart.compute(block, self._id)
        outcomes = yield from self.workers.finish(job)
        return dict.fromkeys(block.names, Outcome(message=DIED)) if outcomes is None else outcomes

    def _take(self, plan: Plan, returned: list[Any], outcome: Outcome) -> None:
        if outcome.message:
            self.failed.setdefault(plan.card.name, outcome)
        elif not (plan.card.combine and returned):
            returned.append(outcome.returned)
        else:
            try:
                returned[0] = added(plan, returned[0], outcome.returned)
            except AnalysisError as error:
                self.failed.setdefault(plan.card.name, Outcome(message=str(error), error=error))

    def _finish(self, plan: Plan, returned: list[Any]) -> None:
        name = plan.card.name
        try:
            self.done[name] = assemble(plan, returned, self.archive, self.fingerprints[name])
        except AnalysisError as error:
            self.failed[name] = Outcome(message=str(error), error=error)
            return
        if self.store:
            self.store.save(name, self.done[name])

    def _fingerprint(self, card: Metric, options: Mapping[str, Any]) -> str:
        reads = [self.fingerprints.get(name) for name in _other_metrics(card)]
        return fingerprint(card, options, self.archive, self.replay, reads)


def _opened(archive: str | Path | Archive) -> Archive:
    from tracer.archive import Archive, open

    if isinstance(archive, Archive):
        return archive
    if isinstance(archive, (str, Path)):
        return open(archive)
    raise ArchiveError(f"expected an archive or the path of one, got {type(archive).__name__}")


def _wanted(given: Iterable[str | Metric | Callable[..., Any]] | None) -> dict[str, Metric]:
    known = available_metrics()
    if given is None:
        return known
    items = [given] if isinstance(given, (str, Metric)) or callable(given) else list(given)
    return {card.name: card for card in (card_of(item, known) for item in items)}


def _check_options(options: Mapping[str, Mapping[str, Any]], wanted: dict[str, Metric]) -> None:
    known = available_metrics() | wanted
    for name, values in options.items():
        card_of(name, known).with_options(values)


def _levels(wanted: dict[str, Metric]) -> Iterator[list[Metric]]:
    """Metrics in order: those whose inputs are ready first, with those that others read from."""
    known = available_metrics() | wanted
    graph: dict[str, set[str]] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        card = known[name]
        graph[name] = {other for other in _other_metrics(card) if other in known}
        waiting += [other for other in graph[name] if other not in graph]
    order = TopologicalSorter(graph)
    order.prepare()
    while order.is_active():
        ready = sorted(order.get_ready())
        yield [known[name] for name in ready]
        order.done(*ready)


def _other_metrics(card: Metric) -> list[str]:
    """Metrics whose results this one reads, those it cannot do without first."""
    names = [read.partition(".")[0] for read in (*card.reads, *card.optional) if "." in read]
    return list(dict.fromkeys(names))
