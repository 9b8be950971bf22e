"""Sketches: a few random sums of each example's gradient, whose inner products are on average those of the gradients.

A layer with more parameters than a sketch has numbers is sketched `BLOCKS` times over, each time with its own draw:
every element of its tensors is put into one of m buckets with a random sign, and each bucket is added up. Element
(i, j) of a tensor, i along its first axis and j along all others, flattened, falls into bucket

    (r[i] + c[j]) mod m    with sign    p[i] q[j]

so that a gradient which is a sum of outer products never has to be formed: buckets of the sum over t of z_t (outer) a_t
are the sum over t of circular convolutions of buckets of z_t and of a_t, which a Fourier transform multiplies. All that
is divided by the root of `BLOCKS`: the inner product of two sketches is the mean of what the blocks say, unbiased, of
relative variance about 1 / (BLOCKS m), and of how far the blocks differ follows how uncertain it is. A smaller layer
is kept as it is: its gradients, tensor after tensor, are their own sketch.

Draws are words of 64 bits: `numpy.random.Philox(key).random_raw()`, whose key is the BLAKE2b-128 digest, little-endian,
of "<seed>/<tensor>/<axis>", axis 0 or 1, first all of block 0, then of block 1, and so on. The upper bits of a word are
the bucket, its lowest bit, where it is 1, is the sign -. NumPy promises these words for good, on any machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from math import ceil, log2, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.gradients import Plan, Unit
from tracer.gradients.forms import Correlation, Form, Full, Outer, Scatter, Tied
from tracer.gradients.windows import patches

BLOCKS = 8
_PIECE = 1 << 20  # numbers of one array on the way to a sketch
WORKING = 8 * 4 * _PIECE  # bytes of all of them together, about
_PRODUCT = 1 / 16  # what a multiplication within a product of matrices costs beside an addition elsewhere


@dataclass(frozen=True)
class Setting:
    """How sketches are made. tolerance: standard error of a cosine, about; seed: of the draws."""

    tolerance: float = 1 / 32
    seed: int = 0

    @property
    def buckets(self) -> int:
        """Buckets of one block, a power of two.

        >>> Setting(1 / 32).buckets, Setting(0.1).buckets
        (128, 16)
        """
        return 1 << max(0, ceil(log2(1 / (BLOCKS * self.tolerance**2))))

    @property
    def numbers(self) -> int:
        """Numbers of a layer, at most."""
        return BLOCKS * self.buckets


def draw(seed: int, tensor: str, axis: int, size: int, *, buckets: int) -> np.ndarray:
    """Bucket of each entry of an axis in each block, plus `buckets` where its sign is -: int64 (block, size)."""
    key = int.from_bytes(blake2b(f"{seed}/{tensor}/{axis}".encode(), digest_size=16).digest(), "little")
    words = np.random.Philox(key=key).random_raw(BLOCKS * size).reshape(BLOCKS, size)
    bits = buckets.bit_length() - 1
    bucket = words >> np.uint64(64 - bits) if bits else np.zeros_like(words)
    return (bucket + np.uint64(buckets) * (words & np.uint64(1))).astype(np.int64)


class Projection:
    """Of one tensor of so many rows and columns: the draws of both, on a device."""

    def __init__(
        self, name: str, shape: Sequence[int], buckets: int, seed: int, device: torch.device
    ) -> None:
        self.buckets = buckets
        self.n_rows, self.n_columns, self._flat = (shape[0] if shape else 1), prod(shape[1:]), len(shape) < 2
        self._draw = partial(draw, seed, name, buckets=buckets)
        self._device = device

    @cached_property
    def _rows(self) -> Tensor:
        return torch.from_numpy(self._draw(0, self.n_rows)).to(self._device)

    @cached_property
    def _columns(self) -> Tensor:
        return torch.from_numpy(self._draw(1, self.n_columns)).to(self._device)

    def of(self, form: Form) -> Tensor:
        """Sketches (n, block, bucket) of the gradients of a tensor, the bias of a form left out."""
        match form:
            case Tied():
                outer, scatter = Outer(form.a, form.z), Scatter(form.index, form.s, form.size)
                return self._of_factors(outer.a, outer.z) + self._of_lookup(scatter)
            case Scatter():
                return self._of_lookup(form)
            case Outer() if self._factors_are_cheaper(form.a.shape[1]):
                return self._of_factors(form.a, form.z)
            case Correlation() if form.geometry.groups == 1 and self._factors_are_cheaper(
                form.z[0, 0].numel()
            ):
                return self._of_windows(form)
        return self._of_rows(form.rows())

    def _factors_are_cheaper(self, positions: int) -> bool:
        """Than the gradients themselves, which are so many rows to transform."""
        rows, columns = self.n_rows, self.n_columns
        transform = 3 * BLOCKS * self.buckets * max(1, self.buckets.bit_length() - 1)
        factors = positions * (BLOCKS * (rows + columns) + 2 * transform)
        full = rows * (BLOCKS * columns + transform) + positions * rows * columns * _PRODUCT
        return factors < full

    def _of_rows(self, rows: Tensor) -> Tensor:
        rows = rows.reshape(len(rows), self.n_rows, self.n_columns)
        if self._flat:
            return self._bucketed(rows[:, :, 0], self._rows).movedim(-1, 0)
        signs = self._turned(self._rows)[:, :, None]  # (block, frequency, 1, row)
        return self._in_pieces(lambda a: self._joined(a, self._columns, signs), rows)

    def _of_factors(self, a: Tensor, z: Tensor) -> Tensor:
        def sketch(a: Tensor, z: Tensor) -> Tensor:
            return self._joined(a, self._columns, self._transformed(z, self._rows))

        return self._in_pieces(sketch, a, z)

    def _of_windows(self, form: Correlation) -> Tensor:
        a, z, geometry = form.a, form.z.flatten(2).transpose(1, 2), form.geometry
        # Patches have the places of the kernel first, then channels; columns of the weight the other way round.
        columns = self._columns.unflatten(1, (a.shape[1], -1)).transpose(1, 2).flatten(1)
        positions, space = z.shape[1], form.z.shape[2:]

        def sketch(a: Tensor, z: Tensor) -> Tensor:
            seen = a.flatten(2).transpose(1, 2) if geometry.pointwise else patches(a, geometry, space)[:, 0]
            return self._joined(seen, columns, self._transformed(z, self._rows))

        return self._in_pieces(sketch, a, z, least=positions * self.n_columns)

    def _of_lookup(self, form: Scatter) -> Tensor:
        def sketch(index: Tensor, z: Tensor) -> Tensor:
            drawn = self._rows[:, index.flatten().long()]
            return self._joined(z, self._columns, self._turned(drawn).unflatten(-1, index.shape))

        return self._in_pieces(sketch, form.index, form.z)

    def _in_pieces(self, sketch: Callable[..., Tensor], *factors: Tensor, least: int = 0) -> Tensor:
        """(n, block, bucket), of some examples at a time, each of which makes arrays of `least` numbers or more."""
        positions = factors[-1].shape[1]
        one = max(least, 2 * BLOCKS * self.buckets * positions, *(factor[0].numel() for factor in factors))
        pieces = zip(*(factor.split(max(1, _PIECE // one)) for factor in factors), strict=True)
        return torch.cat([sketch(*piece) for piece in pieces])

    def _joined(self, a: Tensor, columns: Tensor, side: Tensor) -> Tensor:
        """Sketches of the sum over positions of outer products: a (n, t, columns), side (block, frequency, n, t)."""
        spectrum = (self._transformed(a, columns) * side).sum(-1)
        return torch.fft.irfft(spectrum, n=self.buckets, dim=1).movedim(-1, 0)

    def _transformed(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Fourier transform of the buckets of x (n, t, feature): (block, frequency, n, t)."""
        n, positions, _ = x.shape
        return torch.fft.rfft(self._bucketed(x.flatten(0, 1), drawn), dim=1).unflatten(-1, (n, positions))

    def _bucketed(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Signed sums of the features of x (m, feature) that share a bucket: (block, bucket, m)."""
        features = x.t().contiguous()
        sums = features.new_zeros(BLOCKS, 2 * self.buckets, len(x))
        for block in range(BLOCKS):
            sums[block].index_add_(0, drawn[block], features)
        return sums[:, : self.buckets] - sums[:, self.buckets :]

    def _turned(self, drawn: Tensor) -> Tensor:
        """Fourier transform of single entries, each in its bucket: (block, frequency, entry)."""
        return self._waves[:, drawn].movedim(0, 1)

    @cached_property
    def _waves(self) -> Tensor:
        waves = torch.fft.rfft(torch.eye(self.buckets, device=self._device), dim=1).t()
        return torch.cat([waves, -waves], 1)


class Sketches:
    """How the gradients of an example come down to `size` numbers, layer after layer.

    layers: one object a layer: `layer`, `offset`, `size` and `buckets` (of a block; 0 where the numbers are the
    gradients themselves).
    """

    def __init__(
        self, plan: Plan, shapes: Mapping[str, Sequence[int]], setting: Setting, device: torch.device
    ) -> None:
        """For all trainable tensors of these shapes."""
        self.setting, self._plan = setting, plan
        self.layers: list[dict[str, Any]] = []
        self.size = 0
        self._places: dict[str, tuple[int, Projection | None]] = {}
        for layer in dict.fromkeys(plan.layer_of.values()):
            own = [name for name, owner in plan.layer_of.items() if owner == layer]
            whole, sketched = sum(prod(shapes[name]) for name in own), setting.numbers
            buckets = setting.buckets if whole > sketched else 0
            size, start = sketched if buckets else whole, self.size
            self.layers.append({"layer": layer, "offset": start, "size": size, "buckets": buckets})
            for name in own:
                made = Projection(name, shapes[name], buckets, setting.seed, device) if buckets else None
                self._places[name] = start, made
                start += 0 if buckets else prod(shapes[name])
            self.size += size

    @property
    def attributes(self) -> dict[str, Any]:
        """What the archive says of them."""
        about = {"seed": self.setting.seed, "tolerance": self.setting.tolerance, "blocks": BLOCKS}
        return {**about, "layers": self.layers}

    def add(self, values: Tensor, name: str, form: Form) -> None:
        """Add the sketches of a tensor's gradients, and of the bias the form speaks for, to values (n, size)."""
        if form.bias:
            self.add(values, self._plan.partner[name], Full(form.bias_rows()))
        offset, projection = self._places[name]
        rows = form.rows() if projection is None else projection.of(form) / BLOCKS**0.5
        rows = rows.reshape(len(rows), -1)
        values[:, offset : offset + rows.shape[1]] += rows


class SketchCollector:
    """Gathers sketches of one snapshot: each gradient is sketched as it arrives, and nothing of it is held."""

    def __init__(self, sketches: Sketches, counts: Mapping[str, int], device: torch.device) -> None:
        """Expect so many examples of each probe."""
        self._sketches = sketches
        self.values = {
            probe: torch.zeros(count, sketches.size, device=device) for probe, count in counts.items()
        }

    def begin(self, probe: str, start: int) -> None:
        """Say which examples come next: of `probe`, from `start` on."""
        self._probe, self._start = probe, start

    def receive(self, unit: Unit, forms: dict[str, Form]) -> None:
        """Take the gradients of some parameters for the examples of this chunk."""
        for name, form in forms.items():
            values = self.values[self._probe][self._start : self._start + len(form.signal)]
            self._sketches.add(values, name, form)

    def arrays(self) -> dict[str, dict[str, Tensor]]:
        """{group: {array: values}} of the snapshot."""
        return {f"probes/{probe}/sketches": {"values": values} for probe, values in self.values.items()}
