"""Opening an archive to record on: under its lock, after a check, with what came later dropped."""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from tracer.archive.source import Source
from tracer.errors import ArchiveError, MissingTraceError
from tracer.recovery.restore import restore, up_to
from tracer.store.files import PARTIAL, Lock
from tracer.verify.examination import Examination
from tracer.verify.inventory import Inventory
from tracer.verify.report import Report
from tracer.writer import Writer
from tracer.writer.committer import Committer
from tracer.writer.place import settled
from tracer.writer.taken_up import TakenUp


def resume(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    durability: Literal["process", "power"] = "process",
    on_error: Literal["raise", "warn"] = "raise",
    queue_bytes: int = 1 << 30,
) -> Writer:
    """Open a finished or interrupted archive to record on after ``step`` (default: its last one).

    What came after that step is dropped, in one commit with an entry in `resumes`, and files that no commit
    names are removed. The same declarations may be made again; they must agree with the archive.

    Errors: ArchiveError if it is no local archive, is being written, is damaged, or ends before ``step``.
    """
    path = settled(path)
    return Writer.going_on(path, take_up(path, step, durability == "power"), on_error, queue_bytes)


def take_up(path: Path, step: int | None, sync: bool) -> TakenUp:
    """Take the archive's lock, check it, and drop what came after ``step`` (default: nothing)."""
    if path.is_file():
        raise ArchiveError(f"{str(path)!r} is a file, which cannot be recorded on; `tracer unpack` it first")
    if not path.is_dir():
        raise ArchiveError(f"there is no archive directory at {str(path)!r} to be resumed; check the path")
    try:
        lock = Lock(path)
    except OSError as error:
        raise ArchiveError(
            f"cannot resume {str(path)!r}: {error.strerror}; make its folder writable"
        ) from error
    try:
        return _take_up(path, step, sync, lock)
    except OSError as error:
        lock.release()
        raise ArchiveError(f"cannot resume {str(path)!r}: {error.strerror}; make it writable") from error
    except BaseException:
        lock.release()
        raise


def _take_up(path: Path, step: int | None, sync: bool, lock: Lock) -> TakenUp:
    source, inventory = Source(path), Inventory(path)
    report = Report(str(path), "fast")
    examination = Examination(source, inventory, report)
    examination.run(full=False)
    if not report.ok:
        raise ArchiveError(
            f"{str(path)!r} cannot be resumed, since it is damaged ({report.findings[0]}); repair it first with "
            "`tracer verify --repair`"
        )
    steps = {group: source.steps(group) for group in source.record["rows"]}
    known = int(steps["steps"][-1]) if len(steps["steps"]) else -1
    wanted = known if step is None else step
    if wanted > known or (wanted >= 0 and wanted not in steps["steps"]):
        raise MissingTraceError(
            f"{str(path)!r} cannot be resumed after step {wanted}: it holds updates up to step {known}"
        )
    rest = up_to(steps, source.read("steps/n_ids"), wanted)
    restored = restore(examination, committer := Committer(path, sync=sync), rest)
    for key in [*restored.dropped, *examination.leftover, PARTIAL]:
        committer.discard(key)
    held = Source(path)  # after the commit: reading static arrays of the one before would be refused
    source.close()

    def same(array: str, values: np.ndarray) -> bool:
        return held.read(array).tobytes() == values.tobytes()

    last = {
        group: int(recorded[n - 1]) if (n := rest.rows[group]) else -1 for group, recorded in steps.items()
    }
    return TakenUp(
        source.record["run_id"], wanted, lock, restored.tree, held.nodes, list(rest.rows), last, same
    )
