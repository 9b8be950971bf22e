"""Sites, calls and layers of a table: which rows are nonlinearities, which apply weights, who owns
parameters.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from tracer.network.table import Call, Layer, Row, Site, per_example, units
from tracer.ops import OPS, Activation, Argument, op, short
from tracer.ops.written import Written, constant, is_zero, written_out


def zero_constants(constants: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Names of the constants that are zero throughout (`torch.maximum(x, torch.tensor(0.0))`)."""
    return frozenset(name for name, value in constants.items() if not bool(value.any()))


def site_names(
    rows: Sequence[Row], activation_modules: Collection[str], zeros: Collection[str]
) -> dict[int, str]:
    """Row index -> site name: the module's path, or `path:op` if functional; `#k` from the second call on."""
    site_of = {index: nonlinearity(rows, row, zeros) for index, row in enumerate(rows) if not row.loss}
    inside = {part for one in site_of.values() if one is not None for part in one.inside}
    calls: Counter[str] = Counter()
    names = {}
    for index, one in site_of.items():
        if one is not None and index not in inside:
            row = rows[index]
            base = row.module if row.module in activation_modules else f"{row.module}:{one.name}"
            calls[base] += 1
            names[index] = base if calls[base] == 1 else f"{base}#{calls[base]}"
    return names


def find_sites(rows: Sequence[Row], names: Mapping[int, str], zeros: Collection[str]) -> list[Site]:
    """The nonlinearities, in execution order; one whose example axis is unknown has no mask and no units."""
    sites = []
    for index, name in names.items():
        row = rows[index]
        kind = nonlinearity(rows, row, zeros)
        shape = per_example(row)
        if kind is None:
            continue
        activation = kind.activation
        sites.append(
            Site(
                name=name,
                row=index,
                op=row.op,
                module=row.module,
                shape=shape or (),
                n_units=0 if shape is None else units(shape),
                has_mask=activation.mask is not None and shape is not None,
                kind=activation.mask,
                slope=_slope(row, activation),
                argument=kind.argument,
                scale=kind.scale,
            )
        )
    return sites


def nonlinearity(rows: Sequence[Row], row: Row, zeros: Collection[str]) -> Written | None:
    """The nonlinearity a row is, and which of its arguments is the pre-activation; None for any other row."""
    if row.dtype and row.dtype.startswith(("int", "uint", "bool")):  # clamped ids are no activations
        return None
    activation = op(row.op).activation
    if activation is None:
        return written_out(rows, row, zeros)
    for position in activation.zero:
        if position >= len(row.args) or constant(row.args[position]) != 0:
            return None
    name = short(row.op)
    if activation.either:
        zero = [is_zero(rows, argument, zeros) for argument in row.args[:2]]
        return Written(activation, zero.index(False), name) if sum(zero) == 1 else None
    return Written(activation, 0, name)


def is_random(row: Row) -> bool:
    """Whether a row draws random numbers: by its entry, or for an operation off the list by PyTorch's own
    tag.
    """
    positions = op(row.op).random
    if row.op in OPS:
        return positions is not None and all(_truthy(row.args, position) for position in positions)
    call: Any = torch.ops
    for part in row.op.split("."):
        call = getattr(call, part, None)
    return torch.Tag.nondeterministic_seeded in getattr(call, "tags", ())


def _truthy(args: Sequence[Any], position: int) -> bool:
    return position < len(args) and bool(constant(args[position]))


def _slope(row: Row, activation: Activation) -> float | None:
    slope = activation.slope
    if isinstance(slope, Argument):
        return constant(slope.among(row.args))
    if isinstance(slope, tuple):
        return sum(constant(end.among(row.args)) or 0.0 for end in slope) / 2
    return slope


def find_calls(rows: Sequence[Row], parameters: Collection[str]) -> list[Call]:
    """Executions of Linear and Conv rows, in order; `#k` from a module's second call on."""
    counts: Counter[str] = Counter()
    calls = []
    for index, row in enumerate(rows):
        if not _is_call(row, parameters):
            continue
        base = row.module or f":{short(row.op)}"
        counts[base] += 1
        name = base if counts[base] == 1 else f"{base}#{counts[base]}"
        calls.append(Call(name, index, row.op, row.module, per_example(row) or ()))
    return calls


def _is_call(row: Row, parameters: Collection[str]) -> bool:
    rule = op(row.op).rule
    if rule is None or not rule.call:
        return False
    weight = row.args[rule.weight] if rule.weight < len(row.args) else None
    ours = isinstance(weight, dict) and weight.get("tensor") in parameters
    return ours or (rule.call is True and not row.loss)


def find_layers(rows: Sequence[Row], trainable: Iterable[str]) -> list[Layer]:
    """Owners of trainable parameters in order of first use, those never used last."""
    trainable = list(trainable)
    wanted = set(trainable)
    used = [key for row in rows for kind, key in row.references() if kind == "tensor" and key in wanted]
    owned: dict[str, list[str]] = {}
    for name in [*used, *trainable]:
        members = owned.setdefault(owner(name), [])
        if name not in members:
            members.append(name)
    order = {name: position for position, name in enumerate(trainable)}
    return [Layer(name, tuple(sorted(members, key=order.__getitem__))) for name, members in owned.items()]


def owner(parameter: str) -> str:
    """Path of the module a parameter belongs to; one owned by the root is its own layer.

    >>> owner("block.fc.weight"), owner("fc.parametrizations.weight.original0"), owner("scale")
    ('block.fc', 'fc', 'scale')
    """
    before, separator, _ = parameter.partition(".parametrizations.")
    if separator:
        return before
    return parameter.rpartition(".")[0] or parameter
