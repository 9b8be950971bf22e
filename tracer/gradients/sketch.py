"""Gradients of linear layers as small random projections, from which inner products come without bias.

A gradient G (outputs, inputs) becomes `groups` matrices S = L' G R / side of size (side, side), where L and R hold
independent signs. For any two gradients E<S, S'> = <G, G'>, and the variance of one group is at most
((1 + 2 / side)^2 - 1) |G|^2 |G'|^2 (that of quadratic forms in signs, once for each side). Projections go to the
factors of `tracer.gradients.forms.Outer`, so that no gradient is made. Signs come from a seed and a name: what is
stored of a sketch is its sizes.
"""

import hashlib
from dataclasses import dataclass
from math import ceil
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tracer.gradients.forms import Outer

_SIDE = 4  # smaller: fewer numbers for the same error; larger: fewer products


@dataclass(frozen=True)
class Sketch:
    """Signs for the gradients of one tensor: left (groups, outputs, side), right (groups, inputs, side).

    Where forms have a bias, its input, always 1, is the last of the inputs.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, form: Outer, name: str, *, seed: int = 0, tolerance: float = 0.1, side: int = _SIDE) -> Self:
        """The sketch of the tensor `name` for forms like this one; the same for the same name and seed.

        tolerance: bound on the standard deviation of <G, G'> / (|G| |G'|), so of a cosine to first order.
        """
        if not 0 < tolerance < 1 or side < 1:
            raise ValueError(f"tolerance={tolerance}, side={side}: expected 0 < tolerance < 1 and side >= 1")
        groups = ceil(((1 + 2 / side) ** 2 - 1) / tolerance**2)
        outputs, inputs = form.shape
        sizes = [(groups, outputs, side), (groups, inputs + form.bias, side)]
        found = [
            signs(size, f"{seed} {part} {name}").to(form.z) for part, size in zip("lr", sizes, strict=True)
        ]
        return cls(*found)

    def take(self, form: Outer) -> Tensor:
        """Sketches of n gradients: (n, groups, side * side)."""
        (groups, _, side), (n, positions) = self.left.shape, form.a.shape[:2]
        right = self.right[:, :-1] if form.bias else self.right
        a, z = (
            factor @ signs.transpose(0, 1).flatten(1)
            for factor, signs in ((form.a, right), (form.z, self.left))
        )
        if form.bias:
            a = a + self.right[:, -1].flatten()
        shape = (n, positions, groups, side)
        return torch.einsum("ntgl,ntgr->nglr", z.view(shape), a.view(shape)).flatten(2) / side


def signs(shape: tuple[int, ...], key: str) -> Tensor:
    """1 and -1, each as likely, independent: the same everywhere for the same key. float32."""
    count = int(np.prod(shape))
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    words = np.random.Philox(key=digest).random_raw(ceil(count / 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=count)
    return torch.from_numpy(bits.astype(np.float32)).mul_(2).sub_(1).view(shape)


def inner_products(sketches: Tensor, others: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Estimates of <G, G'> and their standard errors, from sketches (n, groups, k): two float64 (n, m).

    others: (m, groups, k), by default the sketches themselves; their squared lengths on the diagonal are without
    bias too. An error is the standard deviation of the groups over the root of their number, NaN for one group.
    """
    left = sketches.double().transpose(0, 1)
    right = left if others is None else others.double().transpose(0, 1)
    by_group = left @ right.transpose(1, 2)
    groups = len(by_group)
    error = by_group.std(0) / groups**0.5 if groups > 1 else torch.full_like(by_group[0], torch.nan)
    return by_group.mean(0), error
