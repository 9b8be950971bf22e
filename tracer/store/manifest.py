"""The manifest: one row for each object that will not change again, and a digest that chains over them."""

from hashlib import blake2b

import numpy as np

MANIFEST = "manifest/objects"


def entry(array: int, numbers: tuple[int, ...], wrote: tuple[int, int], commit: int) -> list[int]:
    """The row of an object: number of its array, first two numbers of its key, bytes and checksum, first commit."""
    return [array, *(*numbers, 0, 0)[:2], *wrote, commit]


def chain(digest: bytes, row: np.ndarray) -> bytes:
    """Digest of a manifest that ends in ``row`` (int64) after rows of digest ``digest``."""
    return blake2b(digest + row.astype("<i8").tobytes(), digest_size=32).digest()
