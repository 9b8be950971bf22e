"""A view: the examples of some probes at some snapshots, and every array that follows from them, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze.arrays.bands import band_rows
from tracer.errors import MissingTraceError, did_you_mean

if TYPE_CHECKING:
    from tracer.archive import Archive

Reader = Callable[["View"], Any]
Of = Literal["", "first", "last", "rows", "data", "training", "card", "network", "finite"]


@dataclass(frozen=True)
class Source:
    """How one named array is made: its dimensions, what it is made of, and the stream it needs.

    `of` says what it follows from beside the snapshots it is asked for, so that a change of that makes results anew:
    the `first` or `last` snapshot of its stream, the `rows` of all updates, the training set (`data`), the `card`,
    the `network`, or whether it gave numbers at all (`finite`: sums, outputs and weights). The examples
    of the probes and the tables of layers and sites need not be named. `beside`: bytes at one snapshot of what is held
    beside it because it is made of that.
    """

    name: str
    dims: tuple[str, ...]
    read: Reader = field(repr=False)
    stream: str = ""
    needs: tuple[str, ...] = ()
    itemsize: int = 8
    lazy: bool = False
    of: Of = ""
    beside: Callable[[View], int] = field(default=lambda view: 0, repr=False)

    @property
    def static(self) -> bool:
        """Whether the array is the same at every snapshot."""
        return "step" not in self.dims

    def nbytes(self, view: View) -> int:
        """Bytes it takes at one snapshot; of a lazy one, or one made in bands, what is loaded at a time."""
        dims = [dim for dim in self.dims if dim != "step"]
        return self.itemsize * view.entries(dims)


SOURCES: dict[str, Source] = {}


def source(
    name: str,
    *dims: str,
    stream: str = "",
    needs: tuple[str, ...] = (),
    itemsize: int = 8,
    lazy: bool = False,
    of: Of = "",
    beside: Callable[[View], int] = lambda view: 0,
) -> Callable[[Reader], Reader]:
    """Declare how the array `name`, with dimensions `dims`, is read from a view or derived from others."""

    def attach(read: Reader) -> Reader:
        SOURCES[name] = Source(name, dims, read, stream, needs, itemsize, lazy, of, beside)
        return read

    return attach


def closure(names: Sequence[str]) -> list[Source]:
    """Every source the named arrays are made of, themselves included, each once.

    >>> sorted(source.name for source in closure(["cosine"]))
    ['cosine', 'gram']
    """
    sources: dict[str, Source] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in SOURCES:
            raise MissingTraceError(f"no array is called {name!r}; {did_you_mean(name, SOURCES)}")
        if name not in sources:
            sources[name] = SOURCES[name]
            waiting.extend(SOURCES[name].needs)
    return list(sources.values())


@dataclass
class View:
    """What one call of a metric sees. Arrays are made at first use and shared by all metrics with this view.

    `counts` holds, for each probe, how many of its first examples belong; `lead` is the snapshot before the
    first of `steps` when snapshots are compared in time; `sites` restricts masks to some sites, by position;
    `banded` has tables over pairs of examples made in bands of rows (`analyze.arrays.bands`);
    `without` is a block of the sketches of gradients that is left out, to see how much depends on it, and `whole` the
    view that has it; `replay` holds what the user chose for running the network again; `worker` what all views of one
    worker share, for as long as it lives.
    """

    archive: Archive
    probes: tuple[str, ...]
    counts: tuple[int, ...]
    steps: tuple[int, ...] = ()
    lead: int | None = None
    sites: tuple[int, ...] | None = None
    banded: bool = False
    without: int | None = None
    whole: View | None = field(default=None, repr=False)
    shared: dict[str, Any] = field(default_factory=dict, repr=False)
    cache: dict[str, Any] = field(default_factory=dict, repr=False)
    statics: dict[str, Any] = field(default_factory=dict, repr=False)
    replay: Mapping[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict, repr=False)

    def get(self, name: str) -> Any:
        """The array of that name, read-only so that no metric can change what the next one sees."""
        if name not in SOURCES:
            raise MissingTraceError(f"no array is called {name!r}; {did_you_mean(name, SOURCES)}")
        entry = SOURCES[name]
        cache = self.statics if entry.static else self.cache
        key = f"{name}@{self.sites}" if entry.static and "site" in entry.dims else name
        if key not in cache:
            value = entry.read(self)
            if isinstance(value, np.ndarray):
                value = value.view()
                value.flags.writeable = False
            cache[key] = value
        return cache[key]

    def once(self, key: str, read: Callable[[], Any]) -> Any:
        """What `read` returns, shared with the other views of the same snapshots."""
        if key not in self.shared:
            self.shared[key] = read()
        return self.shared[key]

    def parts(self) -> Iterator[tuple[Any, int]]:
        """Each probe of the archive in this view, with the number of its examples that belong."""
        for name, count in zip(self.probes, self.counts, strict=True):
            yield self.archive.probes[name], count

    def per_example(self, read: Callable[[Any, int], np.ndarray]) -> np.ndarray:
        """Stack `read(probe, step)` over snapshots, joining the probes: (step, example, ...)."""
        rows = [
            np.concatenate([np.asarray(read(probe, step))[:count] for probe, count in self.parts()])
            for step in self.steps
        ]
        return np.stack(rows)

    def joined(self, read: Callable[[Any], Any]) -> np.ndarray:
        """Join `read(probe)` (example, ...) over the probes of this view."""
        return np.concatenate([np.asarray(read(probe))[:count] for probe, count in self.parts()])

    @property
    def masked_sites(self) -> list[dict[str, Any]]:
        """The sites that have masks, those outside `sites` left out."""
        table = [site for site in self.archive.site_table if site.get("start") is not None]
        return table if self.sites is None else [table[position] for position in self.sites]

    def entries(self, dims: Sequence[str]) -> int:
        """Entries of an array of these dimensions; of a band of it, where tables over pairs are made in bands."""
        if self.banded and "example_2" in dims:
            layers, n = prod(self.size(dim) for dim in dims if dim == "layer"), self.size("example")
            return layers * band_rows(layers, n) * n
        return prod(self.size(dim) for dim in dims)

    def size(self, dim: str) -> int:
        """Extent of a dimension, for estimates of memory."""
        if dim in ("example", "example_2"):
            return sum(self.counts)
        return int(self.once(f"size {dim} {self.probes} {self.sites}", lambda: self._size(dim)))

    def _size(self, dim: str) -> int:
        sizes: dict[str, Callable[[], int]] = {
            "layer": lambda: len(self.archive.layers) + 1,
            "site": lambda: len(self.masked_sites),
            "any_site": lambda: len(self.archive.sites),
            "call": lambda: len(self.archive.calls),
            "unit": lambda: sum(int(site["n_units"]) for site in self.masked_sites),
            "path_byte": lambda: sum(-(-int(site["n_units"]) // 8) for site in self.masked_sites),
            "any_unit": lambda: sum(int(site["n_units"]) for site in self.archive.site_table),
            "byte": lambda: sum(-(-probe.n_masks // 8) for probe, _ in self.parts()),
            "output": lambda: self._numbers_per_output(),
            "token": lambda: self._tokens(),
            "sketch": lambda: sum(row["size"] for row in next(self.parts())[0].sketch["layers"]),
            "element": lambda: sum(prod(tensor["shape"]) for tensor in self.archive.tensors),
            "param_group": lambda: 1,
            "minibatch": lambda: int(np.diff(self.archive.minibatch.offsets).max(initial=0)),
        }
        return sizes[dim]()

    def _numbers_per_output(self) -> int:
        probe = self.archive.probes[self.probes[0]]
        step = int(probe.steps("outputs")[0])
        return prod((probe.top(step).top_score if probe.has_top else probe.outputs(step)).shape[1:])

    def _tokens(self) -> int:
        probe = self.archive.probes[self.probes[0]]
        return probe.tokens(int(probe.steps("tokens")[0]))["log_prob"].shape[1]
