"""What makes tensors, looks numbers up, sorts and reduces them."""

from tracer.ops.record import Argument, Op, named

RECORDS = [
    Op("aten.full.default", fills=Argument(1)),
    Op("aten.full_like.default", fills=Argument(1), shape_only=True),
    Op("aten.new_full.default", fills=Argument(2), shape_only=True),
    Op("aten.scalar_tensor.default", fills=Argument(0)),
    Op("aten.ones.default", fills=1.0),
    *named("aten.ones_like.default aten.new_ones.default", fills=1.0, shape_only=True),
    Op("aten.zeros.default", fills=0.0),
    *named("aten.zeros_like.default aten.new_zeros.default", fills=0.0, shape_only=True),
    *named(
        """
        aten.arange.default
        aten.arange.start
        aten.arange.start_step
        aten.eye.default
        aten.linspace.default
        """
    ),
    *named("aten.index.Tensor aten.one_hot.default aten.masked_scatter.default", by_value=True),
    *named(
        """
        aten.gather.default
        aten.grid_sampler.default
        aten.grid_sampler_2d.default
        aten.grid_sampler_3d.default
        aten.affine_grid_generator.default
        aten.index_add.default
        aten.index_select.default
        aten.bucketize.Tensor
        aten.scatter.src
        aten.scatter.value
        aten.scatter_add.default
        aten.scatter_reduce.two
        aten.select_scatter.default
        aten.slice_scatter.default
        aten.index_put.default
        aten.take_along_dim.default
        aten.copy.default
        aten.fill.Scalar
        """
    ),
    *named(
        """
        aten.all.default
        aten.all.dim
        aten.amin.default
        aten.any.default
        aten.any.dim
        aten.argmax.default
        aten.argmin.default
        aten.argsort.default
        aten.cumsum.default
        aten.histc.default
        aten.linalg_norm.default
        aten.linalg_vector_norm.default
        aten.logsumexp.default
        aten.max.default
        aten.max.dim
        aten.min.default
        aten.min.dim
        aten.norm.Scalar
        aten.norm.ScalarOpt_dim
        aten.prod.default
        aten.prod.dim_int
        aten.sort.default
        aten.std.correction
        aten.std.dim
        aten.topk.default
        aten.var.correction
        aten.var.dim
        aten.var_mean.correction
        aten.var_mean.dim
        """
    ),
    *named(
        """
        aten.col2im.default
        aten.pad.default
        aten.reflection_pad1d.default
        aten.reflection_pad2d.default
        aten.reflection_pad3d.default
        aten.replication_pad1d.default
        aten.replication_pad2d.default
        aten.replication_pad3d.default
        aten.upsample_bicubic2d.vec
        aten.upsample_bilinear2d.vec
        aten.upsample_linear1d.vec
        aten.upsample_nearest1d.vec
        aten.upsample_nearest2d.vec
        aten.upsample_nearest3d.vec
        aten.upsample_trilinear3d.vec
        """
    ),
]
