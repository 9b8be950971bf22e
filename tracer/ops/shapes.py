"""What moves, copies, picks or joins numbers without computing any."""

from tracer.ops.record import Op, Operand, named

RECORDS = [
    # Views in the order of their elements: `view` is one only where memory happens to lie so, `reshape` copies.
    Op("aten.view.default", path="reshape", affine="all", reorders=False, instead="aten.reshape.default"),
    *named(
        """
        aten.flatten.using_ints
        aten.unflatten.int
        aten.reshape.default
        aten.reshape_as.default
        aten.view_as.default
        aten._unsafe_view.default
        """,
        path="reshape",
        affine="all",
        reorders=False,
    ),
    # The same numbers. A constant is made anew by `lift_fresh_copy`, which needs its values to be there.
    Op(
        "aten.lift_fresh_copy.default",
        path="reshape",
        affine="all",
        copies=True,
        instead="aten.clone.default",
    ),
    *named(
        """
        aten.alias.default
        aten.clone.default
        aten.contiguous.default
        aten.detach.default
        aten.to.dtype
        aten.to.dtype_layout
        aten.to.device
        aten.to.other
        aten.type_as.default
        aten._to_copy.default
        """,
        path="reshape",
        affine="all",
        copies=True,
    ),
    Op("aten.expand.default", operand=Operand("shift"), path="reshape", affine="all"),
    *named(
        """
        aten.diagonal.default
        aten.expand_as.default
        aten.flip.default
        aten.im2col.default
        aten.movedim.int
        aten.movedim.intlist
        aten.narrow.default
        aten.permute.default
        aten.pixel_shuffle.default
        aten.pixel_unshuffle.default
        aten.repeat.default
        aten.roll.default
        aten.select.int
        aten.slice.Tensor
        aten.squeeze.default
        aten.squeeze.dim
        aten.squeeze.dims
        aten.t.default
        aten.transpose.int
        aten.unfold.default
        aten.unsqueeze.default
        aten.channel_shuffle.default
        aten.chunk.default
        aten.split.Tensor
        aten.split_with_sizes.default
        aten.tensor_split.sections
        aten.unbind.int
        """,
        path="reshape",
        affine="all",
    ),
    *named(
        """
        aten.cat.default
        aten.stack.default
        """,
        path="cat",
        affine="all",
    ),
    Op("aten.constant_pad_nd.default", path="cat", affine="all", pads=True),
]
