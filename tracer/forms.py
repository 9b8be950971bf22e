"""Per-example gradients of one tensor, kept as the factors that make them until rows or inner products are needed.

Every form stands for n gradients of a tensor, one an example. `bias` says that the form also stands for the
gradient of the bias that goes with the weight: as if the input had one more coordinate that is always 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Protocol, Self

import torch
from torch import Tensor

from tracer.products import block_rows, gram_of_pairs, gram_of_rows, pairs_are_cheaper, square
from tracer.windows import Geometry, add_windows, gradient_rows, weight_gradients


class Form(Protocol):
    """n gradients of a tensor (and of its bias)."""

    bias: bool

    @property
    def signal(self) -> Tensor:
        """The factor (n, ...) in which the gradient is linear and that is small where the gradient is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    @property
    def factor_size(self) -> int:
        """Elements kept per example."""

    def rows(self) -> Tensor:
        """The gradients of the tensor: (n, *shape)."""

    def bias_rows(self) -> Tensor:
        """The gradients of the bias that goes with it: (n, outputs)."""

    def gram(self) -> Tensor:
        """Inner products of the gradients, bias included where it goes with the form: float64 (n, n)."""

    def scaled(self, scale: Tensor) -> Self:
        """The same gradients, each times its own factor: scale (n,)."""

    @classmethod
    def join(cls, forms: Sequence[Self]) -> Self:
        """The same tensor's gradients of more examples."""


def per_example(scale: Tensor, like: Tensor) -> Tensor:
    """Shape scale (n,) so that it multiplies `like` (n, ...) example by example."""
    return scale.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def head(form: "Form | None", n: int) -> "Form | None":
    """The first n examples of a form."""
    if form is None or len(form.signal) == n:
        return form
    tensors = {f.name: getattr(form, f.name) for f in fields(form)}  # type: ignore[arg-type]
    kept = {name: value[:n] for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(form, **kept)  # type: ignore[type-var]


@dataclass(frozen=True)
class Full:
    """The gradients themselves: values (n, *shape)."""

    values: Tensor
    bias: bool = False

    @property
    def signal(self) -> Tensor:
        """The gradients."""
        return self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.values.shape[1:])

    @property
    def factor_size(self) -> int:
        """Elements kept per example."""
        return prod(self.shape)

    def rows(self) -> Tensor:
        """The gradients (n, *shape)."""
        return self.values

    def bias_rows(self) -> Tensor:
        """Full rows never speak for a bias."""
        raise ValueError("full rows stand for one tensor, its bias has rows of its own")

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        return gram_of_rows([self.values.reshape(len(self.values), -1)])

    def scaled(self, scale: Tensor) -> "Full":
        """Each gradient times its own factor."""
        return Full(self.values * per_example(scale, self.values))

    @classmethod
    def join(cls, forms: Sequence["Full"]) -> "Full":
        """More examples of the same tensor."""
        return forms[0] if len(forms) == 1 else Full(torch.cat([form.values for form in forms]))


@dataclass(frozen=True)
class Outer:
    """Gradient = sum over positions t of z_t (outer) a_t: a (n, t, inputs), z (n, t, outputs).

    `swapped`: a is the back-propagated signal and z the input (a weight stored as inputs x outputs).
    """

    a: Tensor
    z: Tensor
    bias: bool = False
    swapped: bool = False

    @property
    def signal(self) -> Tensor:
        """The back-propagated signal."""
        return self.a if self.swapped else self.z

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (outputs, inputs)."""
        return self.z.shape[2], self.a.shape[2]

    @property
    def factor_size(self) -> int:
        """Elements kept per example."""
        return self.a[0].numel() + self.z[0].numel()

    def rows(self) -> Tensor:
        """The gradients of the weight (n, outputs, inputs)."""
        return torch.bmm(self.z.transpose(1, 2), self.a)

    def bias_rows(self) -> Tensor:
        """The gradients of the bias (n, outputs)."""
        return self.z.sum(1)

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        n, positions, inputs = self.a.shape
        if positions == 1:
            left, right = square(self.a[:, 0]), square(self.z[:, 0])
            return (left.add_(1) if self.bias else left).mul_(right).double()
        outputs = self.z.shape[2]
        if pairs_are_cheaper(n, positions**2, positions, inputs, outputs, inputs * outputs):
            return gram_of_pairs(self.a, self.z, self.bias)
        return gram_of_rows(self._blocks())

    def _blocks(self) -> Iterator[Tensor]:
        step = block_rows(len(self.a), self.a.shape[2], self.a.device)
        for start in range(0, self.z.shape[2], step):
            yield torch.bmm(self.z[:, :, start : start + step].transpose(1, 2), self.a).flatten(1)
        if self.bias:
            yield self.bias_rows()

    def scaled(self, scale: Tensor) -> "Outer":
        """Each gradient times its own factor."""
        signal = self.signal * per_example(scale, self.signal)
        return replace(self, a=signal) if self.swapped else replace(self, z=signal)

    @classmethod
    def join(cls, forms: Sequence["Outer"]) -> "Outer":
        """More examples of the same weight."""
        if len(forms) == 1:
            return forms[0]
        return replace(
            forms[0], a=torch.cat([form.a for form in forms]), z=torch.cat([form.z for form in forms])
        )

    @classmethod
    def merge(cls, forms: Sequence["Outer"]) -> "Outer":
        """The sum of several uses of one weight by the same examples."""
        if len(forms) == 1:
            return forms[0]
        a, z = torch.cat([form.a for form in forms], 1), torch.cat([form.z for form in forms], 1)
        return replace(forms[0], a=a, z=z)


@dataclass(frozen=True)
class Correlation:
    """Gradient of a convolution's weight: a (n, channels, *space) correlated with z (n, outputs, *space').

    `swapped`: a is the back-propagated signal and z the input (a transposed convolution).
    """

    a: Tensor
    z: Tensor
    geometry: Geometry
    bias: bool = False
    swapped: bool = False

    @property
    def signal(self) -> Tensor:
        """The back-propagated signal."""
        return self.a if self.swapped else self.z

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (outputs, channels / groups, *kernel)."""
        return self.z.shape[1], self.a.shape[1] // self.geometry.groups, *self.geometry.kernel

    @property
    def factor_size(self) -> int:
        """Elements kept per example."""
        return self.a[0].numel() + self.z[0].numel()

    def rows(self) -> Tensor:
        """The gradients of the weight (n, outputs, channels / groups, *kernel)."""
        return weight_gradients(self.a, self.z, self.geometry)

    def bias_rows(self) -> Tensor:
        """The gradients of the bias (n, outputs)."""
        return self.z.flatten(2).sum(2)

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        n, weight = len(self.a), prod(self.shape)
        pixels, positions = self.a[0, 0].numel(), self.z[0, 0].numel()
        if self.geometry.groups == 1 and pairs_are_cheaper(
            n, pixels**2, positions, self.a.shape[1], self.z.shape[1], weight
        ):
            return self._gram_of_pairs()
        return gram_of_rows(self._blocks())

    def _gram_of_pairs(self) -> Tensor:
        space, out_space = tuple(self.a.shape[2:]), tuple(self.z.shape[2:])

        def shift(tile: Tensor, left: int, right: int) -> Tensor:
            return add_windows(tile, left, right, space, out_space, self.geometry)

        a, z = self.a.flatten(2).transpose(1, 2), self.z.flatten(2).transpose(1, 2)
        return gram_of_pairs(a, z, self.bias, None if self.geometry.pointwise else shift)

    def _blocks(self) -> Iterator[Tensor]:
        outputs, groups = self.z.shape[1], self.geometry.groups
        step = block_rows(len(self.a), prod(self.shape[1:]), self.a.device) if groups == 1 else outputs
        for start in range(0, outputs, step):
            yield gradient_rows(self.a, self.z[:, start : start + step], self.geometry)
        if self.bias:
            yield self.bias_rows()

    def scaled(self, scale: Tensor) -> "Correlation":
        """Each gradient times its own factor."""
        signal = self.signal * per_example(scale, self.signal)
        return replace(self, a=signal) if self.swapped else replace(self, z=signal)

    @classmethod
    def join(cls, forms: Sequence["Correlation"]) -> "Correlation":
        """More examples of the same weight."""
        if len(forms) == 1:
            return forms[0]
        return replace(
            forms[0], a=torch.cat([form.a for form in forms]), z=torch.cat([form.z for form in forms])
        )


@dataclass(frozen=True)
class Scatter:
    """Gradient of a lookup table: z (n, t, width) added up in rows index (n, t) of a table of `size` rows."""

    index: Tensor
    z: Tensor
    size: int
    bias: bool = False

    @property
    def signal(self) -> Tensor:
        """The back-propagated signal."""
        return self.z

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table."""
        return self.size, self.z.shape[2]

    @property
    def factor_size(self) -> int:
        """Elements kept per example."""
        return self.index[0].numel() + self.z[0].numel()

    def rows(self) -> Tensor:
        """The gradients of the table (n, size, width)."""
        out = self.z.new_zeros(len(self.z), *self.shape)
        return out.scatter_add_(1, self.index[:, :, None].expand_as(self.z), self.z)

    def bias_rows(self) -> Tensor:
        """A table has no bias."""
        raise ValueError("a lookup table has no bias")

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        used, index = self.index.unique(return_inverse=True)
        n, width = len(self.z), self.z.shape[2]
        step = block_rows(n, len(used), self.z.device)

        def blocks() -> Iterator[Tensor]:
            for start in range(0, width, step):
                yield Scatter(index, self.z[:, :, start : start + step], len(used)).rows().flatten(1)

        return gram_of_rows(blocks())

    def scaled(self, scale: Tensor) -> "Scatter":
        """Each gradient times its own factor."""
        return replace(self, z=self.z * per_example(scale, self.z))

    @classmethod
    def join(cls, forms: Sequence["Scatter"]) -> "Scatter":
        """More examples of the same table."""
        if len(forms) == 1:
            return forms[0]
        return replace(
            forms[0], index=torch.cat([form.index for form in forms]), z=torch.cat([form.z for form in forms])
        )
