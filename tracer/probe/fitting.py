"""How many examples a snapshot takes where nobody said: what fits into memory, and into a few training steps.

Everything follows from sizes, never from a clock, so the same model and probes always give the same archive.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from tracer.errors import RecordError, byte_size
from tracer.probe.memory import COPIES, EXACT_LIMIT
from tracer.probe.needs import IN_FLIGHT, Counts, Names, Needs

if TYPE_CHECKING:
    from tracer.probe import Probe

COST = 5.0  # training steps that a snapshot takes at most by default
FREE = 10**10  # operations that any snapshot may take: about a tenth of a second
_SHARE = 4  # the part of the memory that a stream other than gradients takes at most by default
_WEIGHTS = 1.5  # bytes of a snapshot's probes by default: so many times those of the weights,
_LEAST = 6 << 20  # or this many
_GRADIENTS = 2 / 3  # of these bytes those of exact gradients
_FEWEST = {"gradients": 16, "masks": 64}  # examples that are taken even where they are more bytes
_BATCH = 64  # examples of a training step;
_TARGETS, _SEQUENCES = 1024, 8  # where each has many targets, so many of these, and at least 8 examples


@dataclass
class Fitted:
    """What a snapshot takes. counts: by probe and stream. groups: of units, one backward pass each.

    room: bytes of the memory that are left for copies that wait to be written. shared: bytes of an object that
    snapshots of an array share, at most. gradients: as asked for, or "sketch" where that was chosen, and why.
    """

    counts: Counts
    groups: list[list[Names]]
    room: int
    shared: int
    gradients: tuple[str, str]
    notes: list[str] = field(default_factory=list)


def fit(probes: "Mapping[str, Probe]", streams: Collection[str], needs: Needs, cost: float = COST) -> Fitted:
    """Fit what was not asked for into the memory and into `cost` training steps.

    First streams other than gradients, then layers in groups (which changes no number), then fewer examples with
    gradients. RecordError where what was asked for does not fit, with numbers that would.
    """
    if needs.gradients != "auto":
        return _Fitting(probes, streams, needs, cost).run()
    fitted, few, refusal = None, 0, None
    try:
        fitted = _Fitting(probes, streams, needs, cost).run()
        few = _gradients(fitted.counts)
    except RecordError as error:
        refusal = error
    if few >= _FEWEST["gradients"]:
        return fitted  # type: ignore[return-value]
    try:
        sketched = _Fitting(probes, streams, replace(needs, gradients="sketch"), cost).run()
    except RecordError as error:
        if fitted is None:
            raise refusal or error from None
        return fitted
    more = _gradients(sketched.counts)
    if fitted is not None and more < max(1, 2 * few):
        return fitted
    why = f"inner products leave room for gradients of {few} examples of a probe, sketches for {more}"
    note = f"Gradients are kept as sketches: {why}; gradients='gram' has exact inner products all the same."
    return replace(sketched, gradients=("sketch", why), notes=[*sketched.notes, note])


def _gradients(counts: Counts) -> int:
    """Examples with gradients, of the probe that has most."""
    return max((taken.get("gradients", 0) for taken in counts.values()), default=0)


def batch_of(probe: "Probe") -> int:
    """Examples of a training step, where nobody said: 64, or sequences of 1,024 targets, at least 8."""
    targets = probe.targets
    shape = getattr(targets, "shape", ())
    if targets is None or len(shape) < 2 or targets.is_floating_point():
        return _BATCH
    return max(_SEQUENCES, min(_BATCH, _TARGETS // max(1, targets[0].numel())))


class _Fitting:
    def __init__(
        self,
        probes: "Mapping[str, Probe]",
        streams: Collection[str],
        needs: Needs,
        cost: float,
    ) -> None:
        self._needs, self._cost = needs, cost
        self._asked = {name: probe.asked for name, probe in probes.items()}
        self.counts: Counts = {
            name: {stream: probe.taken(stream) for stream in streams if probe.taken(stream)}
            for name, probe in probes.items()
        }
        self._wanted = {name: dict(taken) for name, taken in self.counts.items()}
        work = needs.work
        self._limit = None if work is None else max(FREE, cost * work.step)

    def run(self) -> Fitted:
        reasons = [
            *self._stage(
                self._share, f"more would take over a quarter of memory={byte_size(self._needs.memory)}"
            ),
            *self._stage(self._lighten, f"more would take over {byte_size(self._light)} a snapshot"),
            *self._stage(self._hasten, f"more would take longer than {self._cost:g} training steps"),
        ]
        needed = byte_size(self._needs.total(self.counts), at_least=True)
        reasons += self._stage(self._hold, f"more would take memory={needed}")
        groups = self._needs.groups(self.counts)
        if groups is None:
            raise self._refusal()
        notes = self._notes(", ".join(reasons))
        if len(groups) > 1:
            held = byte_size(self._needs.total(self.counts), at_least=True)
            notes.append(
                f"Gradients are taken in {len(groups)} groups of layers, a backward pass each, with the same result: "
                f"one pass would take memory={held}."
            )
        shared = self._needs.object_bytes(self.counts)
        return Fitted(self.counts, groups, self._room(groups), shared, (self._needs.gradients, ""), notes)

    def _room(self, groups: list[list[Names]]) -> int:
        needs, parts = self._needs, self._needs.parts(self.counts)
        held = (
            max(sum(needs.held[names] for names in group) for group in groups)
            if needs.holds(self.counts)
            else 0
        )
        return (
            self._needs.memory - sum(parts.values()) - needs.n_gradients(self.counts) * held + parts[COPIES]
        )

    def _stage(self, lower: Callable[[], None], why: str) -> list[str]:
        """The reason, where a stage lowers anything."""
        before = self.counts
        lower()
        return [why] if self.counts != before else []

    def _share(self, share: int = _SHARE) -> None:
        most = self._needs.memory // share
        for stream in self._others():
            self._cap([stream], partial(self._within, stream, most))

    def _within(self, stream: str, most: int, counts: Counts) -> bool:
        """Whether a stream takes at most so many bytes."""
        return self._bytes(counts, stream) <= most

    def _hasten(self) -> None:
        if self._quick(self.counts):
            return
        before = self.counts
        self._cap(["gradients"], self._quick)
        half = self._capped(before, ["gradients"], self._half)
        if self._needs.n_gradients(half) > self._needs.n_gradients(self.counts):
            self.counts = half
        self._cap(self._others(), self._quick)

    def _hold(self) -> None:
        """Fewer examples with gradients; where that leaves less than two of a probe, less of the other streams too."""
        if self._fits(self.counts):
            return
        before, best = self.counts, -1
        n = self._needs.n_gradients
        enough = sum(min(2, taken.get("gradients", 0)) for taken in before.values())
        for share in (_SHARE << k for k in range(5)):
            tried, self.counts = self.counts, before
            self._share(share)
            self._cap(["gradients"], self._fits)
            if not self._fits(self.counts) or n(self.counts) <= best:
                self.counts = tried
            best = n(self.counts) if self._fits(self.counts) else -1
            if best >= enough:
                return

    @property
    def _light(self) -> int:
        return max(_LEAST, int(_WEIGHTS * self._needs.weights))

    def _lighten(self) -> None:
        """Gradients, then masks, to what a snapshot's probes take beside the weights."""
        needs, before = self._needs, self.counts
        fewest = {
            name: {"gradients": min(_FEWEST["gradients"], n.get("gradients", 0))}
            for name, n in before.items()
        }
        kept = needs.gradients == "exact" or (
            needs.gradients == "auto" and needs.n_gradients(fewest) * needs.exact <= EXACT_LIMIT
        )
        if kept:
            most = _GRADIENTS * self._light / max(1, needs.exact)
            self._cap(["gradients"], lambda counts: needs.n_gradients(counts) <= most, _FEWEST["gradients"])
        self._cap(["masks"], lambda counts: self._snapshot_bytes(counts) <= self._light, _FEWEST["masks"])

    def _snapshot_bytes(self, counts: Counts) -> int:
        return sum(map(sum, self._needs.arrays(counts).values()))

    def _others(self) -> list[str]:
        """Streams other than gradients."""
        streams = dict.fromkeys(stream for taken in self.counts.values() for stream in taken)
        return [stream for stream in streams if stream != "gradients"]

    def _bytes(self, counts: Counts, stream: str) -> int:
        return sum(sum(self._needs.stream(stream, taken.get(stream, 0))) for taken in counts.values())

    def _quick(self, counts: Counts, groups: int = 1) -> bool:
        """Whether what was not asked for stays within the time."""
        asked = {
            name: {s: n for s, n in taken.items() if s in self._asked[name]} for name, taken in counts.items()
        }
        extra = self._needs.cost(counts, groups) - self._needs.cost(asked, groups)
        return self._limit is None or extra <= self._limit

    def _half(self, counts: Counts) -> bool:
        """Whether gradients alone take at most half of the time."""
        only = {name: {"gradients": taken.get("gradients", 0)} for name, taken in counts.items()}
        return self._needs.cost(only) <= (self._limit or 0) / 2

    def _fits(self, counts: Counts) -> bool:
        groups = self._needs.groups(counts)
        return groups is not None and (len(groups) == 1 or self._quick(counts, len(groups)))

    def _cap(self, streams: Sequence[str], fits: Callable[[Counts], bool], least: int = 0) -> None:
        self.counts = self._capped(self.counts, streams, fits, least)

    def _capped(
        self, counts: Counts, streams: Sequence[str], fits: Callable[[Counts], bool], least: int = 0
    ) -> Counts:
        """The same with fewer examples of streams that were not asked for, as many as fit."""
        free = [
            (name, stream)
            for name, taken in counts.items()
            for stream in streams
            if stream in taken and stream not in self._asked[name]
        ]
        most = max((counts[name][stream] for name, stream in free), default=0)
        tried = counts
        for cap in _numbers(most, 4 if list(streams) == ["gradients"] else 8):
            if cap < least:
                break
            tried = {name: dict(taken) for name, taken in counts.items()}
            for name, stream in free:
                tried[name][stream] = min(cap, counts[name][stream])
            if fits(tried):
                break
        return {name: {s: n for s, n in taken.items() if n} for name, taken in tried.items()}

    def _notes(self, why: str) -> list[str]:
        """One sentence for each number of examples that streams take less than usual."""
        fewer: dict[tuple[int, int], list[str]] = {}
        for name, taken in self._wanted.items():
            for stream, usual in taken.items():
                if (now := self.counts[name].get(stream, 0)) < usual:
                    streams = fewer.setdefault((now, usual), [])
                    streams += [stream] if stream not in streams else []
        notes = []
        for (now, usual), streams in fewer.items():
            capture = ", ".join(f"{stream!r}: {usual}" for stream in streams)
            notes.append(
                f"{' and '.join(streams).capitalize()} of {now} examples of a probe are recorded, not of {usual}: "
                f"{why}; ask for them with tracer.Probe(..., capture={{{capture}}})."
            )
        return notes

    def _refusal(self) -> RecordError:
        parts, needed = self._needs.parts(self.counts), self._needs.total(self.counts)
        held = needed - sum(parts.values())
        if held:
            parts["gradients on their way to inner products"] = held
        largest = max(parts, key=lambda name: parts[name])
        stream = "gradients" if "gradients" in largest or largest == IN_FLIGHT else largest.partition(" ")[0]
        enough = byte_size(needed, at_least=True)
        return RecordError(
            f"one snapshot of the probes takes {enough}, more than memory={byte_size(self._needs.memory)}; most of it, "
            f"{byte_size(parts[largest])}, is {largest}: lower its capture{self._hint(stream)}{self._sketched()}, or "
            f"raise memory= to {enough!r}"
        )

    def _sketched(self) -> str:
        """That sketches would fit, where something else was asked for."""
        fits = replace(self._needs, gradients="sketch").groups(self.counts) is not None
        return (
            ", take gradients='sketch', with which all fit"
            if self._needs.gradients != "sketch" and fits
            else ""
        )

    def _hint(self, stream: str) -> str:
        """How many examples of a stream would fit."""
        counts = [taken.get(stream, 0) for taken in self.counts.values()]
        for cap in _numbers(max(counts, default=0)):
            fewer = {
                name: {s: min(cap, n) if s == stream else n for s, n in taken.items()}
                for name, taken in self.counts.items()
            }
            if self._needs.groups(fewer) is not None:
                return f" ({cap} examples of each probe would fit)"
        return ""


def _numbers(most: int, by: int = 8) -> list[int]:
    """Numbers of examples to try, downwards: multiples as long as there are several, then fewer.

    >>> _numbers(20)
    [20, 16, 8, 4, 2, 1, 0]
    """
    return [most, *range((most - 1) // by * by, by - 1, -by), *(n for n in (4, 2, 1, 0) if n < min(by, most))]
