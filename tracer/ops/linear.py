"""Products with weights: linear layers, convolutions, embeddings; and products and inverses of tensors."""

from tracer.ops.record import Argument, Convolution, Op, Rule, named

_CONV = Rule("conv", 0, 1, 2, call=True, convolution=Convolution())
_CONVOLUTION = Rule(
    "conv", 0, 1, 2, call=True, convolution=Convolution(groups=8, transposed=Argument(6, False))
)
_TRANSPOSED = Rule(
    "conv_transpose", 0, 1, 2, call=True, convolution=Convolution(dilation=7, groups=6, transposed=True)
)
_MATMUL = Rule("matmul", 0, 1, call="product")

RECORDS = [
    Op("aten.linear.default", rule=Rule("linear", 0, 1, 2, call=True), path="linear", affine="first"),
    Op("aten.addmm.default", rule=Rule("addmm", 1, 2, 0, call=True), path="linear", affine="one"),
    *named("aten.mm.default aten.matmul.default", rule=_MATMUL, path="linear", affine="one"),
    *named(
        """
        aten.conv1d.default
        aten.conv1d.padding
        aten.conv2d.default
        aten.conv2d.padding
        aten.conv3d.default
        aten.conv3d.padding
        """,
        rule=_CONV,
        path="conv",
        affine="first",
    ),
    Op("aten.convolution.default", rule=_CONVOLUTION, path="conv", affine="first"),
    *named(
        "aten.conv_transpose1d.default aten.conv_transpose2d.input aten.conv_transpose3d.input",
        rule=_TRANSPOSED,
        path="conv",
        affine="first",
    ),
    Op("aten.embedding.default", rule=Rule("embedding", 1, 0)),
    Op("aten.embedding_bag.padding_idx", rule=Rule("embedding_bag", 1, 0)),
    Op("aten.bmm.default", affine="one"),
    *named(
        """
        aten.baddbmm.default
        aten.bilinear.default
        aten.cosine_similarity.default
        aten.cdist.default
        aten.dot.default
        aten.einsum.default
        aten.mv.default
        aten.outer.default
        aten.matrix_exp.default
        aten.vdot.default
        aten.pairwise_distance.default
        aten._weight_norm.default
        aten.linalg_vecdot.default
        aten._linalg_det.default
        aten._linalg_slogdet.default
        aten._linalg_solve_ex.default
        aten.cholesky_solve.default
        aten.linalg_cholesky_ex.default
        aten.linalg_inv_ex.default
        aten.linalg_matrix_exp.default
        aten.linalg_solve_triangular.default
        """
    ),
]
