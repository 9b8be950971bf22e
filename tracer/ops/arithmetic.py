"""Arithmetic of tensors, number by number, and sums."""

from tracer.ops.record import Op, Operand, named

RECORDS = [
    Op(
        "aten.add.Tensor",
        operand=Operand("shift"),
        path="add",
        weighed=1,
        affine="all",
        fresh=True,
        in_place="aten.add_.Tensor",
    ),
    Op("aten.sub.Tensor", operand=Operand("shift", sign=-1.0), path="add", weighed=1, affine="all"),
    Op("aten.rsub.Tensor", path="add", weighed=0, affine="all"),
    *named("aten.sum.default aten.sum.dim_IntList", path="add", affine="all"),
    *named("aten.add.Scalar aten.sub.Scalar aten.rsub.Scalar", affine="one"),
    # Products: whoever walks the table looks whether the other factor is a constant.
    Op("aten.mul.Tensor", operand=Operand("scale"), path="scale", affine="one", fresh=True),
    *named("aten.mul.Scalar aten.neg.default", path="scale", affine="one"),
    *named("aten.div.Scalar aten.div.Tensor", path="scale", affine="first"),
    *named(
        """
        aten.abs.default
        aten.addcdiv.default
        aten.addcmul.default
        aten.atan.default
        aten.atan2.default
        aten.bitwise_and.Scalar
        aten.bitwise_and.Tensor
        aten.bitwise_not.default
        aten.bitwise_or.Scalar
        aten.bitwise_or.Tensor
        aten.bitwise_xor.Tensor
        aten.ceil.default
        aten.clamp.Tensor
        aten.clamp_max.default
        aten.clamp_max.Tensor
        aten.clamp_min.Tensor
        aten.cos.default
        aten.cosh.default
        aten.div.Scalar_mode
        aten.div.Tensor_mode
        aten.eq.Scalar
        aten.eq.Tensor
        aten.erf.default
        aten.erfc.default
        aten.exp.default
        aten.exp2.default
        aten.expm1.default
        aten.floor.default
        aten.floor_divide.default
        aten.fmax.default
        aten.fmin.default
        aten.fmod.Scalar
        aten.fmod.Tensor
        aten.frac.default
        aten.ge.Scalar
        aten.ge.Tensor
        aten.gt.Scalar
        aten.gt.Tensor
        aten.isfinite.default
        aten.isinf.default
        aten.isnan.default
        aten.le.Scalar
        aten.le.Tensor
        aten.lerp.Scalar
        aten.lerp.Tensor
        aten.log.default
        aten.log10.default
        aten.log1p.default
        aten.log2.default
        aten.logical_and.default
        aten.logical_not.default
        aten.logical_or.default
        aten.logical_xor.default
        aten.lt.Scalar
        aten.lt.Tensor
        aten.masked_fill.Scalar
        aten.masked_fill.Tensor
        aten.minimum.default
        aten.nan_to_num.default
        aten.ne.Scalar
        aten.ne.Tensor
        aten.pow.Scalar
        aten.pow.Tensor_Scalar
        aten.pow.Tensor_Tensor
        aten.reciprocal.default
        aten.remainder.Scalar
        aten.remainder.Tensor
        aten.round.decimals
        aten.round.default
        aten.rsqrt.default
        aten.sign.default
        aten.sgn.default
        aten.sin.default
        aten.sinh.default
        aten.sqrt.default
        aten.square.default
        aten.tan.default
        aten.tril.default
        aten.triu.default
        aten.trunc.default
        aten.where.Scalar
        aten.where.ScalarOther
        aten.where.ScalarSelf
        aten.where.self
        aten.xlogy.Tensor
        """
    ),
]
