"""One chunk of examples through the network: what every stream takes from its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.network import Network
from tracer.network.fixed_masks import by_example
from tracer.network.table import Row, Site
from tracer.probe.packing import pack_on

Arrays = dict[str, dict[str, Tensor]]  # stream: array: values, on the network's device
Action = tuple[str, int, Any, int]  # kind, index of the site or call, the site, its first unit


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


def actions(network: Network, where: Units, streams: frozenset[str]) -> dict[str, list[Action]]:
    """By row: what some streams take from it."""
    found: dict[str, list[Action]] = {}

    def add(index: int, kind: str, position: int, what: Any = None, first: int = 0) -> None:
        if network.rows[index].axis is not None:
            found.setdefault(network.rows[index].name, []).append((kind, position, what, first))

    for position, site in enumerate(network.sites):
        mask, value = where.masks[position], where.values[position]
        if "masks" in streams and mask is not None:
            add(site.row, "masks", position, site, mask)
        if "activations" in streams and value is not None:
            add(site.row, "activations", position, site, value)
        if "sums" in streams:
            add(site.row, "post", position)
    if "sums" in streams:
        for position, call in enumerate(network.calls):
            add(call.row, "pre", position)
    return found


class Chunk:
    """Takes the streams' share of one chunk as its rows are computed.

    counts: how many of the chunk's examples each stream takes. batch: examples that go through, padding
    included.
    """

    def __init__(
        self,
        found: Mapping[str, list[Action]],
        arrays: Arrays,
        start: int,
        counts: Mapping[str, int],
        batch: int,
    ) -> None:
        self._actions, self._arrays, self._counts = found, arrays, counts
        self._start, self._batch = start, batch

    def visit(self, row: Row, values: tuple[Any, ...], out: Any) -> None:
        """Look at one row."""
        for kind, position, site, first in self._actions.get(row.name, ()):
            if kind == "masks":
                self._mask(row, values[site.argument], site, first)
            elif kind == "activations":
                self._value(row, out, site, first)
            else:
                self._sum(kind, position, by_example(out.detach(), row, self._batch))

    def _mask(self, row: Row, pre: Tensor, site: Site, first: int) -> None:
        units = by_example(pre.detach(), row, self._batch)[: self._counts["masks"]]
        packed = pack_on(units, self._start)
        byte = self._start // 8
        bits = self._arrays["masks"]["bits"]
        bits[first : first + site.n_units, byte : byte + packed.shape[1]].bitwise_or_(packed)

    def _value(self, row: Row, out: Tensor, site: Site, first: int) -> None:
        count = self._counts["activations"]
        values = self._arrays["activations"]["values"]
        place = values[self._start : self._start + count, first : first + site.n_units]
        place.copy_(by_example(out.detach(), row, self._batch)[:count])

    def _sum(self, kind: str, position: int, units: Tensor) -> None:
        count = self._counts["sums"]
        table = self._arrays["sums"][kind]
        table[self._start : self._start + count, position] = units.sum(1, dtype=torch.float64)[:count]

    def finish(self, outputs: Tensor, losses: Tensor | None) -> None:
        """Take the results of the chunk."""
        if count := self._counts.get("outputs", 0):
            for name, values in (("outputs", outputs), ("loss", losses)):
                if values is not None:
                    taken = self._arrays["outputs"][name][self._start : self._start + count]
                    taken.copy_(values[:count].detach())


def blank(shape: Sequence[int], dtype: np.dtype, fill: float | None, device: torch.device) -> Tensor:
    """A tensor for an array as it is declared, filled, or to be (None)."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    if fill is None:
        return torch.empty(tuple(shape), dtype=kind, device=device)
    return torch.full(tuple(shape), fill, dtype=kind, device=device)


def as_stored(tensor: Tensor) -> np.ndarray:
    """A tensor's values on the processor; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
