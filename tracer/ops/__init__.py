"""What each ATen operation means to us: one record an operation, the only place that knows.

A record also is the permission to run the operation from an archive from elsewhere. So only named, functional overloads
have one: none that write in place, read files or foreign memory. Adding an operation is one record in the file of its
kind (`docs/add-an-op.md`); no other code names operations.
"""

from tracer.ops import (
    activations,
    arithmetic,
    fourier,
    indexing,
    integers,
    layers,
    linear,
    losses,
    norms,
    pooling,
    shapes,
)
from tracer.ops.record import (
    Activation,
    Argument,
    Convolution,
    Normalisation,
    Op,
    Operand,
    Pool,
    Rule,
    short,
)

__all__ = [
    "ACTIVATIONS",
    "APPLIED",
    "ITEM",
    "OPERATORS",
    "OPS",
    "PRODUCT",
    "SIZE",
    "SQUEEZE",
    "SUM",
    "Activation",
    "Argument",
    "Convolution",
    "Normalisation",
    "Op",
    "Operand",
    "Pool",
    "Rule",
    "alias",
    "effort",
    "op",
    "overload",
    "short",
]

OPS: dict[str, Op] = {
    record.name: record
    for kind in (
        activations,
        arithmetic,
        fourier,
        indexing,
        integers,
        layers,
        linear,
        losses,
        norms,
        pooling,
        shapes,
    )
    for record in kind.RECORDS
}

# By the names that functions of Python have: the nonlinearities, and what applies weights.
ACTIVATIONS = {record.short: record.activation for record in OPS.values() if record.activation is not None}
APPLIED = {
    record.short: record.rule for record in OPS.values() if record.rule is not None and record.rule.call
}
OPERATORS = {"__matmul__": "matmul"}

# Of which others make rows, or whose rows they look for.
ITEM = "getitem"
SIZE = "aten.sym_size.int"
PRODUCT = "aten.mul.Tensor"
SUM = "aten.sum.dim_IntList"
SQUEEZE = "aten.squeeze.dims"


def op(name: str) -> Op:
    """The record of an operation; one that is not listed means nothing to us.

    >>> op("aten.linear.default").rule.name, op("aten.linear.default").rule.weight
    ('linear', 1)
    >>> op("aten.bernoulli.default").activation is None
    True
    """
    return OPS.get(name) or Op(name)


def overload(name: str, kind: str = "default") -> str:
    """The full name of an operation that Python calls by its own name.

    >>> overload("relu")
    'aten.relu.default'
    """
    return f"aten.{name}.{kind}"


def alias(name: str) -> str:
    """The operation that an operator of Python is, which has an overload of its own.

    >>> alias("aten.__and__.Tensor"), alias("aten.relu.default")
    ('aten.bitwise_and.Tensor', 'aten.relu.default')
    """
    return name.replace("aten.__", "aten.bitwise_").replace("__.", ".") if "aten.__" in name else name


def effort(name: str) -> str | None:
    """What the work of an operation grows with besides its tensors: its "window", a "matrix" product, or a "sort".

    >>> [effort(f"aten.{name}.default") for name in ("max_pool2d_with_indices", "_cdist_forward", "sort")]
    ['window', 'matrix', 'sort']
    """
    if name.startswith(("aten.sort.", "aten.argsort.", "aten.topk.")):
        return "sort"
    if "_pool" in name:
        return "window"
    return "matrix" if "matrix_exp" in name or "cdist" in name else None
