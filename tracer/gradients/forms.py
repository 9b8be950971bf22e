"""Per-example gradients of one tensor, kept as the factors that make them until rows or products are needed.

Every form stands for n gradients of a tensor, one an example. `bias` says that the form also stands for the
gradient of the bias that goes with the weight: as if the input had one more coordinate that is always 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from tracer.gradients import products
from tracer.gradients.products import (
    block_rows,
    gram_of_pairs,
    gram_of_rows,
    gram_of_vectors,
    pairs_are_cheaper,
)
from tracer.gradients.windows import Geometry, add_windows, gradient_rows, weight_gradients


@dataclass(frozen=True, kw_only=True)
class Form(ABC):
    """Gradients of a tensor (with `bias`, of its bias too), one an example: first axis of all tensors."""

    factors: ClassVar[tuple[str, ...]] = ("a", "z")

    bias: bool = False
    swapped: bool = False

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The factors by name."""
        return {name: getattr(self, name) for name in self.factors}

    @property
    def signal(self) -> Tensor:
        """The factor in which the gradient is linear, and which is small where the gradient is."""
        return getattr(self, self._signal_name)

    @property
    def _signal_name(self) -> str:
        return "a" if self.swapped else "z"

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    @property
    def factor_size(self) -> int:
        """Elements kept per example."""
        return sum(prod(tensor.shape[1:]) for tensor in self.tensors.values())

    @abstractmethod
    def rows(self, out: Tensor | None = None) -> Tensor:
        """The gradients of the tensor: (n, *shape), in `out` if given."""

    def bias_rows(self) -> Tensor:
        """The gradients of the bias that goes with it: (n, outputs)."""
        raise TypeError(f"{type(self).__name__} stands for one tensor, without a bias")

    @abstractmethod
    def gram(self) -> Tensor:
        """Inner products of the gradients, bias included where the form stands for it: (n, n).

        Sums are added up in float64; one product alone is as precise as its factors.
        """

    def scaled(self, scale: Tensor) -> Self:
        """The same gradients, each times its own factor: scale (n,)."""
        signal = self.signal
        factor = scale.to(signal.dtype).view(-1, *(1,) * (signal.ndim - 1))
        return self._with({self._signal_name: signal * factor})

    def head(self, n: int) -> Self:
        """The first n examples."""
        if len(self.signal) == n:
            return self
        return self._with({name: tensor[:n] for name, tensor in self.tensors.items()})

    def without_values(self) -> Self:
        """The same with tensors that have only sizes."""
        return self._with({name: tensor.to("meta") for name, tensor in self.tensors.items()})

    @staticmethod
    def join(forms: Sequence["Form"]) -> "Form":
        """The same tensor's gradients of more examples; all of one kind."""
        if len(forms) == 1:
            return forms[0]
        names = forms[0].tensors
        joined = {name: torch.cat([form.tensors[name] for form in forms]) for name in names}
        return forms[0]._with(joined)

    def _with(self, tensors: dict[str, Tensor]) -> Self:
        changes: dict[str, Any] = dict(tensors)
        return replace(self, **changes)


@dataclass(frozen=True)
class Full(Form):
    """The gradients themselves: values (n, *shape)."""

    factors = ("values",)

    values: Tensor

    @property
    def _signal_name(self) -> str:
        return "values"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.values.shape[1:])

    def rows(self, out: Tensor | None = None) -> Tensor:
        """The gradients (n, *shape)."""
        return self.values if out is None else out.copy_(self.values)

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        return gram_of_rows([self.values.reshape(len(self.values), -1)])


@dataclass(frozen=True)
class Outer(Form):
    """Gradient = sum over positions t of z_t (outer) a_t: a (n, t, inputs), z (n, t, outputs).

    `swapped`: a is the back-propagated signal and z the input (a weight stored as inputs x outputs).
    """

    a: Tensor
    z: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (outputs, inputs)."""
        return self.z.shape[2], self.a.shape[2]

    def rows(self, out: Tensor | None = None) -> Tensor:
        """The gradients of the weight (n, outputs, inputs)."""
        left = self.z.transpose(1, 2)
        return torch.bmm(left, self.a) if out is None else torch.bmm(left, self.a, out=out)

    def bias_rows(self) -> Tensor:
        """The gradients of the bias (n, outputs)."""
        return self.z.sum(1)

    def gram(self) -> Tensor:
        """Inner products (n, n): of single positions in their own precision, else float64."""
        n, positions, inputs = self.a.shape
        if positions == 1:
            return gram_of_vectors(self.a[:, 0], self.z[:, 0], self.bias)
        outputs = self.z.shape[2]
        if pairs_are_cheaper(n, positions**2, positions, inputs, outputs, inputs * outputs, self.a.device):
            return gram_of_pairs(self.a, self.z, self.bias)
        return gram_of_rows(self._blocks())

    def _blocks(self) -> Iterator[Tensor]:
        step = block_rows(len(self.a), self.a.shape[2], self.a.device)
        for start in range(0, self.z.shape[2], step):
            yield torch.bmm(self.z[:, :, start : start + step].transpose(1, 2), self.a).flatten(1)
        if self.bias:
            yield self.bias_rows()

    @staticmethod
    def merge(forms: Sequence["Outer"]) -> "Outer":
        """The sum of several uses of one weight by the same examples."""
        a, z = (torch.cat([form.tensors[name] for form in forms], 1) for name in ("a", "z"))
        return replace(forms[0], a=a, z=z)


@dataclass(frozen=True)
class Correlation(Form):
    """Gradient of a convolution's weight: a (n, channels, *space) correlated with z (n, outputs, *space').

    `swapped`: a is the back-propagated signal and z the input (a transposed convolution).
    """

    a: Tensor
    z: Tensor
    geometry: Geometry

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight: (outputs, channels / groups, *kernel)."""
        return self.z.shape[1], self.a.shape[1] // self.geometry.groups, *self.geometry.kernel

    def rows(self, out: Tensor | None = None) -> Tensor:
        """The gradients of the weight (n, outputs, channels / groups, *kernel)."""
        return weight_gradients(self.a, self.z, self.geometry, out)

    def bias_rows(self) -> Tensor:
        """The gradients of the bias (n, outputs)."""
        return self.z.flatten(2).sum(2)

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        n, channels, outputs = len(self.a), self.a.shape[1], self.z.shape[1]
        pixels, positions = self.a[0, 0].numel(), self.z[0, 0].numel()
        by_pairs = pairs_are_cheaper(
            n, pixels**2, positions, channels, outputs, prod(self.shape), self.a.device
        )
        if self.geometry.groups == 1 and by_pairs:
            return self._gram_of_pairs()
        return gram_of_rows(self._blocks())

    def _gram_of_pairs(self) -> Tensor:
        space, out_space = tuple(self.a.shape[2:]), tuple(self.z.shape[2:])

        def shift(tile: Tensor, left: int, right: int) -> Tensor:
            return add_windows(tile, left, right, space, out_space, self.geometry)

        a, z = self.a.flatten(2).transpose(1, 2), self.z.flatten(2).transpose(1, 2)
        return gram_of_pairs(a, z, self.bias, None if self.geometry.pointwise else shift)

    def _blocks(self) -> Iterator[Tensor]:
        outputs, columns = self.z.shape[1], prod(self.shape[1:])
        one_group = self.geometry.groups == 1
        step = block_rows(len(self.a), columns, self.a.device) if one_group else outputs
        for start in range(0, outputs, step):
            yield gradient_rows(self.a, self.z[:, start : start + step], self.geometry)
        if self.bias:
            yield self.bias_rows()


@dataclass(frozen=True)
class Scatter(Form):
    """Gradient of a lookup table: z (n, t, width) added up in rows index (n, t) of a table of `size` rows."""

    factors = ("index", "z")

    index: Tensor
    z: Tensor
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table."""
        return self.size, self.z.shape[2]

    @staticmethod
    def merge(forms: Sequence["Scatter"]) -> "Scatter":
        """The sum of several uses of one table by the same examples."""
        index, z = (torch.cat([form.tensors[name] for form in forms], 1) for name in ("index", "z"))
        return replace(forms[0], index=index, z=z)

    def rows(self, out: Tensor | None = None) -> Tensor:
        """The gradients of the table (n, size, width)."""
        out = self.z.new_zeros(len(self.z), *self.shape) if out is None else out.zero_()
        if products.may_look(out):
            return out.scatter_add_(1, self.index[:, :, None].expand_as(self.z), self.z)
        # That adds in any order on CUDA, and raises where the user wants determinism.
        example = torch.arange(len(out), device=out.device)[:, None].expand_as(self.index)
        return out.index_put_((example, self.index), self.z, accumulate=True)

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        index, size = self.index, self.size
        if products.may_look(index):
            used, index = index.unique(return_inverse=True)
            size = len(used)
        n, width = len(self.z), self.z.shape[2]
        step = block_rows(n, size, self.z.device)

        def blocks() -> Iterator[Tensor]:
            for start in range(0, width, step):
                yield Scatter(index, self.z[:, :, start : start + step], size).rows().flatten(1)

        return gram_of_rows(blocks())


@dataclass(frozen=True)
class Tied(Form):
    """Gradient of a table that is both looked up and multiplied by: the sum of an `Outer` and a `Scatter`.

    a (n, t, width), z (n, t, size) as of the one; index (n, t'), s (n, t', width) as of the other.
    """

    factors = ("a", "z", "index", "s")

    a: Tensor
    z: Tensor
    index: Tensor
    s: Tensor

    @staticmethod
    def of(outer: Outer, scatter: Scatter) -> "Tied":
        """The sum of both."""
        return Tied(outer.a, outer.z, scatter.index, scatter.z)

    @property
    def size(self) -> int:
        """Rows of the table."""
        return self.z.shape[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table."""
        return self.size, self.a.shape[2]

    def scaled(self, scale: Tensor) -> Self:
        """The same gradients, each times its own factor: scale (n,)."""
        factor = scale.to(self.z.dtype).view(-1, 1, 1)
        return self._with({"z": self.z * factor, "s": self.s * factor})

    def rows(self, out: Tensor | None = None) -> Tensor:
        """The gradients of the table (n, size, width)."""
        return Outer(self.a, self.z).rows(out).add_(Scatter(self.index, self.s, self.size).rows())

    def gram(self) -> Tensor:
        """Inner products, float64 (n, n)."""
        step = block_rows(len(self.a), self.a.shape[2], self.a.device)

        def blocks() -> Iterator[Tensor]:
            for start in range(0, self.size, step):
                z = self.z[:, :, start : start + step]
                inside = (self.index >= start) & (self.index < start + z.shape[2])
                index = (self.index - start).clamp(0, z.shape[2] - 1)
                s = self.s.masked_fill(~inside.unsqueeze(-1), 0)
                yield Tied(self.a, z, index, s).rows().flatten(1)

        return gram_of_rows(blocks())
