"""What a rank other than 0 writes: a small archive within the run's, begun once rank 0's is there."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from tracer.archive.ranks import within
from tracer.errors import ArchiveError
from tracer.recorder.messages import RecordWarning
from tracer.store.documents import merge
from tracer.store.stores import ROOT
from tracer.store.validate import parse
from tracer.writer import Writer

_WAITING = 1 << 16  # updates kept until rank 0's archive is there
_LONG = 100  # after which it is said that it is not: under DistributedDataParallel it is before the first


class Parent:
    """The archive of a run, as its other ranks see it: from its root document."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self) -> dict[str, Any] | None:
        """The commit record, None where there is no archive (yet)."""
        try:
            record = parse((self.path / ROOT).read_bytes())["attributes"]["tracer"]
            return record if isinstance(record["run_id"], str) and "committed_step" in record else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


class RankWriter:
    """A writer of rows whose archive is made at the first commit after an update that finds rank 0's.

    Training that is stopped before, by whatever rank 0 refuses, leaves nothing behind. options: of `Writer`.
    """

    def __init__(
        self, parent: Parent, rank: int, attributes: dict[str, Any], options: dict[str, Any]
    ) -> None:
        self.closed = False
        self._parent, self._rank = parent, rank
        self._attributes, self._options = attributes, options
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._writer: Writer | None = None
        self._told = False
        self._lost = False  # nothing is recorded any more, and that was said

    def row(self, step: int, **columns: Any) -> None:
        """Add one update."""
        if self._writer is not None:
            self._writer.row(step, **columns)
        elif not self._lost:
            self._waiting.append((step, columns))

    def check_scalars(self, names: Iterable[str]) -> None:
        """As of `Writer`, as soon as there is one."""
        if self._writer is not None:
            self._writer.check_scalars(names)

    def amend(self, step: int, scalars: dict[str, float]) -> None:
        """Add scalars to the last update."""
        if self._writer is not None:
            self._writer.amend(step, scalars)
        elif self._waiting and self._waiting[-1][0] == step:
            self._waiting[-1][1]["scalars"] |= scalars

    def mark_epoch_end(self, step: int) -> None:
        """Nothing: that is an attribute of snapshots."""

    def rewind(self) -> None:
        """Nothing: of this rank there are no snapshots."""

    def attributes(self, group: str, attributes: dict[str, Any]) -> None:
        """Merge attributes into those of the root."""
        if self._writer is not None:
            self._writer.attributes(group, attributes)
        else:
            merge(self._attributes, attributes)

    def commit(self) -> None:
        """Say that everything given so far is whole."""
        if self._begun(self._waiting and self._waiting[-1][0] > 0) is not None:
            self._writer.commit()  # type: ignore[union-attr]

    def flush(self) -> None:
        """Commit, and wait until that is done."""
        if self._begun(bool(self._waiting)) is not None:
            self._writer.flush()  # type: ignore[union-attr]

    def close(self, state: Literal["complete", "interrupted"] = "complete") -> None:
        """Commit everything. ArchiveError if there is no run to which it would belong."""
        if self.closed:
            return
        self.closed = True
        updates = bool(self._waiting) and self._waiting[-1][0] > 0
        if self._begun(updates or state == "complete") is not None:
            self._writer.close(state)  # type: ignore[union-attr]
        elif not self._lost and state == "complete":
            self._lose(self._nowhere())

    def _begun(self, wanted: Any) -> Writer | None:
        """The writer, made if it is wanted and rank 0's archive is there."""
        if self._writer is not None or self._lost or not wanted:
            return self._writer
        record = self._parent.record()
        if record is None:
            if len(self._waiting) > _WAITING:
                self._lose(self._nowhere())
            elif len(self._waiting) > _LONG and not self._told:
                self._told = True
                warnings.warn(str(self._nowhere()), RecordWarning, stacklevel=6)
            return None
        own = self._parent.path / within(self._rank)
        try:
            self._writer = Writer(own, attributes=self._attributes, run_id=record["run_id"], **self._options)
        except ArchiveError as error:
            self._lose(error)
            return None
        for step, columns in self._waiting:
            self._writer.row(step, **columns)
        self._waiting.clear()
        return self._writer

    def _nowhere(self) -> ArchiveError:
        return ArchiveError(
            f"rank 0 records no run at {str(self._parent.path)!r}, to which the ids of rank {self._rank} would belong: "
            "nothing of this rank is stored; call tracer.record with the same path on every rank, or on rank 0 alone"
        )

    def _lose(self, error: ArchiveError) -> None:
        self._lost = True
        self._waiting.clear()
        if self._options.get("on_error") != "warn":
            raise error
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
