"""Recorder: follows a training loop, decides when, orders events. No numerics.

One row of `steps/` stays open from the update that made it until the next update, so that the loss and
scalars logged in between belong to it. Rows close in order, and an archive is committed only where a row has
closed: every commit holds whole steps.
"""

import atexit
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch

from tracer.errors import RecordError
from tracer.ids import taken
from tracer.network.copies import memory_returned
from tracer.recorder.arguments import check_scalars
from tracer.recorder.batches import Batches, Delivered
from tracer.recorder.budget import Budget
from tracer.recorder.device import mark_on, refuse_capture
from tracer.recorder.device.grad_scaler import found_overflow
from tracer.recorder.device.scalars import Number, number, read
from tracer.recorder.instrument import Instrument
from tracer.recorder.isolation import unseen
from tracer.recorder.messages import EARLY_LOSS, NOT_OPEN, PREFETCH, RecordWarning
from tracer.recorder.mirror import Mirror
from tracer.recorder.optimizers import Updates
from tracer.recorder.plan import Plan, make_plan, seconds_of
from tracer.recorder.preparation import in_one_sentence
from tracer.recorder.resume import ResumePoint
from tracer.recorder.row import Backlog, Row
from tracer.recorder.uncounted import LAST, STRANGER, Uncounted
from tracer.schedule import Schedule
from tracer.writer import Writer


class Recorder:
    """Watches one training run and writes its archive; made by `tracer.record`, used as a context manager."""

    def __init__(
        self,
        optimizer: Any,
        schedules: dict[str, Schedule],
        instrument: Callable[[], Instrument],
        writer: Callable[[Instrument], tuple[Writer, ResumePoint | None]],
        budget: Budget | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self._updates = Updates(optimizer, self._updated, lambda: self._update(1.0))
        self._schedules = schedules
        self._clocks = [  # schedules of one expression are the same rule
            (schedule, [stream for stream, other in schedules.items() if repr(other) == expression])
            for expression, schedule in {repr(schedule): schedule for schedule in schedules.values()}.items()
        ]
        self._due = 0.0  # the next step at which a snapshot may be due, epochs aside
        self._make_instrument = instrument
        self._make_writer = writer
        self._budget = budget or Budget(None)
        self._backlog = Backlog(mirror, self._warn_once)
        self._batches = Batches(self._deliver, self._exhausted, self.note)
        self._delivered: list[np.ndarray | None] = []  # None: ids that are not known
        self._ahead: dict[str, Number] = {}
        self._row: Row | None = None
        self._epoch = 0
        self._taken: dict[str, int] = {}
        self._warned: set[str] = set()
        self._told = 0
        self._settled = 0  # batches delivered in an epoch that has ended, which no log stands before
        self._ending = False  # an epoch whose last batches may still be trained on
        self._logged = {"loss"}  # names of scalars
        self._first = 0  # the step that this recording began with
        self._begun = -1  # the last step whose snapshot the writer has
        self._resume_point: ResumePoint | None = None
        self._writer: Writer | None = None

    # What the user calls.

    def __enter__(self) -> Self:
        if self._row is not None:  # by start()
            return self
        with memory_returned(), unseen(), in_one_sentence(lambda: self._writer):
            self._instrument = self._make_instrument()
            self._writer, self._resume_point = self._make_writer(self._instrument)
            self._tell(stacklevel=3)
            self._instrument.announce(self._writer)
            self._begin(self._resume_point)
            self._uncounted = Uncounted(self._instrument.model, self.note)
            self._instrument.produced = self._uncounted.loading.produced
            if self._uncounted.is_unknown(self._updates.groups):
                self.note(STRANGER)
        self._updates.start()
        self._uncounted.loading.start()
        if self._instrument.in_flight is not None:
            self._instrument.in_flight.attach()
        self._budget.start(mark_on(self._instrument.model))
        return self

    def start(self) -> Self:
        """Begin without `with`; `close` ends it, and a process that ends without leaves an interrupted run."""
        atexit.register(self.__exit__, SystemExit, None, None)
        return self.__enter__()

    def __repr__(self) -> str:
        if self._writer is None:
            return "<Recorder: not started; use `with`, or start()>"
        if self._row is None:
            return f"<Recorder of {str(self._writer.path)!r}: closed>"
        return f"<Recorder of {str(self._writer.path)!r}: update {self._row.step}, epoch {self._row.epoch}>"

    def _begin(self, resumed: ResumePoint | None) -> None:
        """Open the first row, or again the one after which an archive is taken up."""
        if resumed is None:
            self._row = Row(step=0, epoch=0, rates=self._updates.rates)
            self._snapshot(always=True)
        else:
            self._row = Row(step=resumed.step, epoch=resumed.epoch, rates=self._updates.rates)
            self._epoch, self._taken = resumed.epochs, dict(resumed.taken)
            self._first = self._begun = self._backlog.written = self._backlog.ended = resumed.step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None or self._writer.closed:
            return
        self.close() if kind is None else self._finish("interrupted")

    def batches(self, loader: Any, ids: Callable[[Any], Any] | None = None) -> Delivered:
        """Iterate `loader`: the same batches in the same order, with their example ids noted.

        Exhausting the loader ends an epoch. `ids(batch)` gives the ids where a loader cannot tell them. Of a
        batch with another number of examples than were drawn for it no ids are recorded, which is noted.
        """
        seen = self._instrument.in_flight if self._open() else None

        def begin() -> Iterator[Any]:
            delivered = self._batches.iterate(loader, ids)
            if seen is None:
                return delivered
            return seen.follow(
                delivered, loader, lambda: (self._open().step + 1, self._epoch + 1, self._delivered[-1])
            )

        return Delivered(loader, begin, self._batches, ids)

    def step(self, ids: Any = None, loss: Any = None, targets: Any = None) -> None:
        """Annotate the update just made with its example `ids` and its `loss`.

        `targets` of those examples serve `minibatch=` where batches are no (inputs, targets) pairs. With
        `optimizer=None` this call also counts the update.
        """
        if self._updates.given is None:
            self._update()
        row = self._open()
        if ids is not None:
            row.ids = taken(ids)
        if loss is not None:
            row.scalars["loss"] = number("loss", loss)
        if targets is not None and self._instrument.in_flight is not None:
            self._instrument.in_flight.targets(row.minibatch, targets)

    def log(self, **values: Any) -> None:
        """Record scalars with the current update; `loss` is the training loss of that update.

        Called between a batch and its `optimizer.step()`, they belong to the update to come. A tensor is read
        later and never waited for.
        """
        row = self._open()
        if not self._logged.issuperset(values):
            check_scalars(values.keys() - self._logged, self._writer_in_use())
            self._logged.update(values)
        pending = len(self._delivered) > self._settled or row.step <= self._backlog.written
        target = self._ahead if pending else row.scalars
        target |= {name: number(name, value) for name, value in values.items()}
        if ("loss" in values and target is self._ahead) or row.step == self._first:
            self._uncounted.losses += "loss" in values

    def end_epoch(self) -> None:
        """Say that an epoch ended; a loader given to `run.batches` says so by itself when exhausted."""
        row = self._open()
        if self._uncounted.any and row.epoch <= self._epoch:
            self.note(self._uncounted.sentence(row.step))
        self._uncounted.batches = self._uncounted.losses = 0
        self._settled, self._ending = len(self._delivered), False
        if row.epoch > self._epoch:
            self._epoch = row.epoch
            row.epoch_end = True
            self._writer_in_use().mark_epoch_end(row.step)
            self._snapshot()
        self._write_rows()  # what follows may take long

    @property
    def resumed(self) -> int | None:
        """The step after which an archive was taken up (`resume=`), None for a new one."""
        return None if self._resume_point is None else self._resume_point.step

    def flush(self) -> None:
        """Commit everything up to the update just made, its weights included, and wait until that is done.

        Call it before saving a checkpoint to go on from with `resume=True`. What is logged afterwards belongs
        to the next update.
        """
        row = self._open()
        if self._taken.get("weights") != row.step:
            self._uncounted.flush(row.step)
            self._take({"weights"}, always=True)
        self._backlog.add(row)
        self._write_rows(wait=True)
        self._writer_in_use().flush()

    def plan(
        self, steps: int | None = None, *, epochs: int | None = None, steps_per_epoch: int | None = None
    ) -> Plan:
        """Bytes, files and time of a snapshot, and in total for so many updates; prints as a table.

        Give `steps`, or `epochs` and `steps_per_epoch`; `steps_per_epoch` also tells where epochs end.
        The time is measured on the model as it is now, by probing it once more.
        """
        self._open()
        lengths = {"steps": steps, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
        take = partial(self._instrument.observe, self._writer_in_use(), step=0)
        return make_plan(self._schedules, self._instrument, partial(seconds_of, take), **lengths)

    def close(self) -> None:
        """Record the last state, commit everything and close the archive; as interrupted where no update was made.

        A second call does nothing.
        """
        if self._writer is not None and self._writer.closed:
            return
        self._batches.finish()
        if self._ending:
            self.end_epoch()
        row = self._open()
        if (self._uncounted.any or self._delivered) and self._uncounted.changed():
            self.note(self._uncounted.sentence(row.step))
            self._add_uncounted(row)
        else:
            self._uncounted.conclude(row.step, self._taken.get("weights"))
        self._snapshot(always=True)
        self._instrument.conclude(row.step)
        made = row.step > self._first or self._resume_point is not None
        self._finish("complete" if made else "interrupted")

    @property
    def notes(self) -> list[str]:
        """What this run does not record, or records in another way, and why: one sentence each."""
        return list(self._instrument.notes)

    def note(self, sentence: str) -> None:
        """Put a sentence about this run into its notes, and warn of it."""
        self._open()
        if sentence not in self._instrument.notes:
            self._instrument.notes.append(sentence)
        self._tell(stacklevel=4)

    # Events.

    def _exhausted(self) -> None:
        self._settled, self._ending = len(self._delivered), bool(self._delivered)
        if not self._ending:
            self.end_epoch()

    def _deliver(self, ids: np.ndarray | None) -> None:
        self._open()
        if self._ending:
            self.end_epoch()
        self._delivered.append(ids)
        self._uncounted.batches += 1

    # Between two updates the caches forget all this, so what runs at each of them is kept short.

    def _updated(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        refuse_capture()
        overflow = found_overflow(optimizer)
        self._update(0.0 if overflow is None else number("skipped", overflow))

    def _update(self, overflow: Number = 0.0) -> None:
        row = self._open()
        if self._backlog.add(row):
            self._write_rows()
        if row.step == self._first and "loss" in row.scalars:
            self.note(EARLY_LOSS)
        self._uncounted.count(row.step, by_hand=self._updates.given is None)
        self._row = row = Row(row.step + 1, self._epoch + 1, self._updates.rates, self._ahead, overflow)
        self._ahead = {}
        if self._uncounted.prefetched(len(self._delivered)) and len(self._updates.optimizers) < 2:
            self._warn_once(PREFETCH, row.step)
        if self._delivered:
            known = [ids for ids in self._delivered if ids is not None]
            row.ids = np.concatenate(known) if len(known) == len(self._delivered) else None
            self._delivered.clear()
            self._settled = 0
        if self._instrument.in_flight is not None:
            row.minibatch = self._instrument.in_flight.collect()
            self._tell(stacklevel=5)
        if row.step >= self._due:
            self._snapshot()
            self._due = min((rule.following(row.step) for rule, _ in self._clocks), default=inf)
        if self._ending:  # this update was made of the batches that were left over
            self.end_epoch()

    def _add_uncounted(self, row: Row) -> None:
        """Open a row for the state that updates nobody counted have led to."""
        self._backlog.add(row)
        self._row = Row(row.step + 1, self._epoch + 1, self._updates.rates, self._ahead)
        self._ahead = {}
        self._delivered.clear()
        self._uncounted.loading.forget()
        self.note(LAST.format(step=row.step + 1, before=row.step))

    def _snapshot(self, always: bool = False) -> None:
        row = self._open()
        epoch_end = row.epoch if row.epoch == self._epoch else 0
        clocks = [streams for rule, streams in self._clocks if always or rule.due(row.step, epoch_end)]
        if not clocks:
            return
        due = {stream for streams in clocks for stream in streams if self._taken.get(stream) != row.step}
        if due and (always or self._budget.allows(row.step, due)):
            self._take(due, always)
            self._tell(stacklevel=6)

    def _take(self, due: set[str], always: bool = True) -> None:
        row, writer = self._open(), self._writer_in_use()
        self._write_rows()  # a commit holds whole steps, so what is closed goes before what is not
        self._taken |= dict.fromkeys(due, row.step)
        self._budget.taken(row.step, due)
        with self._budget.measured(due, always), unseen():
            epoch_end = 0 < row.epoch == self._epoch
            self._begun = row.step
            try:
                self._instrument.snapshot(writer, due, row.step, epoch_end, last=always and row.step > 0)
            except BaseException:
                writer.rewind()  # a part of a snapshot is none
                raise

    def _write_rows(self, wait: bool = False) -> None:
        writer = self._writer_in_use()
        none_left = self._backlog.hand_over(writer, self._instrument.in_flight, wait)
        if none_left and self._begun <= self._backlog.ended:  # else the row of a snapshot is still open
            writer.commit()

    def _finish(self, state: Literal["complete", "interrupted"]) -> None:
        with unseen():
            self._end(state)
        self._tell(stacklevel=4)

    def _end(self, state: Literal["complete", "interrupted"]) -> None:
        atexit.unregister(self.__exit__)
        self._updates.stop()
        self._uncounted.loading.stop()
        if self._instrument.in_flight is not None:
            self._instrument.in_flight.detach()
        writer, point, row = self._writer_in_use(), self._resume_point, self._row
        self._row = None
        try:
            if row is not None:
                # A loss is of an update that was not made.
                new = self._ahead.keys() - row.scalars.keys() - {"loss"}
                late = {name: self._ahead[name] for name in new}
                written = row.step <= self._backlog.written
                row.scalars |= late
                self._backlog.add(row)
                self._write_rows(wait=True)
                if written and late:
                    writer.amend(row.step, {name: read(value) for name, value in late.items()})
            before, gaps = ([], []) if point is None else (point.notes, point.gaps)
            notes = [*before, *(note for note in self._instrument.notes if note not in before)]
            writer.attributes("", {"notes": notes, "gaps": [*gaps, *self._budget.gaps]})
        except BaseException:
            state = "interrupted"
            raise
        finally:
            writer.close(state=state)

    def _tell(self, stacklevel: int) -> None:
        notes = self._instrument.notes
        while self._told < len(notes):
            note, self._told = notes[self._told], self._told + 1
            if note not in self._instrument.announced:
                warnings.warn(note, RecordWarning, stacklevel=stacklevel)

    def _warn_once(self, sentence: str, step: int) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            warnings.warn(sentence.format(step=step), RecordWarning, stacklevel=5)

    def _open(self) -> Row:
        if self._row is None:
            raise RecordError(NOT_OPEN)
        return self._row

    def _writer_in_use(self) -> Writer:
        if self._writer is None:
            raise RecordError(NOT_OPEN)
        return self._writer
