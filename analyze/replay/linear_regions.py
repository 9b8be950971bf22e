"""Where a piecewise linear network bends along a segment between two inputs: every breakpoint, exactly.

Between two neighbouring breakpoints of all that comes before it, what a nonlinearity is given moves along a
straight line. So its own breakpoints follow from its values at those already known, without a search;
nonlinearity after nonlinearity the list is refined. Max pooling bends where another element of a window
becomes the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tracer.errors import MissingTraceError
from tracer.network import Network
from tracer.network.table import Row
from tracer.ops import op
from tracer.ops.written import constant, is_gate
from tracer.probe.memory import chunk_sizes
from tracer.rerun import part

if TYPE_CHECKING:
    from analyze.replay.state import State

APART = 1e-10  # breakpoints nearer than this share of the segment are one: units that bend together
ROUNDING = 1e-11  # of the largest value of a row: 0 but for rounding
_MEMORY = 1 << 28
_PIECES = ("path", "gate")


@dataclass(frozen=True)
class Kink:
    """A row that bends: its argument crosses a threshold, or a pool changes its largest element."""

    row: Row
    argument: int = 0
    thresholds: tuple[float, ...] = ()

    def events(self, values: Tensor, pooled: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """Intervals between neighbouring points in which it bends, and where, as a share of each."""
        if _pools(self.row):
            return _changes(values, pooled)
        crossings = [_crossings(values - threshold) for threshold in self.thresholds]
        return np.concatenate([pair[0] for pair in crossings]), np.concatenate(
            [pair[1] for pair in crossings]
        )


def kinks(network: Network) -> list[Kink]:
    """The rows that bend, in order; MissingTraceError for a network that is not piecewise linear."""
    moving: set[int] = set()
    sites = {site.row: site for site in network.sites}
    bends = []
    for index in network.needed([network.output]):
        row = network.rows[index]
        depends = [_moves(argument, moving) for argument in row.args]
        if op(row.op).shape_only or op(row.op).is_number:
            continue
        if not any(depends) and not any(_moves(value, moving) for value in row.kwargs.values()):
            continue
        moving.add(index)
        if index in sites:
            bends.append(Kink(row, sites[index].argument, _thresholds(row, sites[index])))
        elif _pools(row):
            bends.append(Kink(row))
        elif not (_is_affine(row, depends) or _only_gates(network, index, sites)):
            raise MissingTraceError(
                f"{row.op} in {row.module or 'the network'} is not piecewise linear, so linear regions "
                "cannot be counted"
            )
    return bends


def breakpoints(
    state: State, start: Tensor, stop: Tensor, bends: Sequence[Kink], limit: int
) -> np.ndarray | None:
    """Where the network bends from input `start` (0) to `stop` (1); None beyond `limit` places."""
    points = np.array([0.0, 1.0])
    line = _Line(state, start, stop)
    for kink in bends:
        points = _refined(points, *line.events([kink], points)[0])
        if len(points) > limit + 1:
            return None
    return points[1:-1]


def changes_seen(state: State, start: Tensor, stop: Tensor, bends: Sequence[Kink], samples: int) -> int:
    """How many of the intervals between equally spaced points hold a bend for certain."""
    points = np.linspace(0.0, 1.0, samples)
    line = _Line(state, start, stop)
    seen = [intervals for intervals, _ in line.events(bends, points)] if bends else []
    return len(np.unique(np.concatenate(seen))) if seen else 0


class _Line:
    """A network along a segment of inputs."""

    def __init__(self, state: State, start: Tensor, stop: Tensor) -> None:
        self._state, self._start, self._change = state, start, stop - start
        network = state.network
        self._chunk = max(2, chunk_sizes(network, _MEMORY, None)[1])

    def events(self, bends: Sequence[Kink], points: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each of these rows: intervals between neighbouring points in which it bends, and where in each."""
        events: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in bends]
        first = 0
        while first < len(points) - 1:
            # Chunks share a point, so that no interval lies between them.
            last = min(first + self._chunk, len(points))
            for own, (intervals, shares) in zip(events, self._seen(bends, points[first:last]), strict=True):
                own.append((intervals + first, shares))
            first = last - 1
        return [
            (np.concatenate([pair[0] for pair in own]), np.concatenate([pair[1] for pair in own]))
            for own in events
        ]

    def _size(self, count: int) -> int:
        return max(count, min(1 << (count - 1).bit_length(), self._chunk))

    def _seen(self, bends: Sequence[Kink], points: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        state = self._state
        seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        wanted = {kink.row.name: kink for kink in bends}
        shares = torch.from_numpy(points).to(self._start).reshape(-1, *[1] * self._start.ndim)
        # Sizes that come again: what a network costs is looked at once for each.
        shares = torch.cat(
            [shares, shares[-1:].expand(self._size(len(points)) - len(points), *shares.shape[1:])]
        )
        inputs = part(self._start + shares * self._change, 0, len(shares), state.network.batch)

        def visit(row: Row, values: tuple[Any, ...], out: Any) -> None:
            if row.name in wanted:
                seen[row.name] = self._events(wanted[row.name], values, len(points))

        with torch.inference_mode(False), torch.no_grad():
            state.network.run(state.tensors, inputs, visit=visit, until=bends[-1].row.name)
        return [seen[kink.row.name] for kink in bends]

    def _events(self, kink: Kink, values: tuple[Any, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
        windows = _windows(kink.row, values)[:count] if _pools(kink.row) else None
        if kink.row.axis != 0 or kink.row.inner != 1:
            raise MissingTraceError(f"the examples do not lie along the first dimension of {kink.row.name}")
        return kink.events(values[kink.argument][:count].flatten(1), windows)


def _crossings(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Intervals in which a unit (point, unit) goes through 0, and where, each unit on its own."""
    zero = ROUNDING * float(values.abs().max()) if values.numel() else 0.0
    before, after = values[:-1], values[1:]
    crossing = ((before > zero) & (after < -zero)) | ((before < -zero) & (after > zero))
    interval, unit = crossing.nonzero(as_tuple=True)
    left, right = before[interval, unit], after[interval, unit]
    return interval.cpu().numpy(), (left / (left - right)).cpu().numpy()


def _changes(values: Tensor, windows: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Intervals in which another element of a window (point, window, element) becomes the largest, and where.

    In an interval the elements are straight lines: the upper envelope is followed from its left end.
    """
    assert windows is not None
    zero = ROUNDING * float(values.abs().max()) if values.numel() else 0.0
    largest = windows.argmax(2, keepdim=True)
    lead = windows[:-1].gather(2, largest[:-1]) - windows[:-1].gather(2, largest[1:])
    lost = windows[1:].gather(2, largest[1:]) - windows[1:].gather(2, largest[:-1])
    interval, window = ((lead > zero) & (lost > zero))[..., 0].nonzero(as_tuple=True)
    left, right = windows[:-1][interval, window], windows[1:][interval, window]
    slope = right - left
    top = left.argmax(1, keepdim=True)
    changes: list[tuple[Tensor, Tensor]] = []
    for _ in range(left.shape[1]):
        steeper = slope - slope.gather(1, top)
        behind = left.gather(1, top) - left
        meeting = torch.where(steeper > zero, behind / steeper.clamp(min=zero or 1.0), torch.inf)
        share, top = meeting.min(1, keepdim=True)
        here = share[:, 0] < 1
        changes.append((interval[here], share[here, 0]))
        interval, left, slope, top = interval[here], left[here], slope[here], top[here]
    joined = [torch.cat([pair[side] for pair in changes]).cpu().numpy() for side in (0, 1)]
    return joined[0], joined[1]


def _refined(points: np.ndarray, intervals: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The points and those inside intervals, sorted; what is nearer than `APART` is one."""
    new = points[intervals] + shares * (points[intervals + 1] - points[intervals])
    joint = np.concatenate([points, new])
    known = np.concatenate([np.ones(len(points), bool), np.zeros(len(new), bool)])
    order = np.lexsort((~known, joint))
    joint, known = joint[order], known[order]
    distinct: list[int] = []
    for position in range(len(joint)):
        if known[position]:
            while distinct and not known[distinct[-1]] and joint[position] - joint[distinct[-1]] < APART:
                distinct.pop()
            distinct.append(position)
        elif joint[position] - joint[distinct[-1]] >= APART:
            distinct.append(position)
    return joint[distinct]


def _windows(row: Row, values: tuple[Any, ...]) -> Tensor:
    """What a max pooling chooses from: (example, window, element), elements outside of the input -inf."""
    x = values[0]
    flat = _pools(row) == 1
    x = x.unsqueeze(-2) if flat else x

    def each(position: int, default: Any, other: int) -> tuple[int, int]:
        value = values[position] if position < len(values) else default
        sizes = [value] if isinstance(value, int) else list(value)
        if flat:
            return other, sizes[0]
        return sizes[0], sizes[-1]

    kernel = each(1, 1, 1)
    stride = each(2, kernel, 1) if len(values) > 2 and values[2] else kernel
    padding, dilation = each(3, 0, 0), each(4, 1, 1)
    # More on the far sides for windows that hang over in ceil mode; what is outside is never the largest.
    over = [stride[k] if len(values) > 5 and values[5] else 0 for k in (0, 1)]
    low = torch.finfo(x.dtype).min
    x = F.pad(x, (padding[1], padding[1] + over[1], padding[0], padding[0] + over[0]), value=low)
    n, channels = x.shape[:2]
    columns = F.unfold(x.reshape(n * channels, 1, *x.shape[2:]), kernel, dilation, 0, stride)
    windows = columns.reshape(n, channels, kernel[0] * kernel[1], -1).transpose(2, 3).flatten(1, 2)
    real = windows.amax(2) > low
    return torch.where(real[..., None], windows, torch.zeros((), dtype=x.dtype, device=x.device))


def _thresholds(row: Row, site: Any) -> tuple[float, ...]:
    activation = op(row.op).activation
    low, high = (None, None) if activation is None else activation.ends(row.args)
    if constant(high) is not None:
        return (constant(low) or 0.0, constant(high) or 0.0)
    if site.kind not in _PIECES:
        raise MissingTraceError(
            f"{site.name} ({row.op}) is smooth, so the network has no linear regions; this is for ReLU and "
            "its relatives"
        )
    return (0.0,)


def _pools(row: Row) -> int:
    """Dimensions over which a row takes the largest element of each window, 0 for any other row."""
    pool = op(row.op).pool
    windows = pool is not None and pool.kind == "max" and not (pool.adaptive or pool.whole or pool.dims > 2)
    return pool.dims if windows and pool is not None else 0


def _is_affine(row: Row, depends: Sequence[bool]) -> bool:
    affine = op(row.op).affine
    if affine == "first":
        return not any(depends[1:])
    return affine == "all" or (affine == "one" and sum(depends) == 1)


def _only_gates(network: Network, index: int, sites: dict[int, Any]) -> bool:
    """Whether a row, such as `x > 0`, is used by hand-written nonlinearities alone."""
    if not is_gate(network.rows[index]):
        return False
    users = [k for k, row in enumerate(network.rows) if ("row", index) in set(row.references())]
    return all(k in sites for k in users)


def _moves(argument: Any, moving: set[int]) -> bool:
    return any(kind == "input" or (kind == "row" and key in moving) for kind, key in _references(argument))


def _references(argument: Any) -> Iterator[tuple[str, Any]]:
    from tracer.network.table import references

    yield from references(argument)


Count = Callable[[Tensor, Tensor], tuple[float, float]]


def counter(state: State, samples: int, limit: int) -> Count:
    """A function from two inputs to their number of regions: exact, and as seen by sampling.

    NaN where the network gives no numbers for one of them.
    """
    exact = state.double()
    bends = kinks(exact.network)

    def count(start: Tensor, stop: Tensor) -> tuple[float, float]:
        ends = (start.double(), stop.double())
        if not bool(torch.isfinite(exact.outputs(torch.stack(ends))).all()):
            return np.nan, np.nan
        breaks = breakpoints(exact, *ends, bends, limit)
        return np.nan if breaks is None else len(breaks) + 1.0, changes_seen(
            exact, *ends, bends, samples
        ) + 1.0

    return count
