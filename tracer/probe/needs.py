"""What a probe pass takes, from sizes alone: bytes by what takes them, and operations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tracer.gradients.sketch import WORKING
from tracer.probe.memory import COPIES, MINIBATCHES, WEIGHTS, gradient_mode, object_bytes, unfinished_bytes

_ROW = 10**6  # what running one row costs beside its operations
_PRODUCTS = 3  # matrices of inner products, float64, that are made on the way to one
_BACKWARD = 3  # forward passes that a forward and a backward pass are worth

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

    stream: bytes of each array of a stream of one probe with so many examples. exact, sketch: bytes of the exact
    gradients of an example, and of their sketches. gradients: as asked for ("auto", "exact", ...). gram: bytes of the
    inner products of n examples. flight: bytes of an example that goes through, with gradients and without. padded:
    examples that always go through together, or 0. held: bytes of an example's gradients of each unit of parameters, in
    the order of the rows. chunks: examples of a chunk with gradients, and without. weights: bytes of the model's
    tensors. work: None where it is not known. memory: bytes that the pass may use. beside: bytes of these that
    columns of `minibatch=` take.
    """

    stream: Callable[[str, int], Sequence[int]]
    exact: int
    sketch: int
    gradients: str
    gram: Callable[[int], int]
    flight: tuple[int, int]
    padded: int
    held: Mapping[Names, int]
    chunks: tuple[int, int]
    weights: int
    work: Work | None
    memory: int
    beside: int = 0

    def parts(self, counts: Counts) -> dict[str, int]:
        """Bytes by what takes them, but for gradients on their way to inner products."""
        arrays, n, shared = self.arrays(counts), self.n_gradients(counts), self.object_bytes(counts)
        parts = {
            name: sum(size + unfinished_bytes(size, shared) for size in sizes)
            for name, sizes in arrays.items()
        }
        # One array waits to be written while the others are there; more of them only where there is room.
        parts[COPIES] = max(self.weights, *map(sum, arrays.values())) if arrays else self.weights
        parts[WEIGHTS] = unfinished_bytes(self.weights, shared)
        parts[MINIBATCHES] = self.beside
        most = max((max(taken.values(), default=0) for taken in counts.values()), default=0)
        largest = max((taken.get("gradients", 0) for taken in counts.values()), default=0)
        backward, forward = self.flight
        with_gradients = max(min(self.chunks[0], largest), self.padded if largest else 0)
        flight = max(backward * with_gradients, forward * max(min(self.chunks[1], most), self.padded))
        parts[IN_FLIGHT] = flight + (WORKING if self.gradients == "sketch" else _PRODUCTS * 8 * n * n)
        return parts

    def object_bytes(self, counts: Counts) -> int:
        """Bytes of an object that snapshots of an array share, at most."""
        return object_bytes([self.weights, *chain(*self.arrays(counts).values())], self.memory)

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
            mode, _ = gradient_mode(self.gradients, n * self.exact)
            each = {"exact": self.exact, "sketch": self.sketch}.get(mode, 0)
            arrays["gradients"] = [
                taken["gradients"] * each for taken in counts.values() if "gradients" in taken
            ]
            if self.gradients != "sketch":
                arrays["inner products of gradients"] = [self.gram(n)]
        return arrays

    def n_gradients(self, counts: Counts) -> int:
        """Examples with gradients."""
        return sum(taken.get("gradients", 0) for taken in counts.values())

    def passes(self, counts: Counts) -> int:
        """Chunks with gradients."""
        return sum(-(-taken.get("gradients", 0) // self.chunks[0]) for taken in counts.values())

    def holds(self, counts: Counts) -> bool:
        """Whether gradients wait for those of other chunks; else each is used at once and let go."""
        return self.gradients != "sketch" and self.passes(counts) > 1

    def groups(self, counts: Counts) -> list[list[Names]] | None:
        """Units whose gradients are held at a time, one backward pass each, last ones first; None: none fit."""
        n = self.n_gradients(counts)
        free = self.memory - sum(self.parts(counts).values())
        if free < 0:
            return None
        if not self.holds(counts):
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
        held = self.n_gradients(counts) * sum(self.held.values()) if self.holds(counts) else 0
        return sum(self.parts(counts).values()) + held
