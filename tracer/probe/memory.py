"""How much memory a probe pass takes, and how many examples may go through together."""

from collections.abc import Sequence
from math import prod

from tracer import spec
from tracer.errors import RecordError, byte_size
from tracer.network import Network
from tracer.network.cost import last_uses
from tracer.network.table import DTYPES, Row
from tracer.ops import op

COPIES = "copies that wait to be written"
GRADIENTS = ("auto", "exact", "gram", "sketch", "none")  # ways of keeping them
WEIGHTS = "weights of snapshots that share an object"
MINIBATCHES = "columns of minibatch="
EXACT_LIMIT = 64 << 20  # bytes of exact gradients a snapshot that "auto" still keeps
_WORKING = 256 << 20  # bytes of activations and signals in flight, at most
_CACHED = 16 << 20  # bytes of activations of a forward pass: larger blocks are mapped anew each time
_ENOUGH = 64  # examples that make good use of the weights; fewer only to save memory
_UNFINISHED = 8  # the part of the memory that objects not full yet take at most
_MOST = {"gradients": 256, "forward": 1024}  # examples in a chunk


def example_bytes(network: Network) -> int:
    """Bytes of all rows' outputs for one example, views not counted."""
    return max(1, sum(map(_row_bytes, network.rows)))


def _row_bytes(row: Row) -> int:
    size = row.size(1)
    if size is None or row.dtype is None or op(row.op).may_be_view:
        return 0
    return prod(size) * DTYPES[row.dtype].itemsize


def flight_bytes(network: Network) -> tuple[int, int, int]:
    """Bytes of all rows' outputs for one example, of those alive at a time without gradients, and of the largest."""
    ends, alive, most, largest = last_uses(network.rows), 0, 0, 0
    sizes = [_row_bytes(row) for row in network.rows]
    for index, size in enumerate(sizes):
        alive += size
        most, largest = max(most, alive), max(largest, size)
        alive -= sum(sizes[over] for over in ends.get(index, ()))
    return max(1, sum(sizes)), max(1, most), largest


def chunk_sizes(network: Network, memory: int, chunk: int | None) -> tuple[int, int]:
    """Examples in a chunk with a backward pass, and in one without: both at most what a fixed table takes."""
    if chunk is not None and chunk < 1:
        raise RecordError(f"chunk={chunk}: expected a number of examples, at least 1")
    if network.batch is not None:
        limit = min(chunk or network.batch, network.batch)
        return limit, limit
    if chunk is not None:
        return chunk, chunk
    return chunks_of(example_bytes(network), memory)


def chunks_of(one: int, memory: int) -> tuple[int, int]:
    """The same for examples whose activations take `one` bytes each."""
    working = min(memory // 4, _WORKING)
    # Activations are kept for the backward pass, and as much again for the signals on their way.
    backward = max(1, min(working // (2 * one), _MOST["gradients"]))
    forward = max(1, min(working // one, max(_CACHED // one, _ENOUGH), _MOST["forward"]))
    return _whole_bytes(backward), _whole_bytes(forward)


def chunks(n_gradients: int, n: int, backward: int, forward: int) -> list[tuple[int, int]]:
    """Bounds of the chunks of n examples: first those with gradients, evenly, then the rest.

    >>> chunks(40, 100, 32, 64)
    [(0, 24), (24, 40), (40, 100)]
    """
    bounds: list[tuple[int, int]] = []
    for start, stop, limit in ((0, n_gradients, backward), (n_gradients, n, forward)):
        if stop <= start:
            continue
        pieces = -(-(stop - start) // limit)
        size = min(limit, _up_to_bytes(-(-(stop - start) // pieces)))
        bounds += [(at, min(at + size, stop)) for at in range(start, stop, size)]
    return bounds


def unfinished_bytes(snapshot: int, object_bytes: int = spec.OBJECT_BYTES) -> int:
    """Bytes kept of an array of a stream until an object is full, where snapshots of so many bytes share one.

    >>> unfinished_bytes(3 << 20) >> 20, unfinished_bytes(4 << 20), unfinished_bytes(3 << 20, 4 << 20)
    (6, 0, 0)
    """
    rows, _ = spec.snapshot_rows(snapshot, object_bytes)
    return rows * snapshot if rows > 1 else 0


def object_bytes(snapshots: Sequence[int], memory: int) -> int:
    """Bytes of an object that snapshots share, at most, where arrays take so many bytes each a snapshot.

    Less than usual where unfinished ones would take over an eighth of the memory.

    >>> object_bytes([1 << 20] * 5, 1 << 30) >> 20, object_bytes([1 << 20] * 50, 1 << 30) >> 20
    (8, 2)
    """
    size = spec.OBJECT_BYTES
    while (
        size > spec.READ_BYTES
        and sum(unfinished_bytes(snapshot, size) for snapshot in snapshots) > memory // _UNFINISHED
    ):
        size //= 2
    return size


def gradient_mode(wanted: str, exact: int) -> tuple[str, str]:
    """How gradients are kept, and why; `exact`: bytes of the exact ones of a snapshot."""
    amount = f"{byte_size(exact)} a snapshot"
    if wanted != "auto":
        return wanted, f"asked for; exact gradients take {amount}"
    if exact <= EXACT_LIMIT:
        return "exact", f"exact gradients take {amount}, at most {byte_size(EXACT_LIMIT)}"
    return (
        "gram",
        f"exact gradients would take {amount}, more than {byte_size(EXACT_LIMIT)}: only inner products are kept",
    )


def _whole_bytes(n: int) -> int:
    return n if n < 8 else n - n % 8


def _up_to_bytes(n: int) -> int:
    return n if n < 8 else -(-n // 8) * 8
