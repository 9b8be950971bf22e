"""Pairwise quantities of masks: overlaps against an int8 product, similarities against loops over pairs."""

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Work, case, instructions
from tracer import bits


def packed_masks(n: int, units: int, seed: int = 0) -> bits.Bits:
    """Masks of which half of the bits are set."""
    return np.random.default_rng(seed).integers(0, 256, (units, n // 8), np.uint8)


@case("a loop over pairs of examples", repeats=3)
def cross_similarity() -> Iterator[tuple[str, Work, Work, float]]:
    for n, units in ((48, 1 << 14), (256, 1 << 18)):
        stored = packed_masks(n, units), packed_masks(n, units, 1)
        now, before = (np.ascontiguousarray(bits.unpack(packed, n)) for packed in stored)
        rows_now, rows_before = (bits.rows_of(packed, n) for packed in stored)

        def products(rows_now: bits.Rows = rows_now, rows_before: bits.Rows = rows_before) -> float:
            start = time.process_time()
            for _ in range(20):  # one alone is shorter than a tick of the clock
                bits.row_overlap(rows_now & rows_before)
            return (time.process_time() - start) / 20

        def product_loop(now: np.ndarray = now, before: np.ndarray = before) -> None:
            for i in range(len(now)):
                for j in range(len(now)):
                    a, b = now[i] & now[j], before[i] & before[j]
                    np.dot(a.astype(np.float32), b.astype(np.float32))

        yield f"products, {n} examples, {units:,} units", products, product_loop, 1 / 150

    # The next snapshot of a run: what was counted of the one before is known to both sides.
    known = bits.row_overlap(rows_before)

    def similarities() -> float:
        start = time.process_time()
        for _ in range(5):
            rows = bits.rows_of(stored[0], n)
            joint, alone = bits.row_overlap(rows & rows_before), bits.row_overlap(rows) * known
            np.divide(joint, np.sqrt(alone), out=np.full(joint.shape, np.nan), where=alone > 0)
        return (time.process_time() - start) / 5

    def similarity_loop() -> None:
        for i in range(n):
            for j in range(i):
                shared = now[i] & now[j]
                (shared & before[i] & before[j]).sum() / np.sqrt(shared.sum() * known[i, j])

    yield f"next snapshot, {n} examples, {units:,} units", similarities, similarity_loop, 1 / 150


@case(f"half an int8 product ({instructions()}) of the unpacked masks", repeats=5)
def overlap_of_masks() -> Iterator[tuple[str, Work, Work, float]]:
    import torch

    packed = packed_masks(512, 1 << 20)
    dense = torch.from_numpy(np.ascontiguousarray(bits.unpack(packed, 512)).view(np.int8))

    def half_a_product() -> float:
        start = time.process_time()
        torch._int_mm(dense, dense.T)
        return (time.process_time() - start) / 2

    yield "512 examples, 1,048,576 units", lambda: bits.overlap(packed, 512), half_a_product, 1 / 0.6


WITHOUT_TORCH = """
import sys, time
import numpy as np
from tracer import bits
packed = np.random.default_rng(0).integers(0, 256, (1 << 20, 64), np.uint8)
bits.overlap(packed[:8], 512)
start = time.process_time()
bits.overlap(packed, 512)
assert "torch" not in sys.modules
print(time.process_time() - start)
"""


@case("the same where torch is imported", repeats=5)
def overlap_without_torch() -> Iterator[tuple[str, Work, Work, float]]:
    packed = packed_masks(512, 1 << 20)

    def without_torch() -> float:
        out = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, capture_output=True)
        return float(out.stdout)

    yield "512 examples, 1,048,576 units", without_torch, lambda: bits.overlap(packed, 512), 6.0
