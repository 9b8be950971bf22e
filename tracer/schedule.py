"""When a stream is recorded: `every(100) | epochs()`, `log_spaced()`, `at([10, 50])`.

Step 0 and, where training ends without an error, the last step are always recorded, whatever the schedule.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from tracer.errors import RecordError, did_you_mean
from tracer.spec import STREAMS


@dataclass(frozen=True)
class Schedule:
    """A rule that says at which steps a stream is recorded; joined with `|`.

    `repr` is the expression that makes it, which is also how archives store it. `following(step)`: no step between
    that one and this is due, unless it ends an epoch; `inf` where no later one is.
    """

    expression: str
    rule: Callable[[int, bool], bool]
    make: "Callable[[], Schedule] | None" = None
    following: Callable[[int], float] = lambda step: step + 1

    def due(self, step: int, epoch_end: bool = False) -> bool:
        """Whether the state after update `step` is recorded; `epoch_end`: that update ended an epoch."""
        return self.rule(step, epoch_end)

    def renewed(self) -> "Schedule":
        """The same rule with nothing counted yet: a schedule may be given to several runs."""
        return self if self.make is None else self.make()

    def __or__(self, other: "Schedule") -> "Schedule":
        first, second = self.rule, other.rule
        counting = self.make or other.make
        return Schedule(
            f"{self.expression} | {other.expression}",
            # Both are asked: one that counts epochs has to see each of them.
            lambda step, epoch_end: any([first(step, epoch_end), second(step, epoch_end)]),
            (lambda: self.renewed() | other.renewed()) if counting else None,
            lambda step: min(self.following(step), other.following(step)),
        )

    def __repr__(self) -> str:
        return self.expression


def every(k: int) -> Schedule:
    """Every k-th step: k, 2k, ...

    >>> [step for step in range(7) if every(3).due(step)]
    [3, 6]
    """
    if not isinstance(k, int) or k < 1:
        raise RecordError(f"every(k): k is {k!r}, expected a whole number of steps, at least 1.")
    return Schedule(
        f"every({k})",
        lambda step, epoch_end: step > 0 and step % k == 0,
        following=lambda step: step - step % k + k,
    )


def at(steps: Iterable[int]) -> Schedule:
    """The steps given.

    >>> at([5, 2])
    at([2, 5])
    """
    chosen = sorted({int(step) for step in steps})
    if chosen and chosen[0] < 0:
        raise RecordError(f"at(steps): step {chosen[0]} is negative; steps count from 0, the initialisation.")
    known, ends = frozenset(chosen), [*chosen, inf]
    return Schedule(
        f"at({chosen})",
        lambda step, epoch_end: step in known,
        following=lambda step: ends[bisect_right(chosen, step)],
    )


def epochs(every: int = 1) -> Schedule:
    """The end of each epoch, or of every `every`-th epoch counted as they end."""
    if not isinstance(every, int) or every < 1:
        raise RecordError(f"epochs(every): every is {every!r}, expected a whole number, at least 1.")
    if every == 1:
        return Schedule("epochs()", lambda step, epoch_end: epoch_end, following=lambda step: inf)
    ends: list[int] = []

    def rule(step: int, epoch_end: bool) -> bool:
        if epoch_end and step not in ends:
            ends.append(step)
        return epoch_end and len(ends) % every == 0

    return Schedule(f"epochs({every})", rule, lambda: epochs(every), lambda step: inf)


def log_spaced() -> Schedule:
    """Steps 1, 2, 4, 8, ...: dense where a network changes most.

    >>> [step for step in range(20) if log_spaced().due(step)]
    [1, 2, 4, 8, 16]
    """
    return Schedule(
        "log_spaced()",
        lambda step, epoch_end: step > 0 and step & (step - 1) == 0,
        following=lambda step: 1 << step.bit_length(),
    )


def by_stream(snapshots: Schedule | Mapping[str, Schedule] | None) -> dict[str, Schedule]:
    """One schedule per stream from what the user gave; the key `default` covers streams not named."""
    usual = epochs() | log_spaced()
    if snapshots is None:
        return dict.fromkeys(STREAMS, usual)
    if isinstance(snapshots, Schedule):
        return {stream: snapshots.renewed() for stream in STREAMS}
    if not isinstance(snapshots, Mapping):
        raise RecordError(
            f"snapshots is a {type(snapshots).__name__}, expected a schedule such as tracer.every(100) | "
            "tracer.epochs(), or a mapping from stream to schedule."
        )
    for name, schedule in snapshots.items():
        if name not in (*STREAMS, "default"):
            raise RecordError(f"snapshots names the stream {name!r}, {did_you_mean(name, STREAMS)}.")
        if not isinstance(schedule, Schedule):
            raise RecordError(
                f"snapshots[{name!r}] is {schedule!r}, expected a schedule such as tracer.every(100)."
            )
    default = snapshots.get("default", usual)
    return {stream: snapshots.get(stream, default).renewed() for stream in STREAMS}
