"""Pooling, and what pools whole axes."""

from tracer.ops.record import Op, Pool


def _average(name: str, dims: int = 0, **facts: bool) -> Op:
    return Op(name, pool=Pool("average", dims, **facts), path="average", affine="all")


def _largest(name: str, dims: int = 0, **facts: bool) -> Op:
    return Op(name, pool=Pool("max", dims, **facts), path="max")


RECORDS = [
    _average("aten.avg_pool1d.default", 1),
    _average("aten.avg_pool2d.default", 2),
    _average("aten.avg_pool3d.default", 3),
    _average("aten.adaptive_avg_pool1d.default", 1, adaptive=True),
    _average("aten.adaptive_avg_pool2d.default", 2, adaptive=True),
    _average("aten.adaptive_avg_pool3d.default", 3, adaptive=True),
    _average("aten._adaptive_avg_pool2d.default", 2, adaptive=True),
    _average("aten._adaptive_avg_pool3d.default", 3, adaptive=True),
    _average("aten.mean.default", whole=True),
    _average("aten.mean.dim", whole=True),
    _largest("aten.max_pool1d.default", 1),
    _largest("aten.max_pool2d.default", 2),
    _largest("aten.max_pool2d_with_indices.default", 2),
    _largest("aten.max_pool3d.default", 3),
    _largest("aten.max_pool3d_with_indices.default", 3),
    _largest("aten.adaptive_max_pool1d.default", 1, adaptive=True),
    _largest("aten.adaptive_max_pool2d.default", 2, adaptive=True),
    _largest("aten.adaptive_max_pool3d.default", 3, adaptive=True),
    _largest("aten.amax.default", whole=True),
]
