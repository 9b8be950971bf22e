"""What each ATen operation means to us: one entry an operation, the only place that knows.

An entry also is the permission to run the operation from a stranger's archive. So only named, functional
overloads are listed: none that write in place, read files or foreign memory. Adding an operation is one line
in `tracer.ops.names`, or one entry in `_PARTICULAR` here where it is a nonlinearity, has weights or may be
random.
"""

from dataclasses import dataclass

from tracer.ops import names


@dataclass(frozen=True)
class Activation:
    """A nonlinearity applied coordinate by coordinate.

    mask: what a stored bit means. "path": on = slope 1, off = 0 (ReLU). "gate": off has another slope (leaky
    ReLU). "convention": pre-activation > 0 by declaration only, the function is not piecewise linear (GELU).
    None: no mask (tanh).
    slope: the slope where off: a number, or the position of the argument holding it ("1").
    zero: (position, value) pairs an argument must have for the operation to be an activation at all
    (`clamp(min=0)`).
    """

    mask: str | None
    slope: float | str | None = None
    zero: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Rule:
    """Which arguments are input, weight and bias; `name` is the form of the per-example gradient."""

    name: str
    input: int
    weight: int
    bias: int | None = None


@dataclass(frozen=True)
class Op:
    """One operation: nonlinearity? weights? form in a positive-homogeneous pass (None: refused)? random?

    random: positions of the arguments that make it random when all are true or above zero (dropout's
    `train`).
    """

    activation: Activation | None = None
    rule: Rule | None = None
    homogeneous: str | None = None
    random: tuple[int, ...] | None = None


_PATH = Activation("path", 0.0)
_CONV = Rule("conv", 0, 1, 2)
_CONV_TRANSPOSE = Rule("conv_transpose", 0, 1, 2)
_BATCH_NORM = Rule("batch_norm", 0, 1, 2)
_CONVENTION = Op(Activation("convention"))
_PLAIN = Op(Activation(None), homogeneous="relu")
_SMOOTH = Op(Activation(None))

_PARTICULAR = {
    "aten.relu.default": Op(_PATH, homogeneous="relu"),
    "aten.threshold.default": Op(Activation("path", 0.0, zero=((1, 0.0), (2, 0.0))), homogeneous="relu"),
    "aten.clamp.default": Op(Activation("path", 0.0, zero=((1, 0.0),)), homogeneous="relu"),
    "aten.clamp_min.default": Op(Activation("path", 0.0, zero=((1, 0.0),)), homogeneous="relu"),
    "aten.maximum.default": Op(_PATH, homogeneous="relu"),
    "aten.leaky_relu.default": Op(Activation("gate", "1"), homogeneous="relu"),
    "aten.rrelu.default": Op(Activation("gate", "mean of 1 and 2"), homogeneous="relu", random=(3,)),
    "aten.prelu.default": Op(Activation("gate"), Rule("prelu", 0, 1)),
    "aten._prelu_kernel.default": Op(Activation("gate"), Rule("prelu", 0, 1)),
    "aten.hardtanh.default": _CONVENTION,
    "aten.relu6.default": _CONVENTION,
    "aten.elu.default": _CONVENTION,
    "aten.selu.default": _CONVENTION,
    "aten.celu.default": _CONVENTION,
    "aten.gelu.default": _CONVENTION,
    "aten.silu.default": _CONVENTION,
    "aten.mish.default": _CONVENTION,
    "aten.hardswish.default": _CONVENTION,
    "aten.softplus.default": _SMOOTH,
    "aten.hardshrink.default": _SMOOTH,
    "aten.softshrink.default": _SMOOTH,
    "aten.hardsigmoid.default": _SMOOTH,
    "aten.log_sigmoid.default": _SMOOTH,
    "aten.sigmoid.default": _SMOOTH,
    "aten.tanh.default": _PLAIN,
    "aten.glu.default": Op(),
    "aten.linear.default": Op(rule=Rule("linear", 0, 1, 2), homogeneous="linear"),
    "aten.addmm.default": Op(rule=Rule("addmm", 1, 2, 0)),
    "aten.mm.default": Op(rule=Rule("matmul", 0, 1)),
    "aten.matmul.default": Op(rule=Rule("matmul", 0, 1)),
    "aten.conv1d.default": Op(rule=_CONV, homogeneous="conv"),
    "aten.conv1d.padding": Op(rule=_CONV, homogeneous="conv"),
    "aten.conv2d.default": Op(rule=_CONV, homogeneous="conv"),
    "aten.conv2d.padding": Op(rule=_CONV, homogeneous="conv"),
    "aten.conv3d.default": Op(rule=_CONV, homogeneous="conv"),
    "aten.conv3d.padding": Op(rule=_CONV, homogeneous="conv"),
    "aten.convolution.default": Op(rule=_CONV, homogeneous="conv"),
    "aten.conv_transpose1d.default": Op(rule=_CONV_TRANSPOSE, homogeneous="conv"),
    "aten.conv_transpose2d.input": Op(rule=_CONV_TRANSPOSE, homogeneous="conv"),
    "aten.conv_transpose3d.input": Op(rule=_CONV_TRANSPOSE, homogeneous="conv"),
    "aten._native_batch_norm_legit_no_training.default": Op(rule=_BATCH_NORM, homogeneous="batch_norm"),
    "aten._native_batch_norm_legit.no_stats": Op(rule=_BATCH_NORM),
    "aten._native_batch_norm_legit_functional.default": Op(rule=_BATCH_NORM),
    "aten.batch_norm.default": Op(rule=_BATCH_NORM, homogeneous="batch_norm"),
    "aten.layer_norm.default": Op(rule=Rule("layer_norm", 0, 2, 3)),
    "aten.native_layer_norm.default": Op(rule=Rule("layer_norm", 0, 2, 3)),
    "aten.group_norm.default": Op(rule=Rule("group_norm", 0, 2, 3)),
    "aten.native_group_norm.default": Op(rule=Rule("group_norm", 0, 1, 2)),
    "aten.instance_norm.default": Op(rule=Rule("instance_norm", 0, 1, 2)),
    "aten.rms_norm.default": Op(rule=Rule("rms_norm", 0, 2)),
    "aten._fused_rms_norm.default": Op(rule=Rule("rms_norm", 0, 2)),
    "aten.embedding.default": Op(rule=Rule("embedding", 1, 0)),
    "aten.embedding_bag.padding_idx": Op(rule=Rule("embedding_bag", 1, 0)),
    "aten.lstm.input": Op(random=(5, 6)),
    "aten.gru.input": Op(random=(5, 6)),
    "aten.rnn_relu.input": Op(random=(5, 6)),
    "aten.rnn_tanh.input": Op(random=(5, 6)),
    "aten.lstm_cell.default": Op(),
    "aten.gru_cell.default": Op(),
    "aten.rnn_tanh_cell.default": Op(),
    "aten.rnn_relu_cell.default": Op(),
    "aten.scaled_dot_product_attention.default": Op(random=(4,)),
    "aten._scaled_dot_product_flash_attention_for_cpu.default": Op(random=(3,)),
    "aten.dropout.default": Op(homogeneous="reshape", random=(2,)),
    "aten.alpha_dropout.default": Op(homogeneous="reshape", random=(2,)),
    "aten.feature_dropout.default": Op(homogeneous="reshape", random=(2,)),
}

_FORMS = {
    "reshape": names.RESHAPE,
    "add": names.ADD,
    "cat": names.CAT,
    "scale": names.SCALE,
    "avg_pool": names.AVERAGE,
    "max_pool": names.MAX,
    "scores": names.SCORES,
    None: names.ELEMENTWISE
    + names.REDUCE
    + names.PRODUCT
    + names.INDEX
    + names.MAKE
    + names.RESAMPLE
    + names.LOSS
    + names.INTEGERS,
}

OPS: dict[str, Op] = {
    name: Op(homogeneous=form) for form, group in _FORMS.items() for name in group.split()
} | _PARTICULAR

ALLOWED = frozenset(OPS)
UNKNOWN = Op()


def op(name: str) -> Op:
    """The entry of an operation; one that is not listed means nothing to us.

    >>> op("aten.linear.default").rule
    Rule(name='linear', input=0, weight=1, bias=2)
    >>> op("aten.bernoulli.default").activation is None
    True
    """
    return OPS.get(name, UNKNOWN)
