"""When a stream is recorded: `every(100) | epochs()`, `log_spaced()`, `at([10, 50])`.

Step 0 and, where training ends without an error, the last step are always recorded, whatever the schedule.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from operator import index
from typing import Any

from tracer.errors import RecordError, did_you_mean
from tracer.spec import STREAMS


@dataclass(frozen=True)
class Schedule:
    """A rule that says at which steps a stream is recorded; joined with `|`.

    `rule(step, epoch_end)`: whether the state after update `step` is recorded; `epoch_end` is the number of the epoch
    that this update ended, 0 where it ended none. It must depend on these two alone: a resumed run asks it anew.
    `repr` is the expression that makes it, which is also how archives store it. `following(step)`: no step between
    that one and this is due, unless it ends an epoch; `inf` where no later one is.

    >>> odd = Schedule("odd", lambda step, epoch_end: step % 2 == 1)
    >>> [step for step in range(7) if (odd | at([4])).due(step)]
    [1, 3, 4, 5]
    """

    expression: str
    rule: Callable[[int, int], Any]
    following: Callable[[int], float] = lambda step: step + 1

    def due(self, step: int, epoch_end: int = 0) -> bool:
        """Whether the state after update `step` is recorded; `epoch_end`: number of the epoch it ended, 0 for none."""
        return bool(self.rule(step, epoch_end))

    def __or__(self, other: "Schedule") -> "Schedule":
        if not isinstance(other, Schedule):
            raise RecordError(_NO_SCHEDULE.format(joined=f"{self} | {other!r}", other=other))
        return Schedule(
            f"{self.expression} | {other.expression}",
            lambda step, epoch_end: self.due(step, epoch_end) or other.due(step, epoch_end),
            lambda step: min(self.following(step), other.following(step)),
        )

    def __ror__(self, other: Any) -> Any:
        raise RecordError(_NO_SCHEDULE.format(joined=f"{other!r} | {self}", other=other))

    def __repr__(self) -> str:
        return self.expression


_NO_SCHEDULE = (
    "{joined}: {other!r} is no schedule, expected one such as tracer.every(100) or tracer.epochs()."
)


def every(k: int) -> Schedule:
    """Every k-th step: k, 2k, ...

    >>> [step for step in range(7) if every(3).due(step)]
    [3, 6]
    """
    n = _count("every(k): k", k)
    return Schedule(
        f"every({n})",
        lambda step, epoch_end: step > 0 and step % n == 0,
        following=lambda step: step - step % n + n,
    )


def at(steps: Iterable[int]) -> Schedule:
    """The steps given.

    >>> at([5, 2])
    at([2, 5])
    """
    try:
        given = iter(steps)
    except TypeError:
        raise RecordError(f"at(steps): steps is {steps!r}, expected several, such as [10, 50].") from None
    chosen = sorted({_step(step) for step in given})
    known, ends = frozenset(chosen), [*chosen, inf]
    return Schedule(
        f"at({chosen})",
        lambda step, epoch_end: step in known,
        following=lambda step: ends[bisect_right(chosen, step)],
    )


def epochs(every: int = 1) -> Schedule:
    """The end of each epoch, or of every `every`-th one of the run, resumed or not.

    >>> [epochs(2).due(step, epoch_end) for step, epoch_end in ((10, 1), (15, 0), (20, 2))]
    [False, False, True]
    """
    n = _count("epochs(every): every", every)
    return Schedule(
        "epochs()" if n == 1 else f"epochs({n})",
        lambda step, epoch_end: epoch_end > 0 and epoch_end % n == 0,
        following=lambda step: inf,
    )


def _count(what: str, value: Any) -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise RecordError(f"{what} is {value!r}, expected a whole number, at least 1.")
    return number


def _step(value: Any) -> int:
    number = _whole(value)
    if number is None:
        raise RecordError(f"at(steps): step {value!r} is no whole number.")
    if number < 0:
        raise RecordError(f"at(steps): step {number} is negative; steps count from 0, the initialisation.")
    return number


def _whole(value: Any) -> int | None:
    try:
        return index(value)  # of NumPy's and of tensors, too
    except TypeError:
        return None


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
        return dict.fromkeys(STREAMS, snapshots)
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
    return {stream: snapshots.get(stream, default) for stream in STREAMS}
