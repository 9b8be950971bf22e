"""How many examples a snapshot takes where nobody said: what fits into memory, and into a few training steps.

Everything follows from sizes, never from a clock, so the same model and probes always give the same archive.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tracer.errors import RecordError, byte_size
from tracer.probe.memory import COPIES, EXACT_LIMIT, WEIGHTS, gradient_mode, unfinished_bytes

if TYPE_CHECKING:
    from tracer.probe import Probe

COST = 5.0  # training steps that a snapshot takes at most by default
_FREE = 10**10  # operations that any snapshot may take: about a tenth of a second
_ROW = 10**6  # what running one row costs beside its operations
_PRODUCTS = 3  # matrices of inner products, float64, that are made on the way to one
_BACKWARD = 3  # forward passes that a forward and a backward pass are worth
_SHARE = 4  # the part of the memory that a stream other than gradients takes at most by default
_WEIGHTS = 1.5  # bytes of a snapshot's probes by default: so many times those of the weights,
_LEAST = 6 << 20  # or this many
_GRADIENTS = 2 / 3  # of these bytes those of exact gradients
_FEWEST = {"gradients": 16, "masks": 64}  # examples that are taken even where they are more bytes
_BATCH = 64  # examples of a training step;
_TARGETS, _SEQUENCES = 1024, 8  # where each has many targets, so many of these, and at least 8 examples

IN_FLIGHT = "the examples in flight (chunk)"

Counts = dict[str, dict[str, int]]  # probe: stream: examples
Names = tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """What passes cost: operations of one example's forward pass, rows, and examples of a training step."""

    example: int
    rows: int
    batch: int

    @property
    def step(self) -> int:
        """Operations of a training step."""
        return _BACKWARD * (self.example * self.batch + self.rows * _ROW)

    def snapshot(self, forward: int, backward: int, chunks: int, groups: int) -> int:
        """Operations of a snapshot: `forward` examples, `backward` of them with gradients, in so many groups."""
        each = backward * self.example + chunks * self.rows * _ROW
        return (forward - backward) * self.example + self.rows * _ROW + each * (_BACKWARD * groups + 1)


@dataclass(frozen=True)
class Needs:
    """What a probe pass takes, from sizes.

    stream: bytes of each array of a stream of one probe with so many examples. exact: bytes of the exact gradients of
    an example. gradients: as asked for ("auto", "exact", ...). gram: bytes of the inner products of n examples. flight:
    bytes of an example that goes through, with gradients and without. padded: examples that always go through
    together, or 0. held: bytes of an example's gradients of each unit of parameters, in the order of the rows. chunks:
    examples of a chunk with gradients, and without. weights: bytes of the model's tensors. work: None where it is not
    known. shared: bytes that wait until their object is full, of an array of so many a snapshot.
    """

    stream: Callable[[str, int], Sequence[int]]
    exact: int
    gradients: str
    gram: Callable[[int], int]
    flight: tuple[int, int]
    padded: int
    held: Mapping[Names, int]
    chunks: tuple[int, int]
    weights: int
    work: Work | None
    shared: Callable[[int], int] = unfinished_bytes

    def parts(self, counts: Counts) -> dict[str, int]:
        """Bytes by what takes them, but for gradients on their way to inner products."""
        arrays = self.arrays(counts)
        parts = {name: sum(map(self.shared, sizes)) + sum(sizes) for name, sizes in arrays.items()}
        # One array waits to be written while the others are there; more of them only where there is room.
        parts[COPIES] = max(self.weights, *map(sum, arrays.values())) if arrays else self.weights
        parts[WEIGHTS] = self.shared(self.weights)
        most = max((max(taken.values(), default=0) for taken in counts.values()), default=0)
        largest = max((taken.get("gradients", 0) for taken in counts.values()), default=0)
        backward, forward = self.flight
        with_gradients = max(min(self.chunks[0], largest), self.padded if largest else 0)
        flight = max(backward * with_gradients, forward * max(min(self.chunks[1], most), self.padded))
        parts[IN_FLIGHT] = flight + _PRODUCTS * 8 * self.n_gradients(counts) ** 2
        return parts

    def arrays(self, counts: Counts) -> dict[str, Sequence[int]]:
        """Bytes of the arrays of a snapshot, but for weights, by what they hold."""
        arrays = {
            f"{stream} of probe {name!r}": self.stream(stream, count)
            for name, taken in counts.items()
            for stream, count in taken.items()
            if stream != "gradients"
        }
        n = self.n_gradients(counts)
        if n:
            exact = gradient_mode(self.gradients, n * self.exact)[0] == "exact"
            each = [taken["gradients"] * self.exact for taken in counts.values() if "gradients" in taken]
            arrays["gradients"] = each if exact else []
            arrays["inner products of gradients"] = [self.gram(n)]
        return arrays

    def n_gradients(self, counts: Counts) -> int:
        """Examples with gradients."""
        return sum(taken.get("gradients", 0) for taken in counts.values())

    def passes(self, counts: Counts) -> int:
        """Chunks with gradients."""
        return sum(-(-taken.get("gradients", 0) // self.chunks[0]) for taken in counts.values())

    def groups(self, counts: Counts, memory: int) -> list[list[Names]] | None:
        """Units whose gradients are held at a time, one backward pass each, last ones first; None: none fit."""
        n = self.n_gradients(counts)
        free = memory - sum(self.parts(counts).values())
        if free < 0:
            return None
        if self.passes(counts) < 2:  # each is used at once and let go
            return [list(self.held)]
        groups: list[list[Names]] = [[]]
        taken = 0
        for names in reversed(list(self.held)):
            size = n * self.held[names]
            if size > free:
                return None
            if taken + size > free:
                groups.append([])
                taken = 0
            groups[-1].append(names)
            taken += size
        return groups

    def cost(self, counts: Counts, groups: int = 1) -> int:
        """Operations of a snapshot, 0 where they are not known."""
        if self.work is None:
            return 0
        forward = sum(max(taken.values(), default=0) for taken in counts.values())
        return self.work.snapshot(forward, self.n_gradients(counts), self.passes(counts), groups)

    def total(self, counts: Counts) -> int:
        """Bytes with all gradients held at once."""
        several = self.passes(counts) > 1
        held = self.n_gradients(counts) * sum(self.held.values()) if several else 0
        return sum(self.parts(counts).values()) + held


@dataclass
class Fitted:
    """What a snapshot takes. counts: by probe and stream. groups: of units, one backward pass each.

    room: bytes of the memory that are left for copies that wait to be written.
    """

    counts: Counts
    groups: list[list[Names]]
    room: int
    notes: list[str] = field(default_factory=list)


def fit(
    probes: "Mapping[str, Probe]", streams: Collection[str], needs: Needs, memory: int, cost: float = COST
) -> Fitted:
    """Fit what was not asked for into `memory` bytes and into `cost` training steps.

    First streams other than gradients, then layers in groups (which changes no number), then fewer examples with
    gradients. RecordError where what was asked for does not fit, with numbers that would.
    """
    return _Fitting(probes, streams, needs, memory, cost).run()


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
        memory: int,
        cost: float,
    ) -> None:
        self._needs, self._memory, self._cost = needs, memory, cost
        self._asked = {name: probe.asked for name, probe in probes.items()}
        self.counts: Counts = {
            name: {stream: probe.taken(stream) for stream in streams if probe.taken(stream)}
            for name, probe in probes.items()
        }
        self._wanted = {name: dict(taken) for name, taken in self.counts.items()}
        work = needs.work
        self._limit = None if work is None else max(_FREE, cost * work.step)

    def run(self) -> Fitted:
        reasons = [
            *self._stage(self._share, f"more would take over a quarter of memory={byte_size(self._memory)}"),
            *self._stage(self._lighten, f"more would take over {byte_size(self._light)} a snapshot"),
            *self._stage(self._hasten, f"more would take longer than {self._cost:g} training steps"),
        ]
        needed = byte_size(self._needs.total(self.counts))
        reasons += self._stage(self._hold, f"more would take memory={needed}")
        groups = self._needs.groups(self.counts, self._memory)
        if groups is None:
            raise self._refusal()
        notes = self._notes(", ".join(reasons))
        if len(groups) > 1:
            held = byte_size(self._needs.total(self.counts))
            notes.append(
                f"Gradients are taken in {len(groups)} groups of layers, a backward pass each, with the same result: "
                f"one pass would take memory={held}."
            )
        return Fitted(self.counts, groups, self._room(groups), notes)

    def _room(self, groups: list[list[Names]]) -> int:
        needs, parts = self._needs, self._needs.parts(self.counts)
        several = needs.passes(self.counts) > 1
        held = max(sum(needs.held[names] for names in group) for group in groups) if several else 0
        return self._memory - sum(parts.values()) - needs.n_gradients(self.counts) * held + parts[COPIES]

    def _stage(self, lower: Callable[[], None], why: str) -> list[str]:
        """The reason, where a stage lowers anything."""
        before = self.counts
        lower()
        return [why] if self.counts != before else []

    def _share(self, share: int = _SHARE) -> None:
        for stream in self._others():
            self._cap([stream], lambda counts, s=stream: self._bytes(counts, s) <= self._memory // share)  # type: ignore[misc]

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
        groups = self._needs.groups(counts, self._memory)
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
        hint = self._hint("gradients" if "gradients" in largest else largest.partition(" ")[0])
        return RecordError(
            f"one snapshot of the probes takes {byte_size(needed)}, more than memory={byte_size(self._memory)}; most "
            f"of it, {byte_size(parts[largest])}, is {largest}: lower its capture or raise memory={hint}"
        )

    def _hint(self, stream: str) -> str:
        """How many examples of a stream would fit."""
        counts = [taken.get(stream, 0) for taken in self.counts.values()]
        for cap in _numbers(max(counts, default=0)):
            fewer = {
                name: {s: min(cap, n) if s == stream else n for s, n in taken.items()}
                for name, taken in self.counts.items()
            }
            if self._needs.groups(fewer, self._memory) is not None:
                return f" ({cap} examples of each probe would fit)"
        return ""


def _numbers(most: int, by: int = 8) -> list[int]:
    """Numbers of examples to try, downwards: multiples as long as there are several, then fewer.

    >>> _numbers(20)
    [20, 16, 8, 4, 2, 1, 0]
    """
    return [most, *range((most - 1) // by * by, by - 1, -by), *(n for n in (4, 2, 1, 0) if n < min(by, most))]
