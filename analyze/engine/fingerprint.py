"""What a result depends on, as digests: where they are the same, a result need not be computed again.

A result is kept block by block. The key of a block is a digest of the sources of both packages, the metric's
options, and what the metric reads at the block's snapshots: the checksums of the stored objects, not those of
the whole archive, so that one more snapshot leaves the keys of all others as they are.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.arrays import Source, View, closure
from analyze.engine.plan import Plan, stream_steps

if TYPE_CHECKING:
    from tracer.archive import Archive

PACKAGES = ("analyze", "tracer")
UPDATES = 1024  # of a block of minibatches; a snapshot is a block by itself
NESTED = 8  # how deep the settings of a user are looked into


@dataclass(frozen=True)
class Fingerprint:
    """Of one result: `base`, what all of it depends on, and for each block its steps and its key.

    at_once: no block can be had without the others.
    """

    base: str
    blocks: tuple[tuple[tuple[int, ...], str], ...] = ()
    at_once: bool = False

    @cached_property
    def whole(self) -> str:
        """Digest of everything the result depends on."""
        return _digest([self.base, self.keys])

    @property
    def keys(self) -> list[str]:
        """Keys of the blocks."""
        return [key for _, key in self.blocks]

    @cached_property
    def at(self) -> dict[int, str]:
        """Step to the key of its block, else `whole`."""
        return {step: self.whole if self.at_once else key for steps, key in self.blocks for step in steps}

    def only(self, steps: Collection[int]) -> Fingerprint:
        """That of a result which holds no more than the blocks of these steps."""
        return replace(self, blocks=tuple(block for block in self.blocks if set(block[0]) <= set(steps)))


class Fingerprints:
    """Fingerprints of the metrics of one archive; a metric that reads another's result asks after it first."""

    def __init__(self, archive: Archive, replay: Mapping[str, Any]) -> None:
        self._archive, self._settings = archive, replay
        self._known: dict[str, Fingerprint] = {}

    def of(self, plan: Plan) -> Fingerprint:
        """The fingerprint of what a plan computes."""
        base = _digest(self._base(plan))
        previous = dict(pairwise(plan.steps))
        lead = {after: before for before, after in previous.items()} if plan.lag else {}
        size = UPDATES if any(entry.stream == "minibatch" for entry in closure(plan.arrays)) else 1
        blocks = []
        for start in range(0, len(plan.steps), size):
            steps = plan.steps[start : start + size]
            read = [self._at(plan, step) for step in steps]
            before = self._streams(plan, lead[steps[0]]) if steps[0] in lead else []
            blocks.append((steps, _digest([base, read, before, self._minibatches(plan, steps)])))
        return Fingerprint(base, tuple(blocks), plan.whole)

    def know(self, name: str, fingerprint: Fingerprint) -> None:
        """Remember the fingerprint of a result that others may read."""
        self._known[name] = fingerprint

    def _base(self, plan: Plan) -> dict[str, Any]:
        """What is the same at all snapshots."""
        card = plan.card
        reads = closure(plan.arrays)
        results = {
            name: self._known[name.partition(".")[0]].whole
            for name, array in plan.results.items()
            if "step" not in array.dims
        }
        return {
            "run": str(self._archive.run_id),
            "sources": sources(),
            "metric": [card.name, card.source, plan.options],
            "replay": self._replay if plan.replays or any(entry.of == "network" for entry in reads) else None,
            "views": [plan.views, plan.optional, plan.lag, plan.whole],
            "tables": _digest([self._archive.layer_table, self._archive.site_table, self._archive.call_table,
                               self._archive.tensors]),
            "probes": {name: self._archive.digest_of(f"probes/{name}") for name in self._probes(plan)},
            "others": sorted({(entry.name, self._fixed(plan, entry)) for entry in reads}),
            "results": results,
        }  # fmt: skip

    @cached_property
    def _replay(self) -> Any:
        return {key: digest_of_value(value) for key, value in sorted(self._settings.items())}

    def _probes(self, plan: Plan) -> list[str]:
        """Probes whose examples are read: a network that is run again is checked on all of them."""
        names = {name for probes, _ in plan.views for name in probes}
        return sorted(self._archive.probes if plan.replays else names)

    def _fixed(self, plan: Plan, entry: Source) -> str:
        """Digest of what an array follows from beside the snapshots it is asked for."""
        archive = self._archive
        match entry.of:
            case "first" | "last":
                at = 0 if entry.of == "first" else -1
                ends = {
                    path: stream_steps(archive, entry.stream, name)[at] for name, path in _paths(plan, entry)
                }
                own = [(path, archive.digest_of(path, step)) for path, step in ends.items()]
                if entry.stream == "masks":  # whether there are paths at all is asked of what else is stored
                    own += [
                        ("finite", digest)
                        for step in set(ends.values())
                        for digest in self._finite(plan, step)
                    ]
                again = [self._replayed(step) for step in sorted(set(ends.values()))] if plan.replays else []
                return _digest([own, again])
            case "rows" | "training":
                rows = {name: digest_of_value(column) for name, column in archive.rows.items()}
                return _digest(rows if entry.of == "rows" else [rows, archive.digest_of("data")])
            case "card" | "finite":
                return _digest(archive.card)
            case "data":
                return archive.digest_of("data")
            case "network" if not plan.replays and entry.static:
                return archive.digest_of("network")
        # The updates of a run made again are read from all over the archive.
        return str(archive.digest) if plan.replays and plan.whole else ""

    def _at(self, plan: Plan, step: int) -> list[Any]:
        """What is read of one snapshot."""
        archive = self._archive
        steps, *columns = self._updates
        row = np.searchsorted(steps, step)
        update = [column[row : row + 1].tolist() for column in columns]
        # Whether an epoch ends is known of all streams together: two arrays of each are read for it.
        asked = plan.lag or any(entry.name == "epoch_end" for entry in closure(plan.arrays))
        ends = step in archive.epoch_ends if asked else None
        about = [step, archive.epoch_of(step), ends, str(update)]
        results = [
            self._known[name.partition(".")[0]].at.get(step, "")
            for name, array in sorted(plan.results.items())
            if "step" in array.dims
        ]
        return [about, self._streams(plan, step), results]

    @cached_property
    def _updates(self) -> list[np.ndarray]:
        return [self._archive.array("steps", name) for name in ("step", "lr", "loss")]

    def _streams(self, plan: Plan, step: int) -> list[Any]:
        """Digests of the stored arrays of a snapshot."""
        digests: list[Any] = []
        for entry in closure(plan.arrays):
            if entry.stream and not entry.static and entry.stream != "minibatch":
                digests += [self._archive.digest_of(path, step) for _, path in _paths(plan, entry)]
            if entry.of == "network" and not entry.static and not plan.replays:
                digests.append(self._network(step))
            if entry.of == "finite":
                digests += self._finite(plan, step)
        return [*digests, self._replayed(step)] if plan.replays else digests

    def _finite(self, plan: Plan, step: int) -> list[str]:
        """What tells whether the network gave numbers."""
        names = dict.fromkeys(name for probes, _ in plan.views for name in probes)
        groups = [f"probes/{name}/{stream}" for name in names for stream in ("sums", "outputs")]
        return [self._archive.digest_of(path, step) for path in (*groups, "weights")]

    def _replayed(self, step: int) -> list[Any]:
        """What running the network again reads of a snapshot: weights, table, and the outputs it has to reproduce."""
        archive = self._archive
        outputs = [archive.digest_of(f"probes/{name}/outputs", step) for name in archive.probes]
        return [archive.digest_of("weights", step), self._network(step), outputs]

    def _network(self, step: int) -> str:
        try:
            table, constants = self._archive.network(step)
        except LookupError:
            return ""
        return _digest([hashlib.sha256(table).hexdigest(), digest_of_value(constants)])

    def _minibatches(self, plan: Plan, steps: tuple[int, ...]) -> list[str]:
        names = [name for name in plan.arrays if name.startswith("minibatch_")]
        view = View(self._archive, *plan.views[0], steps=steps) if names and plan.views else None
        return [] if view is None else [digest_of_value(view.get(name)) for name in names]


def _paths(plan: Plan, entry: Source) -> list[tuple[str, str]]:
    """Groups that hold the stream of an array, each with its probe, of the probes of a plan."""
    if entry.stream in ("gram", "weights"):
        return [("", entry.stream)]
    names = dict.fromkeys(name for probes, _ in plan.views for name in probes)
    return [(name, f"probes/{name}/{entry.stream}") for name in names]


@cache
def sources() -> str:
    """Digest of the sources of both packages, as this process finds them."""
    return digest_of_sources(home for name in PACKAGES for home in import_module(name).__path__)


def digest_of_sources(homes: Iterable[str | Path]) -> str:
    """Digest of every .py file of some packages, with its name."""
    digest = hashlib.sha256()
    for home in map(Path, homes):
        for file in sorted(home.rglob("*.py")):
            digest.update(f"{home.name}/{file.relative_to(home).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


def digest_of_value(value: Any) -> str:
    """Digest of a setting or an array: of functions, their source file and all they close over.

    What cannot be looked into is never the same twice.
    """
    digest = hashlib.sha256()
    for piece in _pieces(value, NESTED):
        digest.update(piece)
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def _pieces(value: Any, depth: int) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Path):
        yield repr(value).encode()
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif hasattr(value, "detach") and hasattr(value, "numpy"):
        yield from _pieces(value.detach().cpu().numpy(), depth)
    elif depth == 0:
        yield uuid.uuid4().bytes
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _pieces(key, depth - 1)
            yield from _pieces(item, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset | range):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        for item in items:
            yield from _pieces(item, depth - 1)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield from _code(value, depth)
    elif hasattr(value, "__dict__"):
        yield from _code(type(value), depth)
        yield from _pieces(dict(vars(value)), depth - 1)
        if hasattr(value, "func"):  # of functools.partial
            yield from _pieces([value.func, list(value.args), dict(value.keywords)], depth - 1)
    else:
        yield uuid.uuid4().bytes


def _code(value: Callable[..., Any], depth: int) -> Iterator[bytes]:
    yield f"{value.__module__} {value.__qualname__}".encode()
    code = getattr(value, "__code__", None)
    if code is not None:
        yield code.co_code + repr(code.co_names).encode()
        yield repr([constant for constant in code.co_consts if not hasattr(constant, "co_code")]).encode()
    try:
        path = inspect.getsourcefile(value)
        yield Path(path).read_bytes() if path else b""
    except (TypeError, OSError):
        yield b""
    closed = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    defaults = [getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]
    for one in (*closed, *defaults, getattr(value, "__self__", None)):
        if not inspect.ismodule(one):
            yield from _pieces(one, depth - 1)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
