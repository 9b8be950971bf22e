"""Windows of a convolution: patches, weight gradients by example, products of patches from pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tracer.ops import kernels

_PATCHES = {"cpu": 1 << 18, "cuda": 1 << 26}  # elements of the patches made at a time
_GROUPED = 1 << 18  # elements of the weight gradients that one call of the library makes


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, padding (both sides alike) and dilation of each space dimension; number of groups."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def seen(self, space: Sequence[int]) -> tuple[int, ...]:
        """How many positions a convolution of this much space has, in each dimension."""
        sizes = zip(space, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)

    @property
    def pointwise(self) -> bool:
        """Whether each output position sees exactly its own pixel and all pixels are seen."""
        return all(
            (k, s, p) == (1, 1, 0) for k, s, p in zip(self.kernel, self.stride, self.padding, strict=True)
        )


def patches(a: Tensor, geometry: Geometry, out_space: torch.Size) -> Tensor:
    """What each output sees: a (n, channels, *space) -> (n, groups, position, kernel and channel)."""
    n, channels = a.shape[:2]
    padded = pad(a.movedim(1, -1), (0, 0, *_both_sides(geometry.padding))).contiguous()
    batch, *steps, one = padded.stride()
    inner = channels // geometry.groups
    size = (n, geometry.groups, *out_space, *geometry.kernel, inner)
    stride = (
        batch,
        inner * one,
        *(step * s for step, s in zip(steps, geometry.stride, strict=True)),
        *(step * d for step, d in zip(steps, geometry.dilation, strict=True)),
        one,
    )
    return padded.as_strided(size, stride).reshape(n, geometry.groups, out_space.numel(), -1)


def gradient_rows(a: Tensor, z: Tensor, geometry: Geometry) -> Tensor:
    """Gradients of the weight, flat and in any order of their entries, for inner products: (n, entries)."""
    n, outputs, groups = len(a), z.shape[1], geometry.groups
    out_space = z.shape[2:]
    if _library_is_faster(a, out_space):
        return weight_gradients(a, z, geometry).flatten(1)
    columns = a.shape[1] // groups * torch.Size(geometry.kernel).numel()
    signals = z.reshape(n, groups, outputs // groups, out_space.numel())
    rows = a.new_empty(n, groups, outputs // groups, columns)
    # Patches of a few examples stay in a core's cache until they are multiplied.
    held = _PATCHES["cpu" if a.device.type == "cpu" else "cuda"]
    step = max(1, held // (out_space.numel() * columns * groups))
    for start in range(0, n, step):
        part = slice(start, start + step)
        unfolded = patches(a[part], geometry, out_space)
        torch.matmul(signals[part], unfolded, out=rows[part])
    return rows.flatten(1)


def weight_gradients(a: Tensor, z: Tensor, geometry: Geometry, out: Tensor | None = None) -> Tensor:
    """Gradients of the weight, one an example: (n, outputs, channels / groups, *kernel), in `out` if given."""
    n, channels, outputs = len(a), a.shape[1], z.shape[1]
    shape = (outputs, channels // geometry.groups, *geometry.kernel)
    out = a.new_empty(n, *shape) if out is None else out
    if not _has_library(a):
        rows = gradient_rows(a, z, geometry).view(n, outputs, *geometry.kernel, shape[1])
        return out.copy_(rows.movedim(-1, 2))
    # Examples as groups of one convolution: a few at a time, whose gradients stay in a core's cache.
    step = max(1, _GROUPED // torch.Size(shape).numel())
    for x, signal, place in zip(a.split(step), z.split(step), out.split(step), strict=True):
        k = len(x)
        gradients = kernels.convolution_backward(
            signal.reshape(1, k * outputs, *z.shape[2:]),
            x.reshape(1, k * channels, *a.shape[2:]),
            place.view(k * outputs, *shape[1:]),  # looked at for its shape only
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            [0] * len(geometry.kernel),
            k * geometry.groups,
            [False, True, False],
        )[1]
        place.copy_(gradients.view(place.shape))
    return out


def _library_is_faster(a: Tensor, out_space: torch.Size) -> bool:
    return _has_library(a) and a[0].numel() > 20480 and out_space.numel() >= 256


def _has_library(a: Tensor) -> bool:
    # On an accelerator many small convolutions are nothing but launches.
    return a.device.type == "cpu"


def add_windows(
    tile: Tensor,
    left: int,
    right: int,
    space: tuple[int, ...],
    out_space: tuple[int, ...],
    geometry: Geometry,
) -> Tensor:
    """Inner products of patches from those of pixels.

    tile (pixels x left, pixels x right), pixel-major. A product of two patches is a sum over kernel offsets,
    the same offset on both sides, so it is a windowed sum along the diagonal of each space dimension, one
    dimension after another.
    """
    dims = len(space)
    products = tile.view(*space, left, *space, right)
    for d in range(dims):
        products = _add_along(products, d, dims + 1 + d, out_space[d], geometry, d)
    return products.reshape(left * _size(out_space), right * _size(out_space))


def _add_along(products: Tensor, first: int, second: int, size: int, geometry: Geometry, d: int) -> Tensor:
    kernel, stride = geometry.kernel[d], geometry.stride[d]
    if (kernel, stride, geometry.padding[d]) == (1, 1, 0):
        return products
    extent = products.shape[first]
    shape = list(products.shape)
    shape[first] = shape[second] = size
    total = products.new_zeros(shape)
    for k in range(kernel):
        offset = k * geometry.dilation[d] - geometry.padding[d]
        low = max(0, -(offset // stride))
        high = min(size - 1, (extent - 1 - offset) // stride)
        count = high - low + 1
        if count > 0:
            start = low * stride + offset
            seen = _strided(_strided(products, first, start, count, stride), second, start, count, stride)
            total.narrow(first, low, count).narrow(second, low, count).add_(seen)
    return total


def _strided(x: Tensor, dim: int, start: int, count: int, stride: int) -> Tensor:
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, start + (count - 1) * stride + 1, stride)
    return x[tuple(index)]


def _both_sides(padding: tuple[int, ...]) -> list[int]:
    return [side for p in reversed(padding) for side in (p, p)]


def _size(space: tuple[int, ...]) -> int:
    return torch.Size(space).numel()
