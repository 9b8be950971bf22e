"""Nonlinearities that act on each number by itself."""

from tracer.ops.record import Activation, Argument, Op, Rule

_PATH = Activation("path", 0.0, contracts=True)


def _path(name: str, **facts: object) -> Op:
    return Op(name, Activation("path", 0.0, **facts), path="activation")  # type: ignore[arg-type]


def _convention(name: str, **facts: object) -> Op:
    return Op(name, Activation("convention", **facts))  # type: ignore[arg-type]


def _smooth(name: str) -> Op:
    return Op(name, Activation(None))


RECORDS = [
    Op("aten.relu.default", _PATH, path="activation", fresh=True, in_place="aten.relu_.default"),
    _path("aten.threshold.default", zero=(1, 2), keywords=("threshold", "value")),
    _path("aten.clamp.default", zero=(1,), high=Argument(2), low=Argument(1), keywords=("min", "max")),
    _path("aten.clamp_min.default", zero=(1,), keywords=("min",)),
    _path("aten.maximum.default", either=True),
    Op(
        "aten.leaky_relu.default",
        Activation("gate", Argument(1, 0.01), keywords=("negative_slope",)),
        path="activation",
    ),
    Op(
        "aten.rrelu.default",
        Activation("gate", (Argument(1, 1 / 8), Argument(2, 1 / 3)), keywords=("lower", "upper")),
        path="activation",
        random=(3,),
    ),
    Op("aten.prelu.default", Activation("gate", slopes=1), Rule("prelu", 0, 1)),
    Op("aten._prelu_kernel.default", Activation("gate", slopes=1), Rule("prelu", 0, 1)),
    _convention(
        "aten.hardtanh.default",
        low=Argument(1, -1.0),
        high=Argument(2, 1.0),
        contracts=True,
        keywords=("min_val", "max_val"),
    ),
    _convention("aten.relu6.default", low=0.0, high=6.0, contracts=True),
    _convention("aten.elu.default"),
    _convention("aten.selu.default"),
    _convention("aten.celu.default"),
    _convention("aten.gelu.default"),
    _convention("aten.silu.default"),
    _convention("aten.mish.default"),
    _convention("aten.hardswish.default"),
    _smooth("aten.softplus.default"),
    _smooth("aten.hardshrink.default"),
    _smooth("aten.softshrink.default"),
    _smooth("aten.hardsigmoid.default"),
    _smooth("aten.log_sigmoid.default"),
    _smooth("aten.sigmoid.default"),
    Op("aten.tanh.default", Activation(None, contracts=True), path="activation"),
    Op("aten.glu.default"),
]
