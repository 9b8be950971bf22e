"""How each stream of a probe is taken from the network: one observer a stream, nothing else knows."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.gradients.collect import Blocks
from tracer.network import Network
from tracer.network.copies import to_numpy
from tracer.network.table import Row
from tracer.probe.answers import Answers, Declared
from tracer.probe.observe import Chunk, Look, Units, blank
from tracer.probe.packing import pack_on

_DOUBLE, _SINGLE, _BYTE = (np.dtype(kind) for kind in ("float64", "float32", "uint8"))


@dataclass(frozen=True)
class Seen:
    """What observers need to know before the first pass.

    outputs, losses: of a few examples, None where nothing was run yet. blocks: of the stored gradients. answers: what
    outputs come down to.
    """

    network: Network
    units: Units
    outputs: Tensor | None = None
    losses: Tensor | None = None
    blocks: Blocks | None = None
    answers: Answers | None = None


@dataclass(frozen=True)
class Observer:
    """One stream: its arrays for so many examples (dtype, shape, dims), and where it looks.

    fill: what its arrays hold where nothing is taken; None: every value is written. Gradients have no looks:
    the backward pass makes them.
    """

    declare: Callable[[Seen, int], Declared]
    looks: Callable[[Network, Units], Iterator[Look]] = lambda network, units: iter(())
    fill: float | None = None


def observed(
    streams: Collection[str], network: Network, units: Units, answers: Answers | None = None
) -> list[Look]:
    """Where the observers of some streams look."""
    looks = [
        look for stream in OBSERVERS if stream in streams for look in OBSERVERS[stream].looks(network, units)
    ]
    if "tokens" in streams and answers is not None and answers.loss_row is not None:
        looks.append(Look(_take_token_losses, "tokens", "loss", answers.loss_row, -1))
    return looks


def allocate(stream: str, declared: Declared, device: torch.device) -> dict[str, Tensor]:
    """Arrays of a stream, ready to be filled."""
    fill = OBSERVERS[stream].fill
    return {name: blank(shape, dtype, fill, device) for name, (dtype, shape, _) in declared.items()}


def numbered(name: str, n: int) -> tuple[str, ...]:
    """Names of n further dimensions of an array.

    >>> numbered("inputs", 2)
    ('inputs_1', 'inputs_2')
    """
    return tuple(f"{name}_{k}" for k in range(1, n + 1))


def _outputs(seen: Seen, count: int) -> Declared:
    if seen.outputs is None:
        return {}
    outputs = to_numpy(seen.outputs)
    rest = outputs.ndim - 1
    dims: Sequence[str] = ("output",) if rest == 1 else numbered("output", rest)
    declared: Declared = {"outputs": (outputs.dtype, (count, *outputs.shape[1:]), ("outputs_example", *dims))}
    if seen.answers is not None and seen.answers.top:
        declared = seen.answers.top_arrays(count)
    if seen.losses is not None:
        declared["loss"] = (to_numpy(seen.losses).dtype, (count,), ("outputs_example",))
        if seen.network.correct is not None:
            declared["correct"] = (_SINGLE, (count,), ("outputs_example",))
    return declared


def _look_at_correctness(network: Network, units: Units) -> Iterator[Look]:
    if network.correct is not None:
        yield Look(_take_correct, "outputs", "correct", network.correct[1], -1)


def _take_correct(chunk: Chunk, look: Look, row: Row, values: tuple[Any, ...], out: Any) -> None:
    chunk.place("outputs", "correct").copy_(out.detach()[: chunk.count("outputs")])


def _tokens(seen: Seen, count: int) -> Declared:
    return {} if seen.answers is None else seen.answers.token_arrays(count)


def _take_token_losses(chunk: Chunk, look: Look, row: Row, values: tuple[Any, ...], out: Any) -> None:
    chunk.place("tokens", "loss").copy_(chunk.units(out, row)[: chunk.count("tokens")])


def _masks(seen: Seen, count: int) -> Declared:
    return {"bits": (_BYTE, (seen.units.n_masks, -(-count // 8)), ("unit", "masks_byte"))}


def _look_at_masks(network: Network, units: Units) -> Iterator[Look]:
    for position, (site, first) in enumerate(zip(network.sites, units.masks, strict=True)):
        if first is not None:
            yield Look(_take_mask, "masks", "bits", site.row, position, site, first)


def _take_mask(chunk: Chunk, look: Look, row: Row, values: tuple[Any, ...], out: Any) -> None:
    site = look.site
    assert site is not None
    units = chunk.units(values[site.argument], row)[: chunk.count("masks")]
    packed = pack_on(units, chunk.start)
    byte = chunk.start // 8
    bits = chunk.array("masks", "bits")
    bits[look.first : look.first + site.n_units, byte : byte + packed.shape[1]].bitwise_or_(packed)


def _sums(seen: Seen, count: int) -> Declared:
    return {
        "pre": (_DOUBLE, (count, len(seen.network.calls)), ("sums_example", "call")),
        "post": (_DOUBLE, (count, len(seen.network.sites)), ("sums_example", "site")),
    }


def _look_at_sums(network: Network, units: Units) -> Iterator[Look]:
    for position, site in enumerate(network.sites):
        yield Look(_take_sum, "sums", "post", site.row, position)
    for position, call in enumerate(network.calls):
        yield Look(_take_sum, "sums", "pre", call.row, position)


def _take_sum(chunk: Chunk, look: Look, row: Row, values: tuple[Any, ...], out: Any) -> None:
    if out.is_complex():  # has no sum that is a number here
        return
    sums = chunk.units(out, row).sum(1, dtype=torch.float64)
    chunk.place("sums", look.array)[:, look.position] = sums[: chunk.count("sums")]


def _activations(seen: Seen, count: int) -> Declared:
    return {"values": (_SINGLE, (count, seen.units.n_values), ("activations_example", "activations_unit"))}


def _look_at_activations(network: Network, units: Units) -> Iterator[Look]:
    for position, (site, first) in enumerate(zip(network.sites, units.values, strict=True)):
        if first is not None:
            yield Look(_take_activations, "activations", "values", site.row, position, site, first)


def _take_activations(chunk: Chunk, look: Look, row: Row, values: tuple[Any, ...], out: Any) -> None:
    assert look.site is not None
    if out.is_complex():
        return
    place = chunk.place("activations", "values")[:, look.first : look.first + look.site.n_units]
    place.copy_(chunk.units(out, row)[: chunk.count("activations")])


def _gradients(seen: Seen, count: int) -> Declared:
    if seen.blocks is None:
        return {}
    kind = _DOUBLE if seen.blocks.dtype == torch.float64 else _SINGLE
    return {"values": (kind, (seen.blocks.size,), ("gradients_element",))}


OBSERVERS: dict[str, Observer] = {
    "outputs": Observer(_outputs, _look_at_correctness),
    "tokens": Observer(_tokens, fill=np.nan),  # taken when outputs and losses are there, see `Answers`
    # Sums over rows whose examples are not known, or that are complex, and units of such sites stay undefined.
    "sums": Observer(_sums, _look_at_sums, np.nan),
    "masks": Observer(_masks, _look_at_masks, 0),  # bits are ORed in
    "gradients": Observer(_gradients),
    "activations": Observer(_activations, _look_at_activations, np.nan),
}
