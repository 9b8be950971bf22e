"""Run metrics over an archive: plan, stream blocks of snapshots under a memory limit, resume, share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analyze.catalogue import available_metrics, card_of
from analyze.contract import Metric
from analyze.engine.apart import Answer, Apart
from analyze.engine.assemble import of_commit
from analyze.engine.blocks import Block, Outcome, Worker
from analyze.engine.cost import SOON, Prices, as_asked, elsewhere, few, in_order, in_words, of_stored, within
from analyze.engine.distribute import DIED, Job, Routine, Workers, complete, recruit
from analyze.engine.fingerprint import Fingerprints
from analyze.engine.incremental import Way, held
from analyze.engine.plan import Plan, make_plan
from analyze.engine.progress import Progress, announce_long, shown
from analyze.engine.replayed import with_activations
from analyze.errors import AnalysisError
from analyze.results import Results
from analyze.saved.store import ResultStore
from tracer.errors import ArchiveError, MissingTraceError, parse_memory
from tracer.store.files import claimed

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from tracer.archive import Archive

Arrived = Callable[[Results], object]
Finished = Callable[[str, "xr.Dataset"], object]
Snapshots = Literal["few", "all"] | Collection[int]
LONG = 10.0  # declared seconds from which starting processes pays


def run(
    archive: str | Path | Archive,
    metrics: Iterable[str | Metric | Callable[..., Any]] | None = None,
    *,
    memory: int | str = "2GB",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    snapshots: Snapshots = "few",
    jobs: int | Literal["auto"] = 1,
    scheduler: str | Client | None = None,
    progress: Progress | None = None,
    output: str | Path | None = None,
    replay: Mapping[str, Any] | None = None,
    patience: float | None = None,
    arrived: Arrived | None = None,
    finished: Finished | None = None,
    apart: bool = False,
) -> Results:
    """Compute metrics of an archive; by default every one it supports.

    Memory holds at most one block of snapshots, in total over the `jobs` processes (`auto`, as the command
    does: as many as there are cores for long work, else this one; a script that asks for processes starts what it
    does under `if __name__ == "__main__"`). `scheduler`, the address of a Dask cluster or a client of it, has the
    blocks computed there instead: each task then keeps to `memory`, workers have this version of tracer and
    reach the archive by the same path or URL. `options` maps a metric's name to its options.
    `progress(done, total, text)` is called as blocks finish; in a notebook they are shown without it. With
    `output`, results are kept in that directory snapshot by snapshot, as they are finished: what is there is
    computed again only where tracer, the metric, its options or what it read of the archive changed. `replay`
    holds settings for running the network again: `device`, `model` (a function that returns the module, or
    (module, loss), for an archive without a usable network), `data` (a function that returns the training set,
    where no inputs are stored), `memory` (bytes of one pass), `examples` (of which activations are computed
    where none are recorded).

    Metrics of stored arrays come first, those that run the network again after them, cheapest first:
    `arrived(results)` is called when the first are done and again with each of the others, and
    `Results.coming` names those still to come; `finished(name, dataset)` is called with each result at once.
    The network is run again at `snapshots`: `few` (the first, the last, and at most three between, evenly in
    the logarithm of the step), `all`, or steps; snapshots computed earlier stay. All such metrics together
    take `patience` declared seconds (operations counted, no clock; by default those of 300 forward and backward
    passes of 256 examples, 1 and half of what stored arrays take at least, and 60 at most); the dearest are left
    out. A metric that is named is always computed. What is not computed is in `Results.skipped`, with the reason.

    Raises MissingTraceError where a metric asked for by name lacks what it needs, AnalysisError where it
    fails, or where no scheduler or worker can do its part; TypeError for an option that a metric does not have.
    """
    opened = _opened(archive)
    explicit = metrics is not None
    with claimed(output), recruit(jobs, scheduler) as workers, shown(progress) as told:
        session = Session(
            opened,
            metrics,
            workers,
            memory=memory,
            options=options,
            snapshots=snapshots,
            progress=told,
            output=output,
            replay=replay,
            patience=math.inf if explicit else patience,
            arrived=arrived,
            finished=finished,
            apart=apart,
        )
        complete(session.compute())
    if explicit:
        session.raise_failures()
    return session.results()


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
        snapshots: Snapshots = "few",
        progress: Progress | None = None,
        output: str | Path | None = None,
        replay: Mapping[str, Any] | None = None,
        patience: float | None = math.inf,
        pieces: int | None = None,
        arrived: Arrived | None = None,
        finished: Finished | None = None,
        apart: bool = False,
    ) -> None:
        self.wanted, self.options = _wanted(metrics), dict(options or {})
        known = available_metrics()
        self.own = {name: card for name, card in self.wanted.items() if name not in known}
        _check_options(self.options, self.wanted)
        self.replay = dict(replay or {})
        self.snapshots, self.patience = as_asked(snapshots, patience, archive)
        self.opened, self.archive = archive, with_activations(archive, self.replay)
        self.spare, self.workers = workers, Workers() if workers.spare else workers
        self.memory = parse_memory(memory)
        self._pieces = pieces
        self.progress = progress or (lambda done, total, text: None)
        self.arrived, self.finished = arrived or (lambda results: None), finished or (lambda name, data: None)
        self.store = None if output is None else ResultStore(output, str(archive.run_id))
        self.done: dict[str, xr.Dataset] = {}
        self.failed: dict[str, Outcome] = {}
        self.coming: list[str] = []
        self._prints = Fingerprints(self.archive, self.replay)
        self._ways: dict[str, Way] = {}
        self._planned: list[Plan] = []  # as if nothing of them were there
        self._here = Worker(self.archive, self.replay)
        self.apart = Apart(self.archive, self.replay, self.memory, wanted=apart)
        self.prices = Prices(self.apart.work)

    def compute(self) -> Routine[None]:
        """Compute what is wanted: what is quick, of stored arrays; then what is not, and what runs the network again.

        Of these the cheapest first. Metrics come after those whose results they read.
        """
        with self.apart:
            later: list[Plan] = []
            waiting: list[Metric] = []
            for level in _levels(self.wanted):
                plans: list[Plan] = []
                for card in level:
                    held_up = {plan.card.name for plan in later} | {other.name for other in waiting}
                    if held_up & set(_other_metrics(card)):
                        waiting.append(card)
                    elif (plan := self._plan(card)) is not None:
                        (later if plan.replays or plan.long else plans).append(plan)
                yield from self._compute(plans)
            chosen = self._affordable(later)
            self.coming = [plan.card.name for plan in chosen] + [card.name for card in waiting]
            self.arrived(self.results())
            yield from self._compute(chosen)
            for card in waiting:
                plan = self._plan(card)
                yield from self._compute([] if plan is None else self._affordable([plan]))
                self._tell(card.name)

    def results(self) -> Results:
        """Results of the metrics that were asked for, why others are missing, and which are still to come."""
        computed = {name: self.done[name] for name in self.wanted if name in self.done}
        skipped = {name: self.failed[name].message for name in self.wanted if name in self.failed}
        coming = [name for name in self.coming if name in self.wanted]
        return Results(computed, skipped, archive=self.opened, coming=coming, cards=self.own)

    def _compute(self, plans: Sequence[Plan]) -> Routine[None]:
        """Compute metrics that do not read each other's results."""
        announce_long(plans, self.archive, self.prices, self.memory)
        pieces = max(1, 2 * self.workers.n if self._pieces is None else self._pieces)
        share = self.workers.share if self.workers.n else None
        blocks = self.apart.blocks(plans, self.failed, pieces, share)
        left = {plan.card.name: sum(plan.card.name in block.names for block in blocks) for plan in plans}
        if self.workers.n and blocks:
            self.progress(0, len(blocks), f"tasks for {self.workers.name}")
        for name in [name for name, count in left.items() if not count]:
            self._tell(name)
        for finished, (block, job) in enumerate(self._jobs(blocks), 1):
            outcomes = yield from self._outcomes(block, job)
            self.progress(finished, len(blocks), ", ".join(block.names))
            for plan in block.plans:
                name = plan.card.name
                left[name] -= 1
                self._take(plan, block.steps, outcomes[name])
                way = self._ways[name]
                if name not in self.failed and (not left[name] or way.due(self.store)):
                    self._finish(way)
                if not left[name]:
                    way.returned.clear()
                    self._tell(name)

    def raise_failures(self) -> None:
        """Raise the first failure among the metrics that were asked for."""
        for name in self.wanted:
            if name in self.failed:
                outcome = self.failed[name]
                kind = MissingTraceError if outcome.missing else AnalysisError
                raise kind(f"{name}: {outcome.message}") from outcome.error

    def _plan(self, card: Metric) -> Plan | None:
        """What is left to compute of a metric; None where nothing is, or where it cannot be computed."""
        try:
            plan = make_plan(card, self.options.get(card.name, {}), self.archive, self.done)
            wanted = self._prints.of(plan)
        except MissingTraceError as error:
            reasons = [self.failed[name].message for name in _other_metrics(card) if name in self.failed]
            message = ": ".join(dict.fromkeys([str(error), *reasons[:1]]))
            self.failed[card.name] = Outcome(message=message, missing=True, error=error)
            return None
        self._ways[card.name] = way = Way(plan, wanted, held(plan, wanted, self.store))
        whole = replace(plan, steps=self._chosen(plan))
        if plan.steps and not whole.steps and way.held.data is None:
            self.failed[card.name] = Outcome(message=elsewhere(plan.steps, self.snapshots), missing=True)
            return None
        self._planned.append(whole)
        left = self._left(whole)
        if way.held.data is not None and not left.steps:
            self._keep(way)
            return None
        return left

    def _left(self, plan: Plan) -> Plan:
        """What of a plan is not held."""
        way = self._ways[plan.card.name]
        left = replace(plan, steps=way.start(plan.steps))
        left.long = of_stored([left], self.archive) > SOON
        self._prints.know(plan.card.name, way.final)
        return left

    def _chosen(self, plan: Plan) -> tuple[int, ...]:
        """Snapshots to compute: all, but few of those at which the network has to be run again."""
        if not plan.replays or plan.whole or plan.card.combine or self.snapshots == "all":
            return plan.steps
        if self.snapshots == "few":
            return few(plan.timeline)
        return tuple(step for step in plan.timeline if step in set(self.snapshots))

    def _affordable(self, plans: Sequence[Plan]) -> list[Plan]:
        """Plans in order of cost: of those that run the network again what is within the budget, the rest is told.

        What is there already counts as if it were not, so that the same command computes the same metrics again.
        """
        patience = self.patience
        if patience is None:
            patience = self.prices.patience(of_stored(self._planned, self.archive))
        priced = [plan for plan in self._planned if plan.replays]
        order, over = within(priced, self.prices, patience, fewer=self.snapshots == "few")
        left = {plan.card.name: plan for plan in plans}
        for plan, seconds in over:
            if (name := plan.card.name) not in left:
                continue
            left.pop(name)
            if self._ways[name].held.data is not None:
                self._keep(self._ways[name])
                continue
            self.failed[name] = Outcome(
                message=f"would take about {in_words(seconds)} of running the network, more than is left of "
                f"{in_words(patience)} after cheaper metrics; tracer analyze {self.archive.path} -m {name}"
            )
        chosen = [plan for plan in plans if not plan.replays]
        for plan in [self._left(plan) for plan in order if plan.card.name in left]:
            if plan.steps:
                chosen.append(plan)
            else:
                self._keep(self._ways[plan.card.name])
        chosen, cost = in_order(chosen, self.prices, self.archive)
        if self.spare.spare and cost >= LONG and self.replay.get("device") in (None, "cpu"):
            self.workers = self.spare
        return chosen

    def _jobs(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, Job | Answer | None]]:
        """Blocks and what is under way of each, those of a metric in order: sums are those of one process."""
        if not self.workers.n:
            yield from self.apart.jobs(blocks)
            return
        under_way = deque[tuple[Block, Job | None]]()
        for block in blocks:
            under_way.append((block, self.workers.begin(self.apart.task(block))))
            while len(under_way) > self.workers.ahead:
                yield under_way.popleft()
        yield from under_way

    def _outcomes(self, block: Block, job: Job | Answer | None) -> Routine[dict[str, Outcome]]:
        if all(name in self.failed for name in block.names):
            return {name: self.failed[name] for name in block.names}
        if job is None:
            return self._here.compute(block)
        if not isinstance(job, Job):
            return job.result()
        outcomes = yield from self.workers.finish(job)
        return dict.fromkeys(block.names, Outcome(message=DIED)) if outcomes is None else outcomes

    def _take(self, plan: Plan, steps: tuple[int, ...], outcome: Outcome) -> None:
        if outcome.message:
            self.failed.setdefault(plan.card.name, outcome)
            return
        try:
            self._ways[plan.card.name].take(steps, outcome.returned)
        except AnalysisError as error:
            self.failed.setdefault(plan.card.name, Outcome(message=str(error), error=error))

    def _finish(self, way: Way) -> None:
        """Make a result of what is there of it, and keep it."""
        name = way.plan.card.name
        try:
            self.done[name] = way.result(self.archive)
        except AnalysisError as error:
            self.failed[name] = Outcome(message=str(error), error=error)
            return
        if self.store:
            self.store.save(name, self.done[name])

    def _keep(self, way: Way) -> None:
        """Take a stored result, which now holds of this commit too."""
        name, data, now = way.plan.card.name, way.held.data, of_commit(self.archive)
        assert data is not None
        self.done[name] = way.marked(data, now)
        if self.store and data.attrs != self.done[name].attrs:
            self.store.save(name, self.done[name])
        self._tell(name)

    def _tell(self, name: str) -> None:
        if name in self.done and name in self.wanted:
            self.finished(name, self.done[name])
        if name in self.coming:
            self.coming.remove(name)
            self.arrived(self.results())


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
