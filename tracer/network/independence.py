"""Whether a batch is no more than its examples (BatchNorm without running statistics makes it more)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tracer.errors import first_line
from tracer.network.checks import draws, same, some, whose
from tracer.network.copies import quiet
from tracer.network.fixed_masks import by_example
from tracer.network.network import Network
from tracer.network.pytree import examples_in, leaves_of, rebuild, take
from tracer.network.table import Row
from tracer.ops import op

_TOGETHER = 4  # examples run together
_CROWDS = 2  # batches of the first, or last, of these and of others that were given
_ALIKE = 8  # batches of the last of these and of copies of one other that was given
_EXTREMES = (1e3, -1e3, 1e30, 0.0)  # the largest is far beyond any threshold, and its products are infinite
_ALONE = 1e-2  # relative; kernels for one row round otherwise, and a step function may jump there
_SEED = 20_190_531


@dataclass(frozen=True)
class Independence:
    """Whether example i's outputs and loss depend on example i alone.

    module: path of the first module that mixes examples or draws random numbers, None if independent.
    wrong_axes: rows whose example axis was disproved; `network` no longer claims it.
    """

    holds: bool
    message: str
    module: str | None = None
    wrong_axes: tuple[str, ...] = ()


def independence(
    network: Network, tensors: Mapping[str, Tensor], inputs: Any, targets: Any = None
) -> Independence:
    """See whether what an example gives depends on the others of its batch.

    One example is changed, to another within the range of the values given and to ones far outside of it; each is
    run among copies of itself, alone, and, first and last of a batch, among others of those given, and among others
    scaled to the extremes. Targets stay among those given. Whatever the model refuses to
    run on says nothing of it. Rows whose claimed example axis is disproved, while outputs and losses are
    independent, lose that claim (`Network.forget_axes`).
    """
    try:
        with quiet(grad=False):
            return _independence(network, tensors, inputs, targets)
    except Exception as error:
        return Independence(
            False,
            f"the network could not be run on a few examples ({first_line(error)}): per-example quantities are off",
        )


def _independence(network: Network, tensors: Mapping[str, Tensor], inputs: Any, targets: Any) -> Independence:
    drawn = network.random_rows
    if drawn:
        return Independence(False, draws(drawn[0]), drawn[0].module)
    size = network.batch or min(_TOGETHER, max(2, examples_in(inputs)))
    base = some(inputs, size), None if targets is None else some(targets, size)
    first = _First(size)
    result = network.run(tensors, *base, visit=first.keep)
    again: list[Row] = []
    network.run(tensors, *base, visit=_compare(first, again, [], range(size)))
    if again:
        return Independence(False, draws(again[0]), again[0].module)
    wrong: dict[str, None] = {}
    for changed, position in (*_variations(base, size), *_crowds(base, inputs, targets, size)):
        mixing: list[Row] = []
        joint: list[Row] = []
        with suppress(Exception):  # of another example than any given: the model may refuse it
            other = network.run(tensors, *changed, visit=_compare(first, mixing, joint, position))
            if not _all_same(result, other, position, size):
                return _mixes(network, mixing, joint)
            wrong |= dict.fromkeys(row.name for row in mixing)
    if network.batch is None and _changes_alone(network, tensors, base, result, size):
        return Independence(
            False,
            "the model gives an example alone something else than in a batch: no gradient or path belongs to one "
            "example, so per-example quantities are off",
        )
    network.forget_axes(list(wrong))
    return Independence(
        True, "each example's outputs and loss depend on that example alone", None, tuple(wrong)
    )


def _variations(base: tuple[Any, Any], size: int) -> Iterator[tuple[tuple[Any, Any], Sequence[int]]]:
    """Other batches, and the places in them of examples that are the same as in the first one."""
    others = [place for place in range(size) if place != 1]
    yield (_change(base[0], size), _exchange(base[1], size)), others
    for place in range(min(size, _TOGETHER)):  # one example among copies of itself
        index = torch.full((size,), place)
        copies = [None if tree is None else take(tree, index, size) for tree in base]
        yield (copies[0], copies[1]), [place]
    if all(
        leaf.device.type == "cpu" for leaf in leaves_of(base[0])
    ):  # elsewhere a bad index ends the process
        for scale in _EXTREMES:
            yield (_scale(base[0], size, scale), base[1]), others


def _crowds(
    base: tuple[Any, Any], inputs: Any, targets: Any, size: int
) -> Iterator[tuple[tuple[Any, Any], Sequence[int]]]:
    """Batches of which only one example is as in the first: what takes several of the others to show shows there."""
    generator, n = torch.Generator().manual_seed(_SEED), examples_in(inputs)
    crowds = [(place, torch.randint(n, (size,), generator=generator)) for place in (0, size - 1) * _CROWDS]
    crowds += [(size - 1, torch.full((size,), one)) for one in reversed(range(n)[-_ALIKE:])]
    for place, index in crowds:
        index[place] = place % n
        batches = [None if tree is None else take(tree, index, n) for tree in (inputs, targets)]
        yield (batches[0], batches[1]), [place]
    if all(leaf.device.type == "cpu" for leaf in leaves_of(base[0])):
        for place, scale in product((0, size - 1), _EXTREMES):
            yield (_scaled_around(base[0], place, size, scale), base[1]), [place]


def _mixes(network: Network, mixing: Sequence[Row], joint: Sequence[Row]) -> Independence:
    row = mixing[0] if mixing else network.rows[-1]
    used = {key for kind, key in row.references() if kind == "row"}
    cause = next((r for r in joint if network.rows.index(r) in used), row)
    if cause.op == "getitem" and used:  # of an operation with several results
        cause = network.rows[min(used)]
    normalising = op(cause.op).normalises is not None
    return Independence(False, mixes(whose(row), cause.op, normalising), row.module)


def mixes(by: str, cause: str, normalising: bool) -> str:
    """What to say where an operation computes one example from the others of its batch."""
    remedy = (
        "let it keep running statistics"
        if normalising
        else "what examples need of each other can be an input that all of them have in common: "
        "tracer.Probe((own, common), targets, shared=[1])"
    )
    return (
        f"{by} mixes the examples of a batch ({cause}): no gradient or path belongs to one example, so per-example "
        f"quantities are off; {remedy}"
    )


def _all_same(result: Sequence[Any], other: Sequence[Any], position: Sequence[int], size: int) -> bool:
    return all(
        a is None or b is None or same(_at(a, position, size), _at(b, position, size))
        for a, b in zip(result, other, strict=True)
    )


def _changes_alone(
    network: Network, tensors: Mapping[str, Tensor], base: tuple[Any, Any], result: Sequence[Any], size: int
) -> bool:
    """Whether every example differs from itself alone, and by more than other kernels for one row explain."""
    differing = 0
    for place in range(size):
        index = torch.tensor([place])
        one = [None if tree is None else take(tree, index, size) for tree in base]
        try:
            alone = network.run(tensors, one[0], one[1])
        except Exception:  # a network that takes several examples only
            return False
        pairs = [(_at(a, [place], size), b) for a, b in zip(result, alone, strict=True) if a is not None]
        differing += any(a.shape == b.shape and not same(a, b, _ALONE) for a, b in pairs)
    return differing == size


class _First:
    """What each row gave for the first batch."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: dict[str, Any] = {}
        self._by_example: dict[str, Tensor] = {}

    def keep(self, row: Row, _: tuple[Any, ...], out: Any) -> None:
        """Note it, as a visitor."""
        self.values[row.name] = out

    def by_example(self, row: Row) -> Tensor:
        """It as (example, unit), which each further batch is compared with."""
        if row.name not in self._by_example:
            self._by_example[row.name] = by_example(self.values[row.name], row, self.size)
        return self._by_example[row.name]


def _compare(first: _First, differing: list[Row], joint: list[Row], position: Sequence[int]) -> Any:
    """A visitor noting rows where the examples at `position` differ from `first`, and rows of no example that do."""

    def visit(row: Row, _: tuple[Any, ...], out: Any) -> None:
        before = first.values[row.name]
        if not isinstance(out, Tensor) or not isinstance(before, Tensor):
            return
        if len(position) < first.size:
            if row.axis is None:
                if not same(before, out):
                    joint.append(row)
                return
            before = _at(first.by_example(row), position, first.size)
            out = _at(by_example(out, row, first.size), position, first.size)
        if not same(before, out):
            differing.append(row)

    return visit


def _at(value: Tensor, position: Sequence[int], size: int) -> Tensor:
    if not value.ndim or value.shape[0] != size:
        return value
    return value.narrow(0, position[0], 1) if len(position) == 1 else value[list(position)]


def _change(tree: Any, size: int) -> Any:
    """The same examples with number 1 changed, within the range of the values given."""
    generator = torch.Generator().manual_seed(_SEED)
    return _with_second(tree, size, lambda leaf: _changed(leaf, generator))


def _exchange(tree: Any, size: int) -> Any:
    """The same targets with that of number 1 exchanged for another one that was given, where there is one."""

    def other(leaf: Tensor) -> Tensor:
        different = [row for row in leaf if not torch.equal(row, leaf[1])]
        return different[0] if different else leaf[1]

    return _with_second(tree, size, other)


def _scale(tree: Any, size: int, scale: float) -> Any:
    """The same inputs with number 1 number 0 scaled; of whole numbers all are the largest, or the smallest."""

    def extreme(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point() or leaf.is_complex():
            return leaf[0] * scale
        end = leaf.max() if scale > 0 else leaf.min()
        return end.expand_as(leaf[1])

    return _with_second(tree, size, extreme)


def _scaled_around(tree: Any, place: int, size: int, scale: float) -> Any:
    """The same inputs, all real numbers but those of one example scaled."""

    def around(leaf: Tensor) -> Tensor:
        real = leaf.is_floating_point() or leaf.is_complex()
        if not (real and leaf.ndim and leaf.shape[0] == size):
            return leaf
        scaled = leaf * scale
        scaled[place] = leaf[place]
        return scaled

    return rebuild(tree, iter([around(leaf) for leaf in leaves_of(tree)]))


def _with_second(tree: Any, size: int, second: Callable[[Tensor], Tensor]) -> Any:
    leaves = []
    for leaf in leaves_of(tree):
        leaves.append(leaf.clone())
        if leaf.ndim and leaf.shape[0] == size and leaf.numel():
            leaves[-1][1] = second(leaf)
    return rebuild(tree, iter(leaves))


def _changed(leaf: Tensor, generator: torch.Generator) -> Tensor:
    old = leaf[1]
    order = torch.randperm(old.numel(), generator=generator).to(leaf.device)
    shuffled = old.reshape(-1)[order].reshape(old.shape)
    if leaf.is_floating_point():
        mixed = 0.5 * shuffled + 0.5 * leaf[0]
        return old + 0.125 if torch.equal(mixed, old) else mixed
    different = [row for row in leaf if not torch.equal(row, old)]
    return different[0] if different and torch.equal(shuffled, old) else shuffled
