"""The constraints of the operations that need some of their own, by families of like operands."""

from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor

from tracer.ops.attention import flash, queries
from tracer.ops.constraints import (
    Constraint,
    Operands,
    Values,
    alike,
    axis_of,
    between,
    bounds,
    dtype_of,
    filled,
    in_range,
    indices,
    per_channel,
    rank,
    seen,
    shaped,
    wrong,
)
from tracer.ops.recurrent import cell, recurrent

_INTEGERS = (torch.int64, torch.int32)


def _divides(groups: str) -> Constraint:
    def holds(operands: Operands) -> str | None:
        channels = axis_of(operands["input"], 1)
        if operands[groups] > 0 and channels % operands[groups] == 0:
            return None
        return wrong(groups, operands[groups], f"divide the {channels} channels of input")

    return holds


def _said_sizes(operands: Operands) -> str | None:
    value, said = operands["input"], [operands[name] for name in ("N", "C", "HxW")]
    true = [*value.shape[:2], prod(value.shape[2:])]
    return None if said == true else f"N, C, HxW are {said} and must be those of input, {true}"


def _trailing(operands: Operands) -> str | None:
    shape, value = list(operands["normalized_shape"]), operands["input"]
    if shape and list(value.shape[-len(shape) :]) == shape:
        return None
    return wrong("normalized_shape", shape, f"be the last sizes of input, {seen(value)}")


def _normalized(*names: str) -> list[Constraint]:
    shapes = [
        shaped(name, lambda operands: list(operands["normalized_shape"]), "which is normalized_shape")
        for name in names
    ]
    return [_trailing, alike("input", *names), *shapes]


_STATISTICS = ("weight", "bias", "running_mean", "running_var")
_BATCH_NORM = [rank("input", 2), alike("input", *_STATISTICS), *per_channel(*_STATISTICS)]


def _classes(value: Tensor) -> int:
    return 1 if value.ndim > 1 else 0


def _class_indices(operands: Operands) -> str | None:
    scores, target = operands["self"], operands["target"]
    if target.dtype not in (torch.int64, torch.uint8):
        return wrong("target", target, "be int64 or uint8")
    axis, sizes = _classes(scores), list(scores.shape)
    wanted = sizes[:axis] + sizes[axis + 1 :]
    if scores.ndim == 0 or list(target.shape) != wanted:
        return wrong(
            "target", target, f"have shape {wanted}, that of self {seen(scores)} without its classes"
        )
    return None


def _weights(operands: Operands) -> str | None:
    scores, weight = operands["self"], operands["weight"]
    if scores.ndim == 0:
        return wrong("self", scores, "have classes")
    n = scores.shape[_classes(scores)]
    if weight is None or (list(weight.shape) == [n] and weight.dtype == scores.dtype):
        return None
    return wrong("weight", weight, f"hold one number a class, {n}, of the dtype of self")


def _in_classes(operands: Operands) -> str | None:
    return indices("target", "self", _classes(operands["self"]), ignore="ignore_index")(operands)


_NLL: list[Constraint] = [_class_indices, _weights, Values(_in_classes)]


def _probabilities(operands: Operands) -> bool:
    return bool(operands["target"].is_floating_point() and operands["self"].shape == operands["target"].shape)


_CROSS_ENTROPY: list[Constraint] = [
    lambda operands: None if _probabilities(operands) else _class_indices(operands),
    _weights,
    Values(lambda operands: None if _probabilities(operands) else _in_classes(operands)),
]


def _one_a_row(operands: Operands) -> str | None:
    scores, target = operands["self"], operands["target"]
    n = scores.shape[0] if scores.ndim > 1 else 1
    if 1 <= scores.ndim <= 2 and target.ndim <= 1 and target.numel() == n and target.dtype == torch.int64:
        return None
    return wrong("target", target, f"be int64 [{n}], one class for each row of self {seen(scores)}")


def _like_scores(operands: Operands) -> str | None:
    target, scores = operands["target"], operands["self"]
    if target.shape == scores.shape and target.dtype == torch.int64 and 1 <= scores.ndim <= 2:
        return None
    return wrong("target", target, f"be int64 of the shape of self, {seen(scores)}")


def _last_classes(low: int) -> Values:
    return Values(lambda operands: indices("target", "self", -1, low=low)(operands))


_MULTILABEL: list[Constraint] = [_like_scores, filled("self"), _last_classes(-1)]


def _alignments(operands: Operands) -> str | None:
    scores, targets, blank = operands["log_probs"], operands["targets"], operands["blank"]
    if scores.ndim not in (2, 3) or 0 in scores.shape:
        return wrong("log_probs", scores, "be of shape (time, example, class), none of them 0")
    time, n, classes = scores.shape[0], 1 if scores.ndim == 2 else scores.shape[1], scores.shape[-1]
    if not 0 <= blank < classes:
        return wrong("blank", blank, f"be a class, from 0 to {classes - 1}")
    for name, most in (("input_lengths", time), ("target_lengths", targets.numel())):
        lengths = operands[name]
        if len(lengths) != n or not all(0 <= length <= most for length in lengths):
            return wrong(name, lengths, f"hold {n} numbers from 0 to {most}")
    wanted = operands["target_lengths"]
    if targets.ndim == 2 and (targets.shape[0] != n or max(wanted) > targets.shape[1]):
        return wrong("targets", targets, f"hold {n} rows of at least {max(wanted)} classes")
    if targets.ndim != 2 and (targets.ndim != 1 or sum(wanted) > targets.numel()):
        return wrong("targets", targets, f"hold the {sum(wanted)} classes that target_lengths count")
    return None


def _bags(operands: Operands) -> str | None:
    values, offsets, weights = operands["indices"], operands["offsets"], operands["per_sample_weights"]
    least = 2 if operands["include_last_offset"] else 1
    if values.ndim != 1 or offsets.ndim != 1 or offsets.numel() < least or offsets.dtype != values.dtype:
        return (
            f"indices are {seen(values)} and offsets {seen(offsets)}: both must have one axis and one dtype, and "
            f"offsets at least {least} numbers"
        )
    n, skipped = operands["weight"].shape[0], operands["padding_idx"]
    if skipped is not None and not -n <= skipped < n:
        return wrong("padding_idx", skipped, f"be an index into the {n} rows of weight")
    fits = weights is None or (
        weights.shape == values.shape and weights.dtype == operands["weight"].dtype and not operands["mode"]
    )
    return None if fits else wrong("per_sample_weights", weights, "fit indices and weight, with mode 0")


def _ordered(operands: Operands) -> str | None:
    offsets, n = operands["offsets"], operands["indices"].numel()
    if torch._C._functorch.is_functorch_wrapped_tensor(offsets):
        return "offsets differ between examples and must not"
    if bounds(offsets) is None:
        return None
    numbers, whole = offsets.tolist(), operands["include_last_offset"]
    ends = numbers[-1] == n if whole else numbers[-1] <= n
    if numbers[0] == 0 and numbers == sorted(numbers) and ends:
        return None
    most = n if whole else f"at most {n}"
    return f"offsets are {seen(numbers)} and must rise from 0 to {most}, the number of indices"


def _magnitudes(operands: Operands) -> str | None:
    v, g, axis = (operands[name] for name in ("v", "g", "dim"))
    if not -1 <= axis < v.ndim:
        return wrong("dim", axis, f"be -1 or an axis of v, {seen(v)}")
    wanted = [v.shape[axis] if d == axis else 1 for d in range(v.ndim)]
    fits = g.numel() == 1 if axis == -1 else list(g.shape) == wanted
    return (
        None
        if fits and v.numel()
        else wrong("g", g, f"fit dim {axis} of v, {seen(v)}, which must not be empty")
    )


def _scales(operands: Operands) -> str | None:
    n, sizes, factors = operands["input"].ndim - 2, operands["output_size"], operands["scale_factors"]
    if sizes is not None and (len(sizes) != n or min(sizes, default=0) < 1):
        return wrong("output_size", sizes, f"hold {n} numbers above 0")
    if factors is not None and not (len(factors) == n and all(isfinite(s) and s > 0 for s in factors)):
        return wrong("scale_factors", factors, f"hold {n} numbers above 0")
    return None


def _affine(operands: Operands) -> str | None:
    theta, size = operands["theta"], list(operands["size"])
    n = len(size) - 2
    if n in (2, 3) and list(theta.shape) == [size[0], n, n + 1] and min(size) > 0:
        return None
    return wrong("theta", theta, f"fit size {seen(size)}: one matrix of n rows and n + 1 columns an example")


def _quotients(dividend: str = "self", divisor: str = "other") -> Values:
    """No least number of an integer type is divided by -1: the quotient does not exist, and the processor stops."""

    def holds(operands: Operands) -> str | None:
        a, b = operands[dividend], operands[divisor]
        if operands.get("rounding_mode", "floor") is None:
            return None
        if any(
            isinstance(value, float) or (isinstance(value, Tensor) and _inexact(value)) for value in (a, b)
        ):
            return None
        low = bounds(b) if isinstance(b, Tensor) else (b, b)
        if low is None or not low[0] <= -1 <= low[1] or a.dtype == torch.bool:
            return None
        limits, least = bounds(a), torch.iinfo(torch.result_type(a, b)).min
        if limits is None or limits[0] > least:
            return None
        return f"{dividend} holds {least} and {divisor} may hold -1, and that quotient does not exist"

    return Values(holds)


def _inexact(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _each_index(operands: Operands) -> str | None:
    into, axis = operands["self"], 0
    for position, tensor in enumerate(operands["indices"]):
        name = f"indices[{position}]"
        if tensor is None:
            axis += 1
        elif tensor.dtype in (torch.bool, torch.uint8):
            if tensor.shape != into.shape[axis : axis + tensor.ndim]:
                return wrong(name, tensor, f"have the sizes of self, {seen(into)}, from axis {axis} on")
            axis += tensor.ndim
        else:
            if _inexact(tensor):
                return wrong(name, tensor, "be of an integer dtype")
            if axis >= into.ndim:
                return wrong("indices", list(operands["indices"]), f"be at most {into.ndim}")
            clause = in_range(name, tensor, -into.shape[axis], into.shape[axis])
            if clause:
                return clause
            axis += 1
    return None


_PIECES = 1 << 16


def _pieces(operands: Operands) -> str | None:
    """Views cost no memory that is counted, so their number is."""
    length, n = axis_of(operands["self"], operands["dim"]), 0
    if "split_size" in operands:
        n = length // max(1, operands["split_size"])
    elif "split_sizes" not in operands:
        n = max(operands.get("sections", 0), min(length, operands.get("chunks", length)))
    if n <= _PIECES:
        return None
    return f"self, {seen(operands['self'])}, would be cut into {n} pieces and must be into at most {_PIECES}"


def _reflected(operands: Operands) -> str | None:
    """Where what lies outside is reflected, infinity is nowhere, and read from anywhere."""
    limits = bounds(operands["grid"]) if operands["padding_mode"] == 2 else None
    if limits is None or all(map(isfinite, limits)):
        return None
    return f"grid holds {limits[0]} to {limits[1]} and must hold finite numbers where padding_mode is 2"


def _hot(operands: Operands) -> str | None:
    n = operands["num_classes"]
    return None if n < 1 else in_range("self", operands["self"], 0, n)


_INDEX: list[Constraint] = [dtype_of("index", *_INTEGERS), indices("index", "self", "dim")]
_GRID: list[Constraint] = [alike("input", "grid"), filled("input"), Values(_reflected)]
_QUOTIENTS: list[Constraint] = [_quotients()]

_GROUPS: tuple[tuple[str, list[Constraint]], ...] = (
    (
        "_native_batch_norm_legit.no_stats",
        [rank("input", 2), alike("input", "weight", "bias"), *per_channel("weight", "bias")],
    ),
    (
        "_native_batch_norm_legit_functional.default _native_batch_norm_legit_no_training.default batch_norm.default "
        "instance_norm.default",
        _BATCH_NORM,
    ),
    ("layer_norm.default native_layer_norm.default", _normalized("weight", "bias")),
    ("rms_norm.default _fused_rms_norm.default", _normalized("weight")),
    (
        "group_norm.default",
        [
            rank("input", 2),
            _divides("num_groups"),
            alike("input", "weight", "bias"),
            *per_channel("weight", "bias"),
        ],
    ),
    (
        "native_group_norm.default",
        [
            *(rank("input", 2), _said_sizes, _divides("group"), alike("input", "weight", "bias")),
            *per_channel("weight", "bias"),
        ],
    ),
    ("_weight_norm.default", [alike("v", "g"), _magnitudes]),
    (
        "nll_loss.default nll_loss_forward.default nll_loss2d.default nll_loss2d_forward.default nll_loss_nd.default",
        _NLL,
    ),
    ("cross_entropy_loss.default", _CROSS_ENTROPY),
    ("multi_margin_loss.default", [_one_a_row, _weights, filled("self"), _last_classes(0)]),
    ("multilabel_margin_loss.default multilabel_margin_loss_forward.default", _MULTILABEL),
    (
        "ctc_loss.IntList",
        [dtype_of("targets", *_INTEGERS), _alignments, indices("targets", "log_probs", -1)],
    ),
    (
        "embedding.default",
        [rank("weight", 2, 2), dtype_of("indices", *_INTEGERS), indices("indices", "weight", 0)],
    ),
    (
        "embedding_bag.padding_idx",
        [
            rank("weight", 2, 2),
            filled("weight"),
            dtype_of("indices", *_INTEGERS),
            between("mode", 0, 2),
            _bags,
            Values(_ordered),
            indices("indices", "weight", 0),
        ],
    ),
    (
        "gather.default scatter.src scatter.value scatter_add.default scatter_reduce.two index_add.default",
        _INDEX,
    ),
    ("index_select.default", _INDEX),
    ("take_along_dim.default", [indices("indices", "self", "dim")]),
    ("index.Tensor index_put.default", [Values(_each_index)]),
    ("one_hot.default", [Values(_hot)]),
    ("chunk.default split.Tensor tensor_split.sections unbind.int", [_pieces]),
    ("grid_sampler.default grid_sampler_2d.default", _GRID),
    ("grid_sampler_3d.default", [*_GRID, between("interpolation_mode", 0, 1)]),
    ("affine_grid_generator.default", [_affine]),
    (
        "upsample_bicubic2d.vec upsample_bilinear2d.vec upsample_linear1d.vec upsample_nearest1d.vec "
        "upsample_nearest2d.vec upsample_nearest3d.vec upsample_trilinear3d.vec",
        [rank("input", 3, 5), filled("input"), _scales],
    ),
    (
        "div.Tensor_mode div.Scalar_mode floor_divide.default fmod.Tensor fmod.Scalar remainder.Tensor "
        "remainder.Scalar",
        _QUOTIENTS,
    ),
    ("scaled_dot_product_attention.default", [alike("query", "key", "value"), queries]),
    (
        "_scaled_dot_product_flash_attention_for_cpu.default",
        [alike("query", "key", "value"), queries, flash],
    ),
    ("lstm.input", [recurrent(4)]),
    ("gru.input", [recurrent(3)]),
    ("rnn_relu.input rnn_tanh.input", [recurrent(1)]),
    ("lstm_cell.default", [cell(4)]),
    ("gru_cell.default", [cell(3)]),
    ("rnn_relu_cell.default rnn_tanh_cell.default", [cell(1)]),
)

OPERANDS: dict[str, list[Any]] = {
    f"aten.{name}": constraints for names, constraints in _GROUPS for name in names.split()
}
