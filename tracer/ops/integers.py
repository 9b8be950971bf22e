"""Sizes, arithmetic on them, and items of lists: what Python does in a traced model."""

import operator

from tracer.ops.record import Op, named

RECORDS = [
    *named("aten.sym_size.int aten.sym_numel.default", shape_only=True),
    Op("getitem", python=operator.getitem, path="reshape", affine="all", fresh=True),
    Op("int.add", python=operator.add),
    Op("int.floordiv", python=operator.floordiv),
    Op("int.max", python=max),
    Op("int.min", python=min),
    Op("int.mod", python=operator.mod),
    Op("int.mul", python=operator.mul),
    Op("int.neg", python=operator.neg),
    Op("int.pow", python=operator.pow),
    Op("int.sub", python=operator.sub),
]
