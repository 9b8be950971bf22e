"""The thread that writes: it runs jobs in order and commits every second to five, where a step is whole."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from tracer.writer.commits import Tree
from tracer.writer.row import Row

_INTERVAL = 1.0  # seconds between commits: each replaces about ten files
_SHARE = 0.1  # of the thread's time that commits may take on slow disks
_RATE = 1 << 22  # bytes a second that go into objects still being filled, which every commit writes anew ...
_LONGEST = 5.0  # ... though no more seconds than these are waited for it

Job = Callable[[], Any]


def _nothing() -> None:
    pass


class Worker:
    """Runs jobs on a `Tree`. One other thread calls all methods, and none of them waits, but for `join`.

    Nothing is shared under a lock: messages go one way through a queue, so a signal handler may call in at
    any point.
    """

    def __init__(self, tree: Tree, release: Job, name: str) -> None:
        self.tree = tree
        self.error: BaseException | None = None
        self._release = release
        self._inbox: SimpleQueue[tuple[Job, Job, tuple[int, int]] | int | None] = SimpleQueue()
        self._rows: deque[Row] = deque()
        self._sent = self._given = 0  # jobs and rows, counted by the caller
        self._done = self._taken = 0  # the same, counted by the thread
        self._mark = (0, 0)  # jobs and rows given when all was last whole
        self._whole = (
            0,
            0,
        )  # the same of what the thread has done: rows, and snapshots since the last commit
        self._due = time.monotonic() + _INTERVAL
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def send(self, job: Job, always: Job = _nothing) -> None:
        """Run a job, and `always` after it, even if this job or an earlier one failed."""
        self._sent += 1
        self._inbox.put((job, always, self._mark))

    def row(self, row: Row) -> None:
        """Give an update; it is only looked at by the next commit."""
        self._rows.append(row)
        self._given += 1

    def amend(self, scalars: dict[str, float]) -> None:
        """Add scalars to the last update given."""
        rows = self._given

        def job() -> None:
            self._take_rows(rows)
            self.tree.amend(scalars)

        self.send(job)

    def mark(self) -> None:
        """Say that everything given so far belongs together and may be committed."""
        self._mark = (self._sent, self._given)
        if time.monotonic() >= self._due:  # waking the thread at every step would cost the training loop
            self._inbox.put(self._given)

    def commit(self, always: Job) -> None:
        """Commit everything given so far now, then call `always`."""
        rows = self._given
        self.send(lambda: self._commit(rows), always)

    def rewind(self) -> None:
        """Leave out the snapshots given since all was last whole."""
        self.send(lambda: self.tree.leave_out(self._whole[1]))

    def stop(self, state: str) -> None:
        """Commit everything, release the archive, end the thread."""
        rows = self._given
        self.send(lambda: self._commit(rows), lambda: self._last_commit(state))
        self._inbox.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    # ---- on the thread ----

    def _serve(self) -> None:
        while True:
            try:
                message = self._inbox.get(timeout=max(0.0, self._due - time.monotonic()))
            except Empty:
                self._attempt(self._commit_if_idle)
                continue
            if message is None:
                return
            if isinstance(message, int):
                if time.monotonic() >= self._due:
                    self._attempt(lambda rows=message: self._commit(rows))  # type: ignore[misc]
                continue
            job, always, (sent, rows) = message
            if sent == self._done and self.error is None:  # just before this job all was whole
                self._whole = rows, self.tree.written
            self._attempt(job)
            self._attempt(always, even_after_failure=True)
            self._done += 1

    def _attempt(self, job: Job, even_after_failure: bool = False) -> None:
        if self.error is None or even_after_failure:
            try:
                job()
            except BaseException as error:  # also MemoryError: the training thread must hear of it
                self.error = self.error or error
        if self.error is not None:
            self._due = time.monotonic() + _INTERVAL

    def _commit_if_idle(self) -> None:
        sent, rows = self._mark
        self._due = time.monotonic() + _INTERVAL
        if sent == self._done:  # else a step is half way: its end brings the next mark
            self._commit(rows)

    def _commit(self, rows: int) -> None:
        started = time.monotonic()
        self._take_rows(rows)
        rewritten = self.tree.commit()
        self._whole = self._taken, 0
        ended = time.monotonic()
        self._due = ended + max(_INTERVAL, (ended - started) / _SHARE, min(_LONGEST, rewritten / _RATE))

    def _take_rows(self, until: int) -> None:
        rows = [self._rows.popleft() for _ in range(until - self._taken)]
        self._taken = max(self._taken, until)
        if rows:
            self.tree.rows(rows)

    def _last_commit(self, state: str) -> None:
        # After a failure (a full disk, say) the steps that were whole before it are committed, if that is
        # possible at all; a commit that failed is only tried again.
        try:
            if self.error is not None:
                rows, written = self._whole
                self.tree.give_up(written)
                self._take_rows(rows)
            self.tree.close(state if self.error is None else "interrupted")
        finally:
            self._release()
