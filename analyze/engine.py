"""Run metrics over an archive: plan, stream blocks of snapshots under a memory limit, resume, share."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from graphlib import TopologicalSorter
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyze.assemble import assemble
from analyze.blocks import Block, Outcome, Worker, blocks_of
from analyze.cost import Stopwatch, in_words
from analyze.errors import AnalysisError
from analyze.metric import Metric, card_of, metrics
from analyze.output import ResultStore
from analyze.plan import Plan, make_plan
from analyze.recomputed import with_activations
from analyze.results import Results
from tracer import __version__
from tracer.errors import ArchiveError, MissingTraceError

if TYPE_CHECKING:
    import xarray as xr

    from tracer.archive import Archive

Progress = Callable[[int, int, str], None]
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# Sources whose change changes numbers: a result computed by other versions of them is computed again.
SHARED = ("view.py", "sources.py", "derived.py", "numerics.py", "plan.py", "blocks.py", "assemble.py")
REPLAY = (
    "recomputed.py",
    *(f"replay/{x}.py" for x in ("replay", "state", "derivatives", "normalise", "twin")),
)


def run(
    archive: str | Path | Archive,
    metrics: Iterable[str | Metric | Callable[..., Any]] | None = None,
    *,
    memory: int | str = "2GB",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    output: str | Path | None = None,
    replay: Mapping[str, Any] | None = None,
    patience: float = 120.0,
) -> Results:
    """Compute metrics of an archive; by default every one it supports.

    Memory holds at most one block of snapshots, in total over the `jobs` processes. `options` maps a
    metric's name to its options. `progress(done, total, text)` is called as blocks finish. With `output`,
    each result is kept in that directory as it is finished, and those already there are not computed again
    unless the archive, the metric, its options or tracer changed. `replay` holds settings for running the
    network again: `device`, `model` (a function that returns the module, or (module, loss), for an archive
    without a usable network), `data` (a function that returns the training set, where no inputs are
    stored), `memory` (bytes of one pass), `examples` (of which activations are computed where none are
    recorded). A metric that runs the network again and would take more than `patience`
    seconds is computed only when named. What is not computed is in `Results.skipped`, with the reason.

    Raises MissingTraceError where a metric asked for by name lacks what it needs, AnalysisError where it
    fails.
    """
    opened = _opened(archive)
    settings = dict(replay or {})
    wanted = _wanted(metrics)
    chosen = dict(options or {})
    _check_options(chosen, wanted)
    available = with_activations(opened, settings)
    explicit = metrics is not None
    limit = math.inf if explicit else patience
    session = Session(available, chosen, parse_memory(memory), jobs, progress, output, settings, limit)
    for level in _levels(wanted):
        session.compute(level)
    if explicit:
        session.raise_failures(wanted)
    kept = {name: session.done[name] for name in wanted if name in session.done}
    skipped = {name: session.failed[name].message for name in wanted if name in session.failed}
    return Results(kept, skipped, archive=opened)


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
    """One run of the engine: what is done, what failed, and how to do the rest."""

    def __init__(
        self,
        archive: Archive,
        options: Mapping[str, Mapping[str, Any]],
        memory: int,
        jobs: int,
        progress: Progress | None,
        output: str | Path | None,
        replay: dict[str, Any],
        patience: float,
    ) -> None:
        self.archive, self.options, self.memory, self.jobs = archive, options, memory, max(1, jobs)
        self.replay, self.patience = replay, patience
        self.stopwatch = Stopwatch(archive, replay)
        self.progress = progress or (lambda done, total, text: None)
        self.store = None if output is None else ResultStore(output, str(archive.run_id))
        self.done: dict[str, xr.Dataset] = {}
        self.failed: dict[str, Outcome] = {}
        self.fingerprints: dict[str, str] = {}

    def compute(self, cards: Sequence[Metric]) -> None:
        """Compute metrics that do not read each other's results."""
        plans = [plan for plan in map(self._plan, cards) if plan is not None and self._affordable(plan)]
        blocks = list(blocks_of(plans, self.archive, self.memory // self.jobs, self.failed))
        pieces: dict[str, list[tuple[Block, Any]]] = {plan.card.name: [] for plan in plans}
        left = {name: sum(name in block.names for block in blocks) for name in pieces}
        for plan in plans:
            if plan.replays:
                expected = in_words(self.stopwatch.seconds(plan))
                self.progress(0, len(blocks), f"{plan.card.name}: about {expected} of passes")
        for finished, (block, outcomes) in enumerate(self._outcomes(blocks), start=1):
            for name, outcome in outcomes.items():
                pieces[name].append((block, outcome))
                left[name] -= 1
            self.progress(finished, len(blocks), ", ".join(block.names))
            for plan in plans:
                name = plan.card.name
                if name in block.names and not left[name] and name not in self.failed:
                    self._finish(plan, pieces.pop(name))

    def raise_failures(self, names: Iterable[str]) -> None:
        """Raise the first failure among these metrics, all of which were asked for by name."""
        for name in names:
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

    def _outcomes(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, dict[str, Outcome]]]:
        here = Worker(self.archive, self.replay)
        if self.jobs == 1 or len(blocks) < 2:
            yield from ((block, here.compute(block)) for block in blocks)
            return
        away = [block for block in blocks if _can_travel(block, self.replay)]
        # A fresh interpreter: a fork would share the locks of whatever threads the caller has running.
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool:
            path = str(self.archive.path)
            futures = [pool.submit(_compute_away, path, block, self.replay) for block in away]
            yield from ((block, here.compute(block)) for block in blocks if block not in away)
            yield from ((block, future.result()) for block, future in zip(away, futures, strict=True))

    def _finish(self, plan: Plan, pieces: list[tuple[Block, Outcome]]) -> None:
        name = plan.card.name
        for _, outcome in pieces:
            if outcome.message:
                self.failed[name] = outcome
                return
        ordered = [outcome.returned for _, outcome in sorted(pieces, key=lambda piece: piece[0].number)]
        try:
            self.done[name] = assemble(plan, ordered, self.archive, self.fingerprints[name])
        except AnalysisError as error:
            self.failed[name] = Outcome(message=str(error), error=error)
            return
        if self.store:
            self.store.save(name, self.done[name])

    def _fingerprint(self, card: Metric, options: Mapping[str, Any]) -> str:
        """Digest of everything a result depends on."""
        content = {
            "archive": str(self.archive.digest),
            "tracer": __version__,
            "engine": _engine_source(),
            "metric": card.source,
            "options": card.with_options(options),
            "replay": {key: getattr(value, "__qualname__", value) for key, value in self.replay.items()},
            "reads": [self.fingerprints.get(name) for name in _other_metrics(card)],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _opened(archive: str | Path | Archive) -> Archive:
    from tracer.archive import Archive, open

    if isinstance(archive, Archive):
        return archive
    if isinstance(archive, (str, Path)):
        return open(archive)
    raise ArchiveError(f"expected an archive or the path of one, got {type(archive).__name__}")


def _wanted(given: Iterable[str | Metric | Callable[..., Any]] | None) -> dict[str, Metric]:
    known = metrics()
    if given is None:
        return known
    items = [given] if isinstance(given, (str, Metric)) or callable(given) else list(given)
    return {card.name: card for card in (card_of(item, known) for item in items)}


def _check_options(options: Mapping[str, Mapping[str, Any]], wanted: dict[str, Metric]) -> None:
    known = metrics() | wanted
    for name, values in options.items():
        card_of(name, known).with_options(values)


def _levels(wanted: dict[str, Metric]) -> Iterator[list[Metric]]:
    """Metrics in order: those whose inputs are ready first, with those that others read from."""
    known = metrics() | wanted
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


@cache
def _engine_source() -> str:
    home = Path(__file__).parent
    return hashlib.sha256(b"".join((home / name).read_bytes() for name in SHARED + REPLAY)).hexdigest()[:16]


def _can_travel(block: Block, replay: Mapping[str, Any]) -> bool:
    # A metric defined in a notebook cannot be found by another process; it is computed in this one.
    try:
        pickle.dumps((block, replay))
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return not any(plan.card.module == "__main__" for plan in block.plans)


_workers: dict[str, Worker] = {}


def _compute_away(path: str, block: Block, replay: Mapping[str, Any]) -> dict[str, Outcome]:
    if path not in _workers:
        _workers[path] = Worker(with_activations(_opened(path), replay), replay)
    outcomes = _workers[path].compute(block)
    for outcome in outcomes.values():
        outcome.error = None
    return outcomes
