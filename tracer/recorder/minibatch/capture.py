"""What was captured of one update: parts of minibatches in the order of their ids, once they are there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.network.pytree import leaves_of, rebuild
from tracer.probe.observe import Units
from tracer.recorder.device.pending import PendingArrays
from tracer.recorder.forward.observer import Seen


@dataclass
class Part:
    """What one forward pass gave; verdicts: `loss` and `correct` (n,)."""

    seen: Seen
    verdicts: dict[str, Tensor] = field(default_factory=dict)
    outputs: Any = None  # kept only while targets are unknown
    version: int = 0


@dataclass
class Slot:
    """Room for the n examples of one delivered batch."""

    n: int
    targets: Any
    parts: list[Part] = field(default_factory=list)
    filled: int = 0


class Captured:
    """What was captured of the n examples of one update, on its way from the device."""

    def __init__(self, slots: list[Slot]) -> None:
        self.n = sum(slot.n for slot in slots)
        self._parts: list[tuple[int, Part]] = []  # with the number of their first example
        start = 0
        for slot in slots:
            at = start
            for part in slot.parts:
                self._parts.append((at, part))
                at += part.seen.n
            start += slot.n
        whole = sum(part.seen.n for _, part in self._parts) == self.n
        self.masked = whole and bool(self._parts) and all(part.seen.bits for _, part in self._parts)
        self._values = [PendingArrays(_tensors(part, self.masked)) for _, part in self._parts]
        self._verdicts = [PendingArrays(_verdicts(part)) for _, part in self._parts]

    @property
    def empty(self) -> bool:
        """Whether no forward pass was seen."""
        return not self._parts

    @property
    def ready(self) -> bool:
        """Whether it can be read without waiting for the device."""
        return all(later.ready for later in [*self._values, *self._verdicts])

    @property
    def undecided(self) -> bool:
        """Whether outputs still wait for their targets."""
        return any(part.outputs is not None for _, part in self._parts)

    def add_losses(self, targets: Any, losses: Callable[[Part, Any, Any], None]) -> None:
        """Compute what needs targets, given those of the whole update."""
        for i, (start, part) in enumerate(self._parts):
            if part.outputs is not None:
                losses(part, part.outputs, part_of(targets, start, part.seen.n, self.n))
                part.outputs = None
                self._verdicts[i] = PendingArrays(_verdicts(part))

    def fill(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Put values in the order of the ids into arrays by name; where nothing was captured they stay."""
        for (start, part), *pending in zip(self._parts, self._values, self._verdicts, strict=True):
            for (name, columns), values in (pair for later in pending for pair in later.read().items()):
                if name in arrays:
                    rows = arrays[name][start : start + part.seen.n]
                    rows[(slice(None), list(columns)) if columns else slice(None)] = values
        return arrays

    def bits(self, units: Units) -> np.ndarray:
        """Packed masks of all sites, uint8 (unit, byte)."""
        joint = np.zeros((units.n_masks, -(-self.n // 8)), np.uint8)
        for (start, _), later in zip(self._parts, self._values, strict=True):
            for (array, columns), packed in later.read().items():
                first = units.masks[columns[0]] if array == "bits" else None
                if first is not None:
                    place = joint[first : first + len(packed), start // 8 : start // 8 + packed.shape[1]]
                    np.bitwise_or(place, packed, out=place)
        return joint

    def sites(self) -> set[int]:
        """Positions of the sites whose masks were seen in every forward pass."""
        return set.intersection(*(set(part.seen.bits or ()) for _, part in self._parts))


def _tensors(part: Part, masked: bool) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    """Everything seen inside the model, by array and columns."""
    seen = part.seen
    tensors: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    for name, sums in (("pre", seen.pre), ("post", seen.post)):
        if len({(total.dtype, total.device) for total in sums.values()}) == 1:
            # One copy off the device instead of one for each column.
            tensors[name, tuple(sums)] = torch.stack(list(sums.values()), 1)
        else:
            tensors |= {(name, (position,)): total[:, None] for position, total in sums.items()}
    if masked:
        tensors |= {("bits", (position,)): packed for position, packed in (seen.bits or {}).items()}
    return tensors


def _verdicts(part: Part) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    return {(name, ()): values for name, values in part.verdicts.items()}


def part_of(tree: Any, start: int, count: int, n: int) -> Any:
    """`count` examples from `start` on of each tensor that holds n of them."""
    if count == n:
        return tree
    leaves = [
        leaf[start : start + count] if leaf.ndim and len(leaf) == n else leaf for leaf in leaves_of(tree)
    ]
    return rebuild(tree, iter(leaves))
