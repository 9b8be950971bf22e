"""Sums over paths that grow beyond any float: a tensor and a power of two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

ZERO = -(1 << 40)  # exponent of a value that is 0 throughout: below that of any other


class Phi(NamedTuple):
    """Sums over the paths into each unit: `value` · 2^`exponent`. `scores`: a softmax was left out before."""

    value: Any
    exponent: int = 0
    scores: bool = False


def moderate(phi: Phi) -> Phi:
    """The same sums with the largest between 1/2 and 1, where that is finite."""
    largest = float(phi.value.max()) if phi.value.numel() else 0.0
    if largest == 0:
        return phi._replace(exponent=ZERO)
    if not math.isfinite(largest):
        return phi
    shift = math.frexp(largest)[1]
    return phi._replace(value=phi.value * math.ldexp(1.0, -shift), exponent=phi.exponent + shift)


def aligned(parts: Sequence[Phi]) -> tuple[list[Any], int]:
    """The parts' values at one exponent, that of the largest."""
    exponent = max(part.exponent for part in parts)
    shifts = [max(part.exponent - exponent, -2000) for part in parts]
    return [part.value * math.ldexp(1.0, shift) for part, shift in zip(parts, shifts, strict=True)], exponent


def plus(parts: Sequence[Phi]) -> Phi:
    """Sum of the parts, which broadcast."""
    values, exponent = aligned(parts)
    return Phi(sum(values[1:], values[0]), exponent)


def phis_in(values: Any) -> Iterator[Phi]:
    """Every Phi in nested lists of arguments."""
    if isinstance(values, Phi):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from phis_in(value)


def bare(values: Any) -> Any:
    """The same arguments with the tensor of each Phi in its place."""
    if isinstance(values, Phi):
        return values.value
    if isinstance(values, dict):
        return {name: bare(value) for name, value in values.items()}
    return [bare(value) for value in values] if isinstance(values, list) else values
