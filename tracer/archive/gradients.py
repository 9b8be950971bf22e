"""Per-example gradients rebuilt, in NumPy, from the factors an archive stores.

A block is a piece of the flat values of a snapshot: either a gradient itself (``full``), or what the gradient
is a product of: the inputs `a` of a call and the back-propagated signals `z` at its outputs (of a lookup
table: the rows looked up). Blocks of one tensor add up.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tracer.errors import ArchiveError, MissingTraceError, did_you_mean

Read = Callable[[int, int], np.ndarray]


def rebuild(blocks: Sequence[Mapping[str, Any]], tensor: str, read: Read) -> np.ndarray:
    """Return the gradient of each example's loss with respect to ``tensor``, (example, *shape), in the dtype stored.

    ``read(start, stop)`` gives that range of the flat values. Errors: MissingTraceError if no block is of the
    tensor.
    """
    own = [block for block in blocks if block["tensor"] == tensor]
    if not own:
        names = dict.fromkeys(block["tensor"] for block in blocks)
        raise MissingTraceError(f"no gradients of {tensor!r} are recorded; {did_you_mean(tensor, names)}")
    total = _block(blocks, own[0], read)
    for block in own[1:]:
        total = total + _block(blocks, block, read)
    return total


def linear_factors(
    blocks: Sequence[Mapping[str, Any]], tensor: str, read: Read
) -> tuple[np.ndarray, np.ndarray] | None:
    """Inputs a (n, in) and signals z (n, out) of which ``tensor``'s gradient of example i is z_i a_i'.

    None where it is no single outer product: other layers, several calls, several positions an example.
    """
    own = [block for block in blocks if block["tensor"] == tensor]
    if len(own) != 1 or own[0]["form"] != "outer":
        return None
    a, z = _part(own[0], "a", read), _part(own[0], "z", read)
    return (a[:, 0], z[:, 0]) if a.shape[1] == 1 else None


def _block(blocks: Sequence[Mapping[str, Any]], block: Mapping[str, Any], read: Read) -> np.ndarray:
    match block["form"]:
        case "full":
            return _part(block, "grad", read)
        case "outer":
            return outer(_part(block, "a", read), _part(block, "z", read))
        case "conv":
            return convolution(_part(block, "a", read), _part(block, "z", read), block)
        case "sum":
            source = blocks[block["source"]]
            z = _part(source, "z", read)
            positions = tuple(range(2, z.ndim)) if source["form"] == "conv" else tuple(range(1, z.ndim - 1))
            return z.sum(axis=positions)
        case "scatter":
            return scatter(_part(block, "index", read), _part(block, "z", read), block["shape"])
        case "zero":
            return np.zeros((_examples(blocks), *block["shape"]), np.float32)
        case form:
            raise ArchiveError(
                f"gradients of {block['tensor']!r} are stored in an unknown form {form!r}; update tracer"
            )


def _part(block: Mapping[str, Any], name: str, read: Read) -> np.ndarray:
    part = next((part for part in block.get("parts", []) if part["name"] == name), None)
    if part is None:
        raise ArchiveError(
            f"the gradient block of {block['tensor']!r} lacks its part {name!r}; the archive is damaged"
        )
    return read(part["offset"], part["offset"] + prod(part["shape"])).reshape(part["shape"])


def _examples(blocks: Sequence[Mapping[str, Any]]) -> int:
    return next((part["shape"][0] for block in blocks for part in block.get("parts", [])), 0)


def scatter(index: np.ndarray, z: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Add signals z (n, t, width) to the rows index (n, t) of a table of this shape, (n, *shape).

    >>> scatter(np.array([[2.0, 2.0]]), np.ones((1, 2, 1)), (3, 1))[0, :, 0]
    array([0., 0., 2.])

    Errors: ArchiveError for a row that the table does not have.
    """
    rows = index.astype(np.int64)
    if ((rows < 0) | (rows >= shape[0]) | (rows != index)).any():
        raise ArchiveError(f"a gradient block adds to rows that a table of {shape[0]} rows does not have")
    total = np.zeros((len(z), *shape), z.dtype)
    np.add.at(total, (np.arange(len(z))[:, None], rows), z)
    return total


def outer(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Sum over t of z_t a_t': inputs (n, t, in) and signals (n, t, out) to (n, out, in).

    >>> outer(np.ones((1, 2, 3)), np.array([[[1.0], [2.0]]]))
    array([[[3., 3., 3.]]])
    """
    return np.matmul(np.swapaxes(z, 1, 2), a)


def convolution(a: np.ndarray, z: np.ndarray, block: Mapping[str, Any]) -> np.ndarray:
    """Correlate inputs (n, in, *space) with signals (n, out, *space) into (n, out, in / groups, *kernel).

    ``block`` gives kernel, stride, padding and dilation, one number an axis of space, and groups.
    """
    n, n_out, groups = len(a), z.shape[1], block["groups"]
    kernel, stride, dilation = block["kernel"], block["stride"], block["dilation"]
    padded = np.pad(a, [(0, 0), (0, 0), *((p, p) for p in block["padding"])])
    places = prod(z.shape[2:])
    signal = z.reshape(n, groups, n_out // groups, places)
    result = np.empty((n, groups, n_out // groups, a.shape[1] // groups, *kernel), np.result_type(a, z))
    for offset in product(*map(range, kernel)):
        window = tuple(
            slice(k * d, k * d + (extent - 1) * s + 1, s)
            for k, d, s, extent in zip(offset, dilation, stride, z.shape[2:], strict=True)
        )
        seen = padded[(slice(None), slice(None), *window)].reshape(n, groups, a.shape[1] // groups, places)
        result[(slice(None),) * 4 + offset] = np.matmul(signal, np.swapaxes(seen, 2, 3))
    return result.reshape(n, n_out, a.shape[1] // groups, *kernel)
