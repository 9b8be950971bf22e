"""Examples a network can be run on: a probe of the archive, a part of it, or tensors of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from analyze.arrays.classes import class_labels
from tracer.errors import MissingTraceError
from tracer.network.pytree import leaves_of, rebuild
from tracer.rerun import part
from tracer.spec.correctness import Correctness


@dataclass(frozen=True)
class Examples:
    """n examples, first axis of every tensor.

    inputs, targets: a tensor, or a tuple of them; targets None where nothing has a loss. chunks: (start,
    stop) of those that go through the network together; None: as memory allows. ids: int64 (example,).
    name, split: of the probe. rule: what the loss calls correct, None where the archive does not say.
    """

    inputs: Any
    targets: Any = None
    chunks: tuple[tuple[int, int], ...] | None = None
    ids: np.ndarray | None = None
    name: str = ""
    split: str = ""
    rule: Correctness | None = None

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(leaves_of(self.inputs)[0])

    @property
    def labels(self) -> np.ndarray:
        """Class of each example, int64 (example,); MissingTraceError where targets are no classes."""
        if not isinstance(self.targets, torch.Tensor):
            raise MissingTraceError(f"examples {self.name!r} have no single tensor of targets, so no classes")
        return class_labels(
            self.targets.cpu().float().numpy()
            if self.targets.is_floating_point()
            else self.targets.cpu().numpy(),
            self.rule,
        )

    @cached_property
    def counted(self) -> np.ndarray:
        """Which of them the loss counts an answer of, bool (example,): the others are left out of its mean."""
        if self.rule is None or not isinstance(self.targets, torch.Tensor):
            return np.ones(self.n, bool)
        targets = self.targets.detach().cpu()
        return self.rule.has_answers((targets.float() if targets.is_floating_point() else targets).numpy())

    def that_count(self) -> Examples:
        """Those of them alone."""
        return self if self.counted.all() else self.take(np.flatnonzero(self.counted))

    def mean(self, losses: torch.Tensor | np.ndarray) -> float:
        """Mean of losses (example,) as the loss of a batch has it, added up in float64; NaN where none counts."""
        values = np.asarray(losses.detach().double().cpu() if isinstance(losses, torch.Tensor) else losses)
        counted = values[self.counted]
        return float(counted.mean(dtype=np.float64)) if len(counted) else float("nan")

    def first(self, n: int | None) -> Examples:
        """The first n of them (None: all), in the same chunks."""
        if n is None or n >= self.n:
            return self
        chunks = self.chunks and tuple((start, min(stop, n)) for start, stop in self.chunks if start < n)
        return self._with(lambda tree: part(tree, 0, n), chunks, slice(n))

    def take(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> Examples:
        """Those at some positions, in this order, in chunks as memory allows."""
        index = torch.as_tensor(np.asarray(indices), dtype=torch.int64)

        def chosen(tree: Any) -> Any:
            return rebuild(tree, iter([leaf[index.to(leaf.device)] for leaf in leaves_of(tree)]))

        return self._with(chosen, None, index.cpu().numpy())

    def double(self) -> Examples:
        """The same with floating-point tensors in float64."""
        return self._with(_double, self.chunks, slice(None))

    def _with(self, change: Any, chunks: Any, index: Any) -> Examples:
        inputs, targets = change(self.inputs), None if self.targets is None else change(self.targets)
        ids = None if self.ids is None else self.ids[index]
        return replace(self, inputs=inputs, targets=targets, chunks=chunks, ids=ids)


def join(parts: Sequence[Examples]) -> Examples:
    """Several sets of examples as one, each still in its own chunks."""
    if len(parts) == 1:
        return parts[0]
    trees = []
    for kind in ("inputs", "targets"):
        same_kind = [getattr(item, kind) for item in parts]
        leaves = zip(*(leaves_of(tree) for tree in same_kind), strict=True)
        trees.append(rebuild(same_kind[0], iter([torch.cat(same) for same in leaves])))
    chunks, start = [], 0
    for item in parts:
        chunks += [(start + a, start + b) for a, b in item.chunks or ((0, item.n),)]
        start += item.n
    ids = [item.ids for item in parts if item.ids is not None]
    known = np.concatenate(ids) if len(ids) == len(parts) else None
    names, splits = ("+".join(getattr(item, key) for item in parts) for key in ("name", "split"))
    return Examples(trees[0], trees[1], tuple(chunks), known, names, splits, parts[0].rule)


def _double(tree: Any) -> Any:
    leaves = [leaf.double() if leaf.is_floating_point() else leaf for leaf in leaves_of(tree)]
    return rebuild(tree, iter(leaves))
