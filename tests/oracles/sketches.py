"""Sketches by their definition, in loops, with a Philox of our own: nothing of it is the package's."""

from hashlib import blake2b
from math import prod

import numpy as np

BLOCKS = 8


def philox(key: int, n: int) -> list[int]:
    """The first n words of Philox 4x64 with 10 rounds, after Salmon et al. 2011; the first counter is 1."""
    full, words = (1 << 64) - 1, []
    for counter in range(1, -(-n // 4) + 1):
        c, k = [counter, 0, 0, 0], [key & full, key >> 64]
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(second >> 64) ^ c[1] ^ k[0], second & full, (first >> 64) ^ c[3] ^ k[1], first & full]
            k = [(k[0] + 0x9E3779B97F4A7C15) & full, (k[1] + 0xBB67AE8584CAA73B) & full]
        words += c
    return words[:n]


def drawn(seed: int, tensor: str, axis: int, size: int, buckets: int) -> list[list[int]]:
    """Bucket of each entry in each block, plus `buckets` where its sign is -."""
    key = int.from_bytes(blake2b(f"{seed}/{tensor}/{axis}".encode(), digest_size=16).digest(), "little")
    bits = buckets.bit_length() - 1
    values = [(word >> (64 - bits)) + buckets * (word & 1) for word in philox(key, BLOCKS * size)]
    return [values[block * size : (block + 1) * size] for block in range(BLOCKS)]


def by_definition(rows: np.ndarray, name: str, buckets: int, seed: int) -> np.ndarray:
    """Sketches (n, block, bucket) of gradients (n, *shape): every element is added to its bucket with its sign."""
    shape = rows.shape[1:]
    first, others = shape[0] if shape else 1, prod(shape[1:])
    r = drawn(seed, name, 0, first, buckets)
    c = drawn(seed, name, 1, others, buckets) if len(shape) > 1 else [[0]] * BLOCKS
    out, g = np.zeros((len(rows), BLOCKS, buckets)), rows.reshape(len(rows), first, others)
    for b in range(BLOCKS):
        for i in range(first):
            for j in range(others):
                sign = (-1) ** (r[b][i] // buckets + c[b][j] // buckets)
                out[:, b, (r[b][i] + c[b][j]) % buckets] += sign * g[:, i, j]
    return out
