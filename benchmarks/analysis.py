"""Pairwise quantities from products against loops over pairs."""

from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Work, case
from tracer import bits


def masks(n: int, units: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((n, units), dtype=np.float32) < 0.4


UNITS = 1 << 18


@case("a loop over pairs of examples", repeats=1)
def cross_similarity() -> Iterator[tuple[str, Work, Work, float]]:
    now, before = masks(256, UNITS), masks(256, UNITS)
    packed_now, packed_before = bits.pack(now), bits.pack(before)

    def ours() -> None:
        both = packed_now & packed_before
        joint = bits.overlap(both, 256)
        alone = bits.overlap(packed_now, 256) * bits.overlap(packed_before, 256)
        np.divide(joint, np.sqrt(alone), out=np.full(joint.shape, np.nan), where=alone > 0)

    def theirs() -> None:
        for i in range(256):
            for j in range(i):
                a, b = now[i] & now[j], before[i] & before[j]
                (a & b).sum() / np.sqrt(a.sum() * b.sum())

    yield "256 examples, 262,144 units", ours, theirs, 1 / 150


@case("half an int8 product of the unpacked masks", repeats=5)
def overlap_of_masks() -> Iterator[tuple[str, Work, Work, float]]:
    import torch

    dense = torch.from_numpy(masks(512, 1 << 18).astype(np.int8))
    packed = bits.pack(dense.numpy().astype(bool))
    yield (
        "512 examples, 262,144 units",
        lambda: bits.overlap(packed, 512),
        lambda: torch._int_mm(dense[:256], dense.T),
        1 / 0.6,
    )
