"""One chunk of examples through the network: what the observers of the streams take from its rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.network import Network
from tracer.network.fixed_masks import by_example
from tracer.network.table import Row, Site
from tracer.probe.answers import Answers

Arrays = dict[str, dict[str, Tensor]]  # stream: array: values, on the network's device


@dataclass(frozen=True)
class Units:
    """Where each site's units begin along the two concatenated axes; None: no mask, or units unknown."""

    masks: tuple[int | None, ...]
    n_masks: int
    values: tuple[int | None, ...]
    n_values: int

    @classmethod
    def of(cls, sites: Sequence[Site]) -> "Units":
        """Sites one after another: those with a mask, and those whose examples are known."""
        masks: list[int | None] = []
        values: list[int | None] = []
        n_masks = n_values = 0
        for site in sites:
            masks.append(n_masks if site.has_mask else None)
            values.append(n_values if site.n_units else None)
            n_masks += site.n_units if site.has_mask else 0
            n_values += site.n_units
        return cls(tuple(masks), n_masks, tuple(values), n_values)


@dataclass(frozen=True)
class Look:
    """What an observer takes from one row.

    take: called with the chunk, the look, the row, its arguments and its result. stream, array: where it goes.
    position: of the site or call, -1 of a result, which is one value for each example. site: of a site. first: its
    first unit.
    """

    take: Callable[["Chunk", "Look", Row, tuple[Any, ...], Any], None]
    stream: str
    array: str
    row: int
    position: int
    site: Site | None = None
    first: int = 0


class Chunk:
    """Takes the streams' share of one chunk as its rows are computed.

    looks: by name of the row. counts: how many of the chunk's examples each stream takes. batch: examples that
    go through, padding included. answers: what outputs come down to.
    """

    def __init__(
        self,
        looks: Mapping[str, Sequence[Look]],
        arrays: Arrays,
        start: int,
        counts: Mapping[str, int],
        batch: int,
        answers: Answers | None = None,
    ) -> None:
        self._looks, self._arrays, self._counts, self._answers = looks, arrays, counts, answers
        self.start, self._batch = start, batch

    def visit(self, row: Row, values: tuple[Any, ...], out: Any) -> None:
        """Look at one row."""
        for look in self._looks.get(row.name, ()):
            look.take(self, look, row, values, out)

    def units(self, values: Tensor, row: Row) -> Tensor:
        """Values (example, unit) of a row's argument or result, of all examples that go through."""
        return by_example(values.detach(), row, self._batch)

    def count(self, stream: str) -> int:
        """How many of the chunk's examples a stream takes."""
        return self._counts.get(stream, 0)

    def array(self, stream: str, name: str) -> Tensor:
        """The whole array of a stream, all chunks'."""
        return self._arrays[stream][name]

    def place(self, stream: str, name: str) -> Tensor:
        """The rows of an array, examples first, that belong to this chunk."""
        return self._arrays[stream][name][self.start : self.start + self._counts[stream]]

    def finish(self, outputs: Tensor, losses: Tensor | None, targets: Tensor | None = None) -> None:
        """Take the results of the chunk."""
        if count := self.count("outputs"):
            for name, values in (("outputs", outputs), ("loss", losses)):
                if values is not None and name in self._arrays["outputs"]:
                    self.place("outputs", name).copy_(values[:count].detach())
        if self._answers is not None:
            self._answers.take(self, outputs, targets)


def looks_of(observed: Sequence[Look], network: Network) -> dict[str, list[Look]]:
    """Looks by name of their row, those at rows whose examples are not known left out."""
    by_row: dict[str, list[Look]] = {}
    for look in observed:
        row = network.rows[look.row]
        if row.axis is not None or look.position < 0:
            by_row.setdefault(row.name, []).append(look)
    return by_row


def blank(shape: Sequence[int], dtype: np.dtype, fill: float | None, device: torch.device) -> Tensor:
    """A tensor for an array as it is declared, filled, or to be (None)."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    if fill is None:
        return torch.empty(tuple(shape), dtype=kind, device=device)
    return torch.full(tuple(shape), fill, dtype=kind, device=device)
