"""What query, key, value and mask of attention must be: the kernels read all by the sizes of one."""

import torch

from tracer.ops.constraints import Operands, seen, wrong


def queries(operands: Operands) -> str | None:
    """Query, key and value agree; heads of key and value may be one for all, with `enable_gqa` also one for several."""
    query, key, value = (operands[name] for name in ("query", "key", "value"))
    if min(query.ndim, key.ndim, value.ndim) < 2:
        return wrong("query", query, "have at least two axes, and key and value too")
    shared = operands.get("enable_gqa", False)
    lead = [list(t.shape[:-2]) for t in (query, key, value)]
    if shared and lead[0] and lead[1] and lead[1][-1] and lead[0][-1] % lead[1][-1] == 0:
        lead[0][-1] = lead[1][-1]
    elif lead[0] and lead[1] and lead[1][-1] == 1:
        lead[0][-1] = 1
    ends = query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]
    if lead[0] == lead[1] == lead[2] and ends:
        return None
    return (
        f"query, key and value are {seen([query, key, value])}: they must agree in examples, heads and widths"
    )


def flash(operands: Operands) -> str | None:
    """The fused kernel takes four dense axes, and a mask of all queries and keys."""
    query, key, value = (operands[name] for name in ("query", "key", "value"))
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if (
            tensor.ndim != 4
            or 0 in tensor.shape
            or tensor.stride(-1) != 1
            or tensor.shape[-1] != query.shape[-1]
        ):
            return wrong(name, tensor, "have four axes, none empty, the last dense and of the width of query")
    mask, sizes = operands["attn_mask"], [*query.shape[:3], key.shape[2]]
    if mask is None:
        return None
    fits = (
        mask.ndim in (2, 4)
        and list(mask.shape[-2:]) == sizes[2:]
        and mask.dtype in (query.dtype, torch.float32)
    )
    fits = fits and all(a in (1, b) for a, b in zip(mask.shape[:-2], sizes[:2], strict=False))
    return None if fits else wrong("attn_mask", mask, f"fit {sizes} and the dtype of query")
