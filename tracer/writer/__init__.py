"""The only code that changes an archive: it takes arrays from a training loop and commits them from a thread.

The training thread copies into reused buffers and goes on. One background thread writes objects as they come
and commits about once a second, so an archive is readable at any instant and a killed process loses at most
the last second: the last five where hundreds of thousands of updates have made the objects large that every commit
writes anew.
"""

import os
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tracer import spec
from tracer.errors import ArchiveError, RecordError
from tracer.spec.release import version
from tracer.store import files
from tracer.store.documents import as_json
from tracer.store.store import parted
from tracer.writer.commits import Tree
from tracer.writer.committer import Committer
from tracer.writer.declared import Declared
from tracer.writer.lifetime import unwatch, watch
from tracer.writer.place import remove, settled
from tracer.writer.row import Row
from tracer.writer.staging import Arrival, Staging
from tracer.writer.taken_up import TakenUp
from tracer.writer.worker import Worker

_GRACE = 30.0  # seconds a dying process waits for its last commit


class Writer:
    """A new archive at ``path``, open for recording. One thread calls its methods.

    The archive can be opened by readers from the moment this returns. ``attributes`` are the root's (title,
    card, sites, ...). ``durability="power"`` also survives a power cut, at the price of waiting for the disk
    at every object. ``on_error="warn"`` turns a failing disk into one warning, after which nothing more is
    recorded. ``queue_bytes`` bounds what waits to be written; `append` blocks above it. ``run_id``: that of the
    run which this is a part of.

    Errors: ArchiveError if ``path`` exists, cannot be created or is being written by another process; later,
    from any method, if the background thread failed, with its error as the cause.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        attributes: Mapping[str, Any],
        durability: Literal["process", "power"] = "process",
        on_error: Literal["raise", "warn"] = "raise",
        queue_bytes: int = 1 << 30,
        run_id: str | None = None,
    ) -> None:
        path = settled(path)  # the program may change its directory
        run_id = run_id or uuid.uuid4().hex
        lock, tree = _create(path, run_id, attributes, durability == "power")
        self._start(path, run_id, lock, tree, on_error, queue_bytes)

    @classmethod
    def going_on(cls, path: Path, taken: TakenUp, on_error: str, queue_bytes: int) -> "Writer":
        """The writer of an archive that `tracer.recovery.resume` has taken up."""
        writer = cls.__new__(cls)
        writer._start(path, taken.run_id, taken.lock, taken.tree, on_error, queue_bytes)
        writer._declared.restore(taken.nodes, taken.rows, taken.last)
        writer._held = taken.held
        writer._last_row = taken.step
        return writer

    def _start(
        self, path: Path, run_id: str, lock: files.Lock, tree: Tree, on_error: str, queue_bytes: int
    ) -> None:
        self.path, self.run_id = path, run_id
        self.closed = self._foreign = self._warned = False
        self._on_error = on_error
        self._declared = Declared()
        self._staging = Staging(queue_bytes)
        self._last_row = -1
        self._held: Callable[[str, np.ndarray], bool] | None = None  # of an archive taken up again
        self._lock, self._tree = lock, tree  # the tree is only used in jobs, that is, on the worker's thread
        self._worker = Worker(tree, lock.release, f"tracer-writer {self.path.name}")
        watch(self)

    # ---- declarations ----

    def attributes(self, group: str, attributes: Mapping[str, Any]) -> None:
        """Merge attributes into those of a group ("" is the root); objects within them are merged too."""
        if self._ready():
            copied = as_json(attributes)
            if not group and "tracer" in copied:
                raise RecordError("the root attribute 'tracer' is the commit record; use another name")
            self._worker.send(lambda: self._tree.group(group, copied))

    def static(
        self,
        group: str,
        arrays: Mapping[str, np.ndarray],
        dims: Mapping[str, tuple[str, ...]],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write arrays that do not change. A later call may add further arrays to the group.

        Errors: RecordError for a name in use, an unusable dtype, or dimensions that xarray could not align.
        """
        if not self._ready():
            return
        copied = {name: np.array(values, order="C") for name, values in arrays.items()}
        if self._held is not None:
            copied = self._new(group, copied, dims)
        for name, values in copied.items():
            self._declared.add(group, name, values.dtype, values.shape, tuple(dims.get(name, ())))
        self.attributes(group, attributes or {})
        for name, values in copied.items():
            little = values.astype(values.dtype.newbyteorder("<"), copy=False)
            self._worker.send(
                partial(self._tree.static, f"{group}/{name}", little, tuple(dims.get(name, ())))
            )

    def _new(
        self, group: str, arrays: dict[str, np.ndarray], dims: Mapping[str, tuple[str, ...]]
    ) -> dict[str, np.ndarray]:
        """Those of the arrays that the archive taken up does not hold; the others must be the same."""
        assert self._held is not None
        new = {}
        for name, values in arrays.items():
            declared = {name: (values.dtype, values.shape, tuple(dims.get(name, ())))}
            if not self._declared.again(group, declared):
                new[name] = values
            elif not self._held(f"{group}/{name}", values):
                raise RecordError(
                    f"cannot resume: '{group}/{name}' has other values now than in the archive; resume with the same "
                    "data, or record into a new archive"
                )
        return new

    def stream(
        self,
        group: str,
        arrays: Mapping[str, tuple[Any, tuple[int, ...], tuple[str, ...]]],
        attributes: Mapping[str, Any] | None = None,
        object_bytes: int = spec.OBJECT_BYTES,
    ) -> None:
        """Declare a stream and its arrays: (dtype, shape, dims) of one snapshot, without the step axis.

        object_bytes: of an object that snapshots of an array share, at most. Errors: as `static`.
        """
        if not self._ready():
            return
        typed = {
            name: (np.dtype(dtype), tuple(shape), tuple(dims))
            for name, (dtype, shape, dims) in arrays.items()
        }
        if not self._declared.again(group, typed):
            self._declared.add_stream(group, typed)
            self._worker.send(lambda: self._tree.stream(group, typed, object_bytes))
        self.attributes(group, attributes or {})

    def ragged(
        self,
        group: str,
        arrays: Mapping[str, tuple[Any, tuple[int, ...], tuple[str, ...]]],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare arrays with one row for each id of every update: (dtype, shape, dims) without the id axis.

        `row` takes their values; they stay undefined where it is given none. Errors: as `static`.
        """
        if not self._ready():
            return
        typed = {
            name: (np.dtype(dtype), tuple(shape), tuple(dims))
            for name, (dtype, shape, dims) in arrays.items()
        }
        if not self._declared.again(group, typed):
            self._declared.add_ragged(group, typed)
            self._worker.send(lambda: self._tree.ragged(group, typed))
        self.attributes(group, attributes or {})

    # ---- data ----

    def append(
        self,
        group: str,
        step: int,
        epoch_end: bool,
        arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        arrival: Arrival | None = None,
    ) -> None:
        """Add one snapshot to a stream. The arrays are copied before this returns; flat ones in a sequence end to end.

        With an ``arrival`` they are not: they are on their way into memory of their own, which the thread waits
        for, writes from, and releases. Errors: RecordError if the arrays are not those declared, or the step
        does not come after the last.
        """
        if not self._ready():
            if arrival is not None:
                arrival.release()
            return
        try:
            self._declared.check_snapshot(group, step, arrays)
        except RecordError:
            if arrival is not None:
                arrival.release()
            raise
        if arrival is not None:
            self._worker.send(
                partial(self._append_arrived, group, step, epoch_end, arrays, arrival), arrival.release
            )
            return
        staged = dict(zip(arrays, self._staging.copies(*arrays.values()), strict=True))
        self._worker.send(
            lambda: self._tree.append(group, step, epoch_end, staged),
            lambda: self._staging.give_back(*staged.values()),
        )

    def _append_arrived(
        self, group: str, step: int, epoch_end: bool, arrays: Mapping[str, Any], arrival: Arrival
    ) -> None:
        arrival.wait()
        self._tree.append(group, step, epoch_end, dict(arrays))

    def row(
        self,
        step: int,
        *,
        epoch: int,
        time: float,
        ids: np.ndarray | None,
        loss: float,
        lr: Sequence[float],
        skipped: bool = False,
        scalars: Mapping[str, float] | None = None,
        examples: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add one update to ``steps``; ``time`` is in seconds since 1970.

        ``examples`` are arrays declared by `ragged`, by path, with one row for each id. ``ids`` are not copied. It
        costs the append to a list. Errors: RecordError if the step does not come after the last, a
        scalar takes the name of a column, or an array is not as declared.
        """
        if not self._ready():
            return
        if step <= self._last_row:
            raise RecordError(f"updates are recorded in order: step {step} came after step {self._last_row}")
        named = dict(scalars) if scalars else None
        if named:
            self._declared.check_scalars(named)
        ids = None if ids is None else np.asarray(ids, np.int64).reshape(-1)
        if examples:
            self._declared.check_examples(step, 0 if ids is None else len(ids), examples)
        seen = {path: np.array(values) for path, values in (examples or {}).items()}
        self._worker.row(Row(step, epoch, time, loss, skipped, tuple(lr), ids, named, seen or None))
        self._last_row = step

    def check_scalars(self, names: Iterable[str]) -> None:
        """RecordError for names of scalars that an archive cannot tell from its own columns or from each other."""
        if self._ready():
            self._declared.check_scalars(names)

    def amend(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add scalars to an update that was given already, which must be the last one; those it has are replaced."""
        if self._ready() and step == self._last_row:
            self._declared.check_scalars(scalars)
            self._worker.amend(dict(scalars))

    def mark_epoch_end(self, step: int) -> None:
        """Say that the snapshots of ``step``, already appended, were the end of an epoch."""
        if self._ready():
            self._worker.send(lambda: self._tree.mark_epoch_end(step))

    # ---- commits ----

    def commit(self) -> None:
        """Say that everything given so far is whole and may be committed. Cheap enough for every update.

        It is committed within about a second, or at a later such point if more is given meanwhile.
        """
        if self._ready():
            self._worker.mark()

    def rewind(self) -> None:
        """Leave out the snapshots given since `commit` was last called: they are not all there."""
        if not self.closed and not self._foreign:
            self._worker.rewind()

    def flush(self) -> None:
        """Commit everything given so far and wait until that is done."""
        if self._ready():
            done = threading.Event()
            self._worker.commit(done.set)
            done.wait()
            self._ready()

    def close(self, state: Literal["complete", "interrupted"] = "complete") -> None:
        """Commit everything and release the archive. A second call does nothing.

        Errors: ArchiveError if anything could not be written, now or earlier; what was whole before that is
        committed all the same.
        """
        if not self.closed and not self._foreign:
            self.closed = True
            self._worker.stop(state)
            self._worker.join()
            unwatch(self)
            self._report()

    def interrupt(self) -> None:
        """Close as interrupted without waiting forever: the process is about to end."""
        if not self.closed and not self._foreign:
            self.closed = True
            self._worker.rewind()  # the row of a snapshot may not have been handed over
            self._worker.stop("interrupted")
            self._worker.join(_GRACE)
            unwatch(self)

    def forget(self) -> None:
        """Disown the archive in a forked child, which has neither the thread nor the right to write."""
        self._foreign = self.closed = True
        self._lock.forget()

    def _ready(self) -> bool:
        """Whether calls have an effect. Raises what the thread could not."""
        if self._foreign:
            raise ArchiveError(f"{str(self.path)!r} belongs to the parent of this process; write from there")
        if self.closed:
            raise ArchiveError(f"{str(self.path)!r} was closed; record into a new archive")
        return self._worker.error is None or self._report()

    def _report(self) -> bool:
        """Raise, or warn once, if the thread failed; then return False."""
        error = self._worker.error
        if error is None:
            return True
        text = (
            f"recording into {str(self.path)!r} stopped at its last commit because writing failed "
            f"({type(error).__name__}: {error}); make room or check the disk, then record again"
        )
        if self._on_error == "raise":
            raise ArchiveError(text) from error
        if not self._warned:
            self._warned = True
            warnings.warn(text, RuntimeWarning, stacklevel=4)
        return False


def _create(path: Path, run_id: str, attributes: Mapping[str, Any], sync: bool) -> tuple[files.Lock, Tree]:
    """Make an empty archive that readers can open."""
    record = {
        "format": spec.FORMAT,
        "format_version": spec.FORMAT_VERSION,
        "run_id": run_id,
        "state": "recording",
        "commit": 0,
        "committed_step": None,
    }
    labels = {
        "title": files.as_utf8(parted(path.name)[0]).decode(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "creation_library": "tracer",
        "creation_library_version": version(),
        **as_json(attributes),
    }
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in missing if sync else ():
            files.sync(folder.parent)
        lock = files.Lock(path)
    except OSError as error:
        raise _unusable(path, error) from error
    with ExitStack() as undo:  # whatever ends it, an interrupt too: what is not whole is of no use to anyone
        undo.callback(lock.release)
        try:
            path.mkdir()
            undo.callback(remove, path)
            tree = Tree(Committer(path, sync=sync), record, labels)
            tree.commit()
        except OSError as error:
            raise _unusable(path, error) from error
        undo.pop_all()
    return lock, tree


def _unusable(path: Path, error: OSError) -> ArchiveError:
    if isinstance(error, FileExistsError) and os.path.lexists(path):
        return ArchiveError(f"{str(path)!r} exists already; choose a new path or remove it first")
    return ArchiveError(f"cannot record into {str(path)!r}: {error.strerror}; choose a writable path")
