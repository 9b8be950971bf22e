"""Where work is done: in this process, in others of this machine, or on a Dask cluster.

The last two look alike: executors of `concurrent.futures`. What goes out is bytes that say where the archive
is, which metrics by name, with which options, on which snapshots; what comes back is numbers. Whoever waits
is a routine: a generator that yields what it waits for, so that many archives can be analyzed by turns.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from analyze.engine.blocks import Block, Outcome, Worker
from analyze.engine.fingerprint import sources
from analyze.engine.replayed import with_activations
from analyze.errors import AnalysisError
from analyze.numerics.processes import cores, pool
from tracer.apart import WorkerDiedError, shared
from tracer.apart.answers import ForeignAnswerError
from tracer.errors import ArchiveError
from tracer.spec.release import version
from tracer.store.store import is_remote, local_path

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
Routine = Generator["Future[Any]", None, T]
AHEAD = 4  # tasks given to each worker: it is never idle, and few results wait for those before them
TRIES = 3  # of a task whose process died; the last is in a process of its own
KEPT = 4  # archives a worker keeps open
TIMEOUT = 10  # seconds to reach a scheduler
DIED = f"the process that computed it died {TRIES} times, perhaps for lack of memory: lower --memory"


@dataclass(frozen=True)
class OfArchive:
    """What another process needs to know of an archive to compute something of it."""

    session: str
    archive: str
    run_id: str
    replay: Mapping[str, Any]


@dataclass(frozen=True)
class Task(OfArchive):
    """Some metrics on some snapshots of one archive: all that another process needs to know.

    apart: bytes of memory for a process of their own, which runs an archive's network; None where whoever does the
    task computes them.
    """

    block: Block
    sources: tuple[str, ...]
    apart: int | None = None

    def __call__(self) -> dict[str, Outcome]:
        """Compute the block; ArchiveError or AnalysisError where this process cannot compute as the sender."""
        if self.sources != tuple(plan.card.source for plan in self.block.plans):
            raise AnalysisError(f"it has another version of {', '.join(self.block.names)}")
        if self.apart is not None:
            inner = pickle.dumps(replace(self, apart=None))
            return in_a_process_of_its_own(inner, self.block.names, self.apart)
        outcomes = worker_of(self).compute(self.block)
        for outcome in outcomes.values():
            outcome.error = None  # it may hold what cannot travel; the message says it
        return outcomes


def packed(task: Any) -> bytes | None:
    """A task as bytes; None where it can be done in this process only, such as a metric of a notebook."""
    block = getattr(task, "block", None)
    if block is not None and any(plan.card.module == "__main__" for plan in block.plans):
        return None
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def in_a_process_of_its_own(task: bytes, names: Sequence[str], memory: int) -> dict[str, Outcome]:
    """Outcomes, by metric, of a task that is done where a crash takes nothing else with it."""
    try:
        answer = shared().call(perform, task, sources(), memory=memory)
        outcomes = {name: Outcome(**answer[name]) for name in names}
    except WorkerDiedError as error:
        return dict.fromkeys(names, Outcome(message=str(error)))
    except AnalysisError as error:
        raise AnalysisError(
            f"a process of its own cannot do its part: {error} (were its files changed meanwhile?); run again"
        ) from error
    except (TypeError, KeyError):  # whoever answers so is no worker of ours any more
        return dict.fromkeys(names, Outcome(message=str(ForeignAnswerError())))
    return outcomes


def perform(task: bytes, code: str) -> Any:
    """Do a task, in a worker; AnalysisError where its code is not that of the sender."""
    if code != sources():
        raise AnalysisError(f"it has another version of tracer ({version()}) than this process")
    try:
        call = pickle.loads(task)
    except (ImportError, AttributeError) as error:
        raise AnalysisError(f"it lacks what a metric is made of: {error}") from None
    return call()


_local = threading.local()  # threads of a worker share no archive, so that none has to be safe for two


def worker_of(task: OfArchive) -> Worker:
    """What computes blocks of a task's archive, kept for its session."""
    workers: OrderedDict[tuple[str, str], Worker] = _local.__dict__.setdefault("kept", OrderedDict())
    key = task.session, task.archive
    if key not in workers:
        from tracer.archive import open

        archive = open(task.archive)
        if archive.run_id != task.run_id:
            raise ArchiveError(f"it sees another run at {task.archive!r}")
        workers[key] = Worker(with_activations(archive, task.replay), task.replay)
    workers.move_to_end(key)
    while len(workers) > KEPT:
        workers.popitem(last=False)[1].archive.close()
    return workers[key]


@dataclass
class Job:
    """A task under way."""

    task: bytes
    future: Future[Any]
    tries: int = 1


class Workers:
    """Does tasks elsewhere. This one has nobody: all is done in this process."""

    n = 0  # tasks done at a time
    share = 1  # tasks that share the memory limit
    spare = False  # whether they are for long work only
    name = "this process"

    @property
    def ahead(self) -> int:
        """Tasks to give out before looking at what the first of them returned."""
        return AHEAD * self.n

    def begin(self, task: Any) -> Job | None:
        """Give a task out; None where it has to be done here."""
        content = packed(task) if self.n else None
        return None if content is None else Job(content, self._submit(content, 1))

    def finish(self, job: Job) -> Routine[Any]:
        """What a task returned, None where its process died time and again; AnalysisError where none can do it."""
        while True:
            yield job.future
            try:
                return job.future.result()
            except BrokenExecutor:
                if job.tries == TRIES:
                    return None
                job.tries += 1
                job.future = self._submit(job.task, job.tries)
            except CancelledError:
                raise AnalysisError(
                    f"{self.name} was lost; run again, and go on with what is finished"
                ) from None
            except Exception as error:
                if type(error).__name__ == "KilledWorker":
                    return None
                raise AnalysisError(f"a worker of {self.name} cannot do its part: {error}") from error

    def close(self) -> None:
        """Let the workers go; what they have not begun is dropped."""

    def _submit(self, task: bytes, tries: int) -> Future[Any]:
        raise NotImplementedError


class Processes(Workers):
    """Processes of this machine, started when first needed, and again where one of them dies."""

    name = "this machine"

    def __init__(self, n: int, *, spare: bool = False) -> None:
        self.n = self.share = n
        self.spare = spare
        self._pool: Executor | None = None

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _submit(self, task: bytes, tries: int) -> Future[Any]:
        if tries == TRIES:
            with pool(1) as alone:
                future = alone.submit(perform, task, sources())
            return future
        if self._pool is None:
            self._pool = pool(self.n)
        try:
            return self._pool.submit(perform, task, sources())
        except BrokenExecutor:
            self._pool.shutdown()
            self._pool = pool(self.n)
            return self._pool.submit(perform, task, sources())


class Cluster(Workers):
    """A Dask cluster; it repeats by itself what a lost worker had."""

    def __init__(self, scheduler: str | Client) -> None:
        self._own = isinstance(scheduler, str)
        self._client = _client(scheduler) if isinstance(scheduler, str) else scheduler
        address = self._client.scheduler.address if self._client.scheduler else ""
        self.name = f"the cluster at {address}"
        threads = sum(self._client.nthreads().values())
        # A cluster that grows with its load begins with none.
        self.n, self.name = max(2, threads), self.name if threads else f"{self.name}, which waits for workers"
        self._executor = self._client.get_executor(pure=False, retries=TRIES - 1)

    def close(self) -> None:
        """Drop what is not begun and leave the cluster as it was."""
        self._executor.shutdown(wait=False)
        if self._own:
            self._client.close()

    def _submit(self, task: bytes, tries: int) -> Future[Any]:
        future: Future[Any] = self._executor.submit(perform, task, sources())
        return future


def _client(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise AnalysisError(
            f"scheduler {address!r} needs Dask; install it with: pip install tracer-nn[dask]"
        ) from None
    try:
        return Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise AnalysisError(
            f"no Dask scheduler answers at {address!r} ({reason}); start one with `dask scheduler`, give HOST:PORT"
        ) from None


@contextmanager
def recruit(jobs: int | Literal["auto"] = 1, scheduler: str | Client | None = None) -> Iterator[Workers]:
    """Workers on a cluster, else `jobs` processes, else this process; they are released at the end.

    `auto`: a process a core, for long work only.
    """
    workers: Workers
    if scheduler is not None:
        workers = Cluster(scheduler)
    else:
        n = cores() if jobs == "auto" else int(jobs)
        workers = Workers() if n < 2 else Processes(n, spare=True) if jobs == "auto" else Processes(n)
    try:
        yield workers
    finally:
        workers.close()


def complete(routine: Routine[T]) -> T:
    """Run a routine to its end and return what it returns."""
    try:
        while True:
            wait([next(routine)])
    except StopIteration as end:
        value: T = end.value
        return value


def by_turns(routines: Iterable[Routine[Any]], most: int, ended: Callable[[], None]) -> None:
    """Run routines, at most `most` at a time, each as soon as what it waits for is there."""
    waiting: dict[Future[Any], Routine[Any]] = {}

    def advance(routine: Routine[Any]) -> None:
        try:
            waiting[next(routine)] = routine
        except StopIteration:
            ended()

    def next_ones() -> None:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            advance(waiting.pop(future))

    for routine in routines:
        advance(routine)
        while len(waiting) >= most:
            next_ones()
    while waiting:
        next_ones()


def address(archive: str) -> str:
    """Where another process finds an archive: a URL as it is, a path from the root on.

    >>> address("s3://bucket/run.zarr"), address("/runs/a.zarr")
    ('s3://bucket/run.zarr', '/runs/a.zarr')
    """
    return archive if is_remote(archive) else str(local_path(archive).absolute())
