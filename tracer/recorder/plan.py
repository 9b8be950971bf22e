"""`run.plan()`: what a recording will take, in bytes, files and time, before training starts."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from tracer.announce import announce
from tracer.errors import RecordError, byte_size, rounded
from tracer.probe import ProbePass, fitting
from tracer.recorder.device import fetched
from tracer.recorder.isolation import unseen
from tracer.schedule import Schedule
from tracer.spec import STREAMS, snapshot_rows, stream_of


@dataclass(frozen=True)
class Share:
    """One stream: bytes of a snapshot, snapshots in a file of each of its arrays, and those planned (None: open)."""

    stream: str
    bytes: int
    rows: tuple[int, ...]
    snapshots: int | None

    @property
    def files(self) -> int:
        """Files of all planned snapshots; of one where their number is open."""
        return sum(-(-(1 if self.snapshots is None else self.snapshots) // rows) for rows in self.rows)


@dataclass(frozen=True)
class Plan:
    """What a recording takes; prints as a table. Ids and scalars come on top: some tens of bytes an update.

    bytes, files, seconds: in total, None where the number of steps was not given. snapshot_seconds: measured,
    for one snapshot of all streams.
    """

    shares: tuple[Share, ...]
    steps: int | None
    snapshot_seconds: float
    seconds: float | None

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of one snapshot of all streams."""
        return sum(share.bytes for share in self.shares)

    @property
    def bytes(self) -> int | None:
        """Bytes of all planned snapshots."""
        return None if self.steps is None else sum(s.bytes * (s.snapshots or 0) for s in self.shares)

    @property
    def files(self) -> int | None:
        """Files of all planned snapshots."""
        return None if self.steps is None else sum(share.files for share in self.shares)

    def __str__(self) -> str:
        lines = [f"{'stream':<12}{'snapshots':>10}{'bytes each':>13}{'files':>11}"]
        for share in self.shares:
            count = "-" if share.snapshots is None else f"{share.snapshots:,}"
            lines.append(f"{share.stream:<12}{count:>10}{byte_size(share.bytes):>13}{share.files:>11,}")
        lines.append(
            f"a snapshot of all streams: {byte_size(self.snapshot_bytes)}, {rounded(self.snapshot_seconds, 3)} s"
        )
        if self.steps is not None and self.seconds is not None:
            lines.append(
                f"in total over {self.steps:,} updates: {byte_size(self.bytes or 0)}, {self.files:,} files, "
                f"{rounded(self.seconds, 3)} s"
            )
        return "\n".join(lines)


class Held(Protocol):
    """What a snapshot holds."""

    @property
    def layout(self) -> Mapping[str, Mapping[str, tuple[Any, ...]]]:
        """Arrays of all streams: {group: {array: (dtype, shape, ...)}}."""

    @property
    def object_bytes(self) -> int:
        """Bytes of an object that snapshots of an array share, at most."""


def make_plan(
    schedules: Mapping[str, Schedule],
    held: Held,
    measure: Callable[[frozenset[str]], float],
    *,
    steps: int | None,
    epochs: int | None,
    steps_per_epoch: int | None,
) -> Plan:
    """The plan for `steps` updates, or `epochs` of `steps_per_epoch`.

    held: what a snapshot holds. measure: seconds that a snapshot of some streams takes.
    """
    if steps is None and epochs is not None:
        if steps_per_epoch is None:
            raise RecordError("run.plan(epochs=...) needs steps_per_epoch= too, for example len(loader).")
        steps = epochs * steps_per_epoch
    sizes: dict[str, tuple[int, tuple[int, ...]]] = dict.fromkeys(schedules, (0, ()))
    for group, arrays in held.layout.items():
        stream = stream_of(group)
        if stream in sizes:
            each = [prod(shape) * np.dtype(dtype).itemsize for dtype, shape, *_ in arrays.values()]
            rows = tuple(snapshot_rows(size, held.object_bytes)[0] for size in each if size)
            sizes[stream] = (sizes[stream][0] + sum(each), sizes[stream][1] + rows)
    sizes = {stream: size for stream, size in sizes.items() if size[1]}
    whole = measure(frozenset(sizes))
    if steps is None:
        shares = tuple(Share(stream, *size, None) for stream, size in sizes.items())
        return Plan(shares, None, whole, None)
    due = due_streams({stream: schedules[stream] for stream in sizes}, steps, steps_per_epoch)
    costs = {streams: whole if streams == frozenset(sizes) else measure(streams) for streams in due}
    shares = tuple(
        Share(stream, *size, sum(n for streams, n in due.items() if stream in streams))
        for stream, size in sizes.items()
    )
    return Plan(shares, steps, whole, sum(n * costs[streams] for streams, n in due.items()))


def announce_snapshots(
    path: str,
    layout: Mapping[str, Mapping[str, tuple[Any, ...]]],
    passes: ProbePass | None,
    notes: Iterable[str],
) -> None:
    """Say in one line what a snapshot holds, its bytes, and how long it takes by the operations counted; then notes."""
    size = byte_size(sum(_bytes_of(arrays) for arrays in layout.values()))
    if passes is None:
        announce(f"Recording into {path!r}: a snapshot takes {size}: weights.")
        return
    streams: dict[str, list[int]] = {}
    for probe in passes.probes.values():
        for stream in [s for s in STREAMS if s in passes.streams and probe.taken(s)]:
            streams.setdefault(stream, []).append(probe.taken(stream))
    held = [f"{stream} of {' + '.join(map(str, counts))}" for stream, counts in streams.items()]
    of_probes = f", {', '.join(held)} examples" if held else ""
    steps = ""
    if passes.steps is not None:
        short = passes.short and passes.steps > fitting.COST
        steps = f" and about {rounded(passes.steps)} training steps of {passes.batch} examples" + (
            ", which are short: a tenth of a second at most" if short else ""
        )
    announce(f"Recording into {path!r}: a snapshot takes {size}{steps}: weights{of_probes}.")
    for note in notes:
        announce(note)


def _bytes_of(arrays: Mapping[str, tuple[Any, ...]]) -> int:
    return sum(prod(shape) * np.dtype(dtype).itemsize for dtype, shape, *_ in arrays.values())


def seconds_of(take: Callable[[frozenset[str]], Mapping[str, Any]], streams: frozenset[str]) -> float:
    """How long it takes to observe these streams and have them off their device."""
    started = time.perf_counter()
    with unseen():
        fetched(take(streams))
    return time.perf_counter() - started


def due_streams(
    schedules: Mapping[str, Schedule], steps: int, steps_per_epoch: int | None
) -> dict[frozenset[str], int]:
    """How often which streams are due together, from step 0 to the last."""
    due: dict[frozenset[str], int] = {}
    for step in range(steps + 1):
        epoch, within = divmod(step, steps_per_epoch) if steps_per_epoch else (0, 0)
        always = step in (0, steps)
        streams = frozenset(
            stream for stream, s in schedules.items() if s.due(step, 0 if within else epoch) or always
        )
        if streams:
            due[streams] = due.get(streams, 0) + 1
    return due
