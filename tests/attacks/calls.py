"""A sound call of every operation on the list, from which hostile ones are made.

One line an operation, its arguments as Python writes them: `f` makes floats, `z` complex numbers, `i(k, ...)` integers
below k, `b` truth values, of a shape.
"""

from typing import Any

import torch
from torch import Tensor

Arguments = tuple[list[Any], dict[str, Any]]


def f(*shape: int) -> Tensor:
    return torch.randn(shape)


def p(*shape: int) -> Tensor:
    return torch.rand(shape)


def i(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape)


def b(*shape: int) -> Tensor:
    return torch.rand(shape) > 0.5


def z(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64)


def call(*args: Any, **kwargs: Any) -> Arguments:
    return list(args), kwargs


CALLS = """
aten._conj.default                z(2,3)
aten.angle.default                z(2,3)
aten.conj_physical.default        z(2,3)
aten.resolve_conj.default         z(2,3)
aten.complex.default              f(2,3), f(2,3)
aten.imag.default                 z(2,3)
aten.polar.default                p(2,3), f(2,3)
aten.real.default                 z(2,3)
aten.view_as_complex.default      f(3,4,2)
aten.view_as_real.default         z(3,4)
aten.fft_fft.default              f(2,9), 8, 1, 'ortho'
aten.fft_fft2.default             z(2,4,6), [3, 5]
aten.fft_fftn.default             z(2,4,6), [3, 5, 2], [2, 0, 1], 'forward'
aten.fft_fftshift.default         z(2,5,4), [1, 2]
aten.fft_hfft.default             z(2,5), 8
aten.fft_ifft.default             z(2,9), 12
aten.fft_ifft2.default            z(2,4,6), None, [0, 2]
aten.fft_ifftn.default            z(2,4,6)
aten.fft_ifftshift.default        f(2,5,4), [1]
aten.fft_ihfft.default            f(2,8), 6
aten.fft_irfft.default            z(2,5), 8, 1
aten.fft_irfft2.default           z(2,4,5), [4, 8]
aten.fft_irfftn.default           z(2,4,5), [4, 7], [1, 2]
aten.fft_rfft.default             f(2,8), None, 1, 'ortho'
aten.fft_rfft2.default            f(2,4,6), [4, 4]
aten.fft_rfftn.default            f(2,4,6), None, [1, 2]
aten.view.default                 f(2,3,4), [2, 12]
aten._unsafe_view.default         f(2,3,4), [6, -1]
aten.reshape.default              f(2,3,4), [-1, 4]
aten.reshape_as.default           f(2,3,4), f(6,4)
aten.view_as.default              f(2,3,4), f(6,4)
aten.type_as.default              f(2,3), i(4,2)
aten.expand.default               f(2,1,4), [2, 3, 4]
aten.expand.default               f(3,1), [2, -1, 4]
aten.expand_as.default            f(2,1,4), f(2,3,4)
aten.flip.default                 f(2,3,4), [0, 2]
aten.roll.default                 f(2,3,4), [1, -2], [0, 2]
aten.roll.default                 f(2,3), [1]
aten.diagonal.default             f(3,4,5), 1, 0, 2
aten.im2col.default               f(2,3,8,8), [3,3], [1,1], [1,1], [2,2]
aten.col2im.default               f(2,27,16), [8,8], [3,3], [1,1], [1,1], [2,2]
aten.movedim.int                  f(2,3,4), 0, 2
aten.movedim.intlist              f(2,3,4), [0,1], [2,0]
aten.narrow.default               f(2,5,4), 1, 1, 3
aten.permute.default              f(2,3,4), [2,0,1]
aten.pixel_shuffle.default        f(2,8,3,3), 2
aten.pixel_unshuffle.default      f(2,2,6,6), 2
aten.channel_shuffle.default      f(2,6,4,4), 3
aten.repeat.default               f(2,3), [2,1,3]
aten.select.int                   f(2,5,4), 1, 3
aten.select_scatter.default       f(2,5,4), f(2,4), 1, 3
aten.slice.Tensor                 f(2,5,4), 1, 1, 4, 2
aten.slice_scatter.default        f(2,5,4), f(2,2,4), 1, 1, 4, 2
aten.squeeze.default              f(2,1,4)
aten.squeeze.dim                  f(2,1,4), 1
aten.squeeze.dims                 f(2,1,4,1), [1,3]
aten.t.default                    f(2,3)
aten.transpose.int                f(2,3,4), 0, 2
aten.unflatten.int                f(2,12), 1, [3,4]
aten.flatten.using_ints           f(2,3,4), 1, 2
aten.unfold.default               f(2,9,4), 1, 3, 2
aten.unsqueeze.default            f(2,3), 1
aten.chunk.default                f(2,7,4), 3, 1
aten.split.Tensor                 f(2,7,4), 3, 1
aten.split_with_sizes.default     f(2,7,4), [3,4], 1
aten.tensor_split.sections        f(2,7,4), 3, 1
aten.unbind.int                   f(2,3,4), 1
aten.to.dtype                     f(2,3), torch.float64
aten.to.dtype_layout              f(2,3), dtype=torch.int8, layout=torch.strided
aten.to.device                    f(2,3), torch.device("cpu"), torch.float16
aten.to.other                     f(2,3), i(3,2)
aten._to_copy.default             f(2,3,4,5), dtype=torch.bfloat16
aten.clone.default                f(2,3,4,5), memory_format=torch.channels_last
aten.contiguous.default           f(2,3,4,5), memory_format=torch.channels_last
aten.sum.dim_IntList              f(2,3,4), [1], True
aten.mean.dim                     f(2,3,4), [1,2]
aten.amax.default                 f(2,3,4), [1]
aten.amin.default                 f(2,3,4), [0,1]
aten.all.dim                      b(2,3,4), 1
aten.any.dim                      b(2,3,4), 1
aten.argmax.default               f(2,3,4), 1
aten.argmin.default               f(2,3,4), -1
aten.argsort.default              f(2,33,4), 1
aten.sort.default                 f(2,33,4), 1
aten.topk.default                 f(2,33,4), 5, 1
aten.cumsum.default               f(2,3,4), 1
aten.histc.default                f(2,3,4), 5, -1, 2.5
aten.linalg_norm.default          f(4,4)
aten.linalg_norm.default          f(3,4,4), 2, [1,2]
aten.linalg_vector_norm.default   f(2,3,4), 2, [1]
aten.logsumexp.default            f(2,3,4), [1]
aten.max.dim                      f(2,3,4), 1
aten.min.dim                      f(2,3,4), 1
aten.norm.Scalar                  f(2,3,4), 2
aten.norm.ScalarOpt_dim           f(2,3,4), 2, [1]
aten.prod.dim_int                 f(2,3,4), 1
aten.std.correction               f(2,3,4), [1], correction=1
aten.std.dim                      f(2,3,4), [1]
aten.var.correction               f(2,3,4), [1], correction=0
aten.var.dim                      f(2,3,4), [1]
aten.var_mean.correction          f(2,3,4), [1], correction=1
aten.var_mean.dim                 f(2,3,4), [1]
aten.cat.default                  [f(2,3), f(2,4)], 1
aten.stack.default                [f(2,3), f(2,3)], 1
aten.constant_pad_nd.default      f(2,3,4), [1,2,0,-1], 0.5
aten.adaptive_avg_pool1d.default  f(2,3,9), [4]
aten.adaptive_avg_pool2d.default  f(2,3,9,9), [4,5]
aten.adaptive_avg_pool3d.default  f(2,3,5,5,5), [2,3,4]
aten._adaptive_avg_pool2d.default f(2,3,9,9), [4,5]
aten._adaptive_avg_pool3d.default f(2,3,5,5,5), [2,3,4]
aten.adaptive_max_pool1d.default  f(2,3,9), [4]
aten.adaptive_max_pool2d.default  f(2,3,9,9), [4,5]
aten.adaptive_max_pool3d.default  f(2,3,5,5,5), [2,3,4]
aten.avg_pool1d.default           f(2,3,9), [3], [2], [1]
aten.avg_pool2d.default           f(2,3,9,9), [3,3], [2,2], [1,1]
aten.avg_pool2d.default           f(2,3,9,9), [2,3], [2,1], [0,1], True, False, 3
aten.avg_pool3d.default           f(2,3,5,5,5), [3,3,3], [2,2,2], [1,1,1]
aten.max_pool1d.default           f(2,3,9), [3], [2], [1], [1]
aten.max_pool2d.default           f(2,3,9,9), [3,3], [2,2], [1,1], [2,1]
aten.max_pool2d_with_indices.default f(2,3,9,9), [3,3], [2,2], [1,1], [1,1], True
aten.max_pool3d.default           f(2,3,5,5,5), [3,3,3], [2,2,2], [1,1,1], [1,1,1]
aten.max_pool3d_with_indices.default f(2,3,5,5,5), [3,3,3], [2,2,2], [1,1,1], [1,1,1]
aten._log_softmax.default         f(2,3,4), 1, False
aten._softmax.default             f(2,3,4), 2, False
aten.log_softmax.int              f(2,3,4), 1
aten.softmax.int                  f(2,3,4), -1, torch.float32
aten.addcdiv.default              f(2,3), f(2,3), f(2,3), value=2
aten.addcmul.default              f(2,3), f(2,3), f(3), value=2
aten.bitwise_and.Scalar           i(9,2,3), 3
aten.bitwise_and.Tensor           i(9,2,3), i(9,2,3)
aten.bitwise_not.default          i(9,2,3)
aten.bitwise_or.Scalar            i(9,2,3), 3
aten.bitwise_or.Tensor            i(9,2,3), i(9,3)
aten.bitwise_xor.Tensor           i(9,2,3), i(9,3)
aten.clamp.Tensor                 f(2,3), f(3), f(2,3)
aten.clamp.default                f(2,3), 0.0, 1.0
aten.div.Scalar_mode              i(9,2,3), 3, rounding_mode="floor"
aten.div.Tensor_mode              i(9,2,3), 1 + i(9,2,3), rounding_mode="trunc"
aten.div.Tensor_mode              f(2,3), f(2,3), rounding_mode="floor"
aten.div.Tensor_mode              torch.tensor([-(2**63)] * 4), 1 + i(9,4), rounding_mode="trunc"
aten.floor_divide.default         i(9,2,3), 1 + i(9,3)
aten.fmod.Scalar                  i(9,2,3), 3
aten.fmod.Tensor                  i(9,2,3), 1 + i(9,3)
aten.remainder.Scalar             i(9,2,3), 3
aten.remainder.Tensor             i(9,2,3), 1 + i(9,3)
aten.lerp.Scalar                  f(2,3), f(2,3), 0.5
aten.lerp.Tensor                  f(2,3), f(2,3), f(3)
aten.masked_fill.Scalar           f(2,3), b(2,3), 0.5
aten.masked_fill.Tensor           f(2,3), b(2,3), f()
aten.nan_to_num.default           f(2,3), 0.0, 1.0, -1.0
aten.pow.Scalar                   2, i(5,2,3)
aten.pow.Tensor_Scalar            f(2,3), 2
aten.pow.Tensor_Tensor            i(5,2,3), i(5,3)
aten.round.decimals               f(2,3), decimals=2
aten.tril.default                 f(2,3,4), 1
aten.triu.default                 f(2,3,4), -1
aten.where.Scalar                 b(2,3), 1.0, 2.0
aten.where.ScalarOther            b(2,3), f(3), 2.0
aten.where.ScalarSelf             b(2,3), 1.0, f(2,3)
aten.where.self                   b(2,3), f(3), f(2,1)
aten.baddbmm.default              f(2,3,5), f(2,3,4), f(2,4,5)
aten.bilinear.default             f(2,3), f(2,4), f(5,3,4), f(5)
aten.bmm.default                  f(2,3,4), f(2,4,5)
aten.cosine_similarity.default    f(2,3), f(2,3), 1
aten.cdist.default                f(2,3,4), f(2,5,4), 2.0
aten.cdist.default                f(3,4), f(5,4), 1.5
aten.dot.default                  f(4), f(4)
aten.vdot.default                 f(4), f(4)
aten.einsum.default               "ij,jk->ik", [f(2,3), f(3,4)]
aten.mv.default                   f(2,3), f(3)
aten.outer.default                f(2), f(3)
aten.matrix_exp.default           f(2,3,3)
aten.pairwise_distance.default    f(2,3), f(2,3)
aten._weight_norm.default         f(4,3), f(4,1), 0
aten.linalg_vecdot.default        f(2,3), f(2,3)
aten._linalg_det.default          f(2,3,3)
aten._linalg_slogdet.default      f(2,3,3)
aten._linalg_solve_ex.default     f(2,3,3), f(2,3,4), left=True, check_errors=False
aten.cholesky_solve.default       f(2,3,4), f(2,3,3), True
aten.linalg_cholesky_ex.default   f(2,3,3), upper=False, check_errors=False
aten.linalg_inv_ex.default        f(2,3,3), check_errors=False
aten.linalg_matrix_exp.default    f(2,3,3)
aten.linalg_solve_triangular.default f(2,3,3), f(2,3,4), upper=False, left=True, unitriangular=False
aten.mm.default                   f(2,3), f(3,4)
aten.matmul.default               f(2,3,4), f(4,5)
aten.linear.default               f(2,3), f(4,3), f(4)
aten.addmm.default                f(4), f(2,3), f(3,4)
aten.gather.default               f(3,5), 1, i(5,3,4)
aten.grid_sampler.default         f(2,3,5,5), f(2,4,4,2), 0, 0, False
aten.grid_sampler.default         f(2,3,5,5,5), f(2,4,4,4,3), 1, 1, True
aten.grid_sampler_2d.default      f(2,3,5,5), f(2,4,4,2), 2, 2, False
aten.grid_sampler_2d.default      f(2,3,5,5), f(2,4,4,2), 1, 1, True
aten.grid_sampler_3d.default      f(2,3,5,5,5), f(2,4,4,4,3), 0, 2, False
aten.affine_grid_generator.default f(2,2,3), [2,3,4,5], False
aten.affine_grid_generator.default f(2,3,4), [2,3,4,5,6], True
aten.index.Tensor                 f(5,6,7), [i(5,2,3), None, i(7,3)]
aten.index.Tensor                 f(5,6), [b(5,6)]
aten.index_add.default            f(5,6), 0, i(5,3), f(3,6)
aten.index_select.default         f(5,6), 1, i(6,4)
aten.masked_scatter.default       f(3,4), b(3,4), f(20)
aten.one_hot.default              i(5,6), 5
aten.bucketize.Tensor             f(3,4), torch.arange(5.0)
aten.scatter.src                  f(3,5), 1, i(5,3,4), f(3,4)
aten.scatter.value                f(3,5), 1, i(5,3,4), 2.0
aten.scatter_add.default          f(3,5), 0, i(3,2,5), f(3,5)
aten.scatter_reduce.two           f(3,5), 1, i(5,3,4), f(3,4), "amax"
aten.scatter_reduce.two           f(3,5), 1, i(5,3,4), f(3,4), "mean", include_self=False
aten.index_put.default            f(5,6), [i(5,3), i(6,3)], f(3)
aten.index_put.default            f(5,6), [i(5,300)], f(300,6), True
aten.take_along_dim.default       f(3,5), i(5,3,4), 1
aten.copy.default                 f(3,5), f(5)
aten.fill.Scalar                  f(3,5), 1.0
aten.arange.default               5
aten.arange.start                 1, 9
aten.arange.start_step            1.0, 9, 2
aten.eye.default                  4
aten.full.default                 [2,3], 1.5
aten.full_like.default            f(2,3), 2.0
aten.linspace.default             0.0, 1.0, 7
aten.new_full.default             f(2), [2,3], 1.0
aten.new_ones.default             f(2), [2,3]
aten.new_zeros.default            f(2), [2,3]
aten.ones.default                 [2,3]
aten.zeros.default                [2,3], dtype=torch.int64
aten.scalar_tensor.default        3
aten.pad.default                  f(2,3,6), [1,2], "reflect"
aten.pad.default                  f(2,3,6,6), [1,2,2,1], "circular"
aten.reflection_pad1d.default     f(2,3,6), [1,2]
aten.reflection_pad2d.default     f(2,3,6,6), [1,2,2,1]
aten.reflection_pad3d.default     f(2,3,4,4,4), [1,2,2,1,1,1]
aten.replication_pad1d.default    f(2,3,6), [1,2]
aten.replication_pad2d.default    f(2,3,6,6), [1,2,2,1]
aten.replication_pad3d.default    f(2,3,4,4,4), [1,2,2,1,1,1]
aten.upsample_bicubic2d.vec       f(2,3,5,5), [7,8], False, None
aten.upsample_bilinear2d.vec      f(2,3,5,5), [7,8], True, None
aten.upsample_bilinear2d.vec      f(2,3,5,5), None, False, [2.0, 1.5]
aten.upsample_linear1d.vec        f(2,3,5), [7], False, None
aten.upsample_nearest1d.vec       f(2,3,5), None, [2.0]
aten.upsample_nearest2d.vec       f(2,3,5,5), [7,8], None
aten.upsample_nearest3d.vec       f(2,3,4,4,4), [7,8,2], None
aten.upsample_trilinear3d.vec     f(2,3,4,4,4), [7,8,2], False, None
aten.binary_cross_entropy.default p(2,3), p(2,3), p(3), 0
aten.binary_cross_entropy_with_logits.default f(2,3), p(2,3), None, p(3), 0
aten.cosine_embedding_loss.default f(4,3), f(4,3), 2 * i(2,4) - 1, 0.0, 0
aten.cross_entropy_loss.default   f(4,5), i(5,4), p(5), 0, -100, 0.1
aten.cross_entropy_loss.default   f(4,5,3), i(5,4,3)
aten.ctc_loss.IntList             f(9,2,5).log_softmax(2), 1 + i(4,2,3), [9,8], [3,2], 0, 0
aten.ctc_loss.IntList             f(9,2,5).log_softmax(2), 1 + i(4,5), [9,8], [3,2], 0, 0, True
aten.hinge_embedding_loss.default f(4,3), 2.0 * i(2,4,3) - 1
aten.huber_loss.default           f(4,3), f(4,3), 0
aten.kl_div.default               f(4,3), p(4,3), 0
aten.l1_loss.default              f(4,3), f(4,3), 0
aten.margin_ranking_loss.default  f(4), f(4), 2.0 * i(2,4) - 1
aten.mse_loss.default             f(4,3), f(4,3), 0
aten.multi_margin_loss.default    f(4,5), i(5,4), 1, 1, p(5), 0
aten.multilabel_margin_loss.default f(4,5), i(5,4,5), 0
aten.multilabel_margin_loss_forward.default f(4,5), i(5,4,5), 0
aten.nll_loss.default             f(4,5), i(5,4), p(5), 0
aten.nll_loss_forward.default     f(4,5), i(5,4), None, 1, -100
aten.nll_loss2d.default           f(4,5,3,3), i(5,4,3,3), None, 0
aten.nll_loss2d_forward.default   f(4,5,3,3), i(5,4,3,3), p(5), 1, -100
aten.nll_loss_nd.default          f(4,5,3), i(5,4,3), None, 0
aten.poisson_nll_loss.default     f(4,3), p(4,3), True, False, 1e-8, 0
aten.smooth_l1_loss.default       f(4,3), f(4,3), 0
aten.soft_margin_loss.default     f(4,3), f(4,3), 0
aten.triplet_margin_loss.default  f(4,3), f(4,3), f(4,3)
aten.rrelu.default                f(2,3)
aten.threshold.default            f(2,3), 0.0, 0.0
aten.prelu.default                f(2,3,4), f(3)
aten._prelu_kernel.default        f(2,3,4), f(1,3,1)
aten.glu.default                  f(2,6), 1
aten.conv1d.default               f(2,4,9), f(6,2,3), f(6), [2], [1], [1], 2
aten.conv1d.padding               f(2,4,9), f(6,4,3), None, [1], "same"
aten.conv2d.default               f(2,4,9,9), f(6,2,3,3), f(6), [2,1], [1,0], [1,2], 2
aten.conv2d.padding               f(2,4,9,9), f(6,4,3,2), f(6), [1,1], "same"
aten.conv3d.default               f(2,4,5,5,5), f(6,4,3,3,3), f(6), [1,1,1], [1,1,1]
aten.conv3d.padding               f(2,4,5,5,5), f(6,4,3,3,3), None, [1,1,1], "valid"
aten.convolution.default          f(2,4,9,9), f(6,4,3,3), None, [1,1], [1,1], [1,1], False, [0,0], 1
aten.convolution.default          f(2,4,9,9), f(4,3,3,3), f(6), [2,2], [1,1], [1,1], True, [1,1], 2
aten.conv_transpose1d.default     f(2,4,9), f(4,3,3), f(6), [2], [1], [1], 2
aten.conv_transpose2d.input       f(2,4,5,5), f(4,3,3,3), f(3), [2,2], [1,1], [1,0]
aten.conv_transpose3d.input       f(2,4,4,4,4), f(4,3,3,3,3), f(3), [2,2,2], [1,1,1]
aten._native_batch_norm_legit_no_training.default f(4,3,5), f(3), f(3), f(3), p(3), 0.1, 1e-5
aten._native_batch_norm_legit.no_stats f(4,3,5), f(3), f(3), True, 0.1, 1e-5
aten._native_batch_norm_legit_functional.default f(4,3,5), f(3), f(3), f(3), p(3), True, 0.1, 1e-5
aten._native_batch_norm_legit_functional.default f(4,3,5), f(3), None, f(3), p(3), False, 0.1, 1e-5
aten._native_batch_norm_legit_functional.default f(2,5000), f(5000), None, f(5000), p(5000), True, 0.1, 1e-5
aten.batch_norm.default           f(4,3,5,5), f(3), f(3), f(3), p(3), False, 0.1, 1e-5, True
aten.batch_norm.default           f(4,3), None, None, f(3), p(3), True, 0.1, 1e-5, False
aten.layer_norm.default           f(2,3,4), [3,4], f(3,4), f(3,4)
aten.native_layer_norm.default    f(2,3,4), [4], f(4), f(4), 1e-5
aten.group_norm.default           f(2,6,4), 3, f(6), f(6)
aten.native_group_norm.default    f(2,6,4), f(6), f(6), 2, 6, 4, 3, 1e-5
aten.instance_norm.default        f(2,3,4), f(3), f(3), None, None, True, 0.1, 1e-5, True
aten.instance_norm.default        f(2,3,4), f(3), f(3), f(3), p(3), False, 0.1, 1e-5, True
aten.rms_norm.default             f(2,3,4), [4], f(4), 1e-5
aten._fused_rms_norm.default      f(2,3,4), [3,4], f(3,4), 1e-5
aten.embedding.default            f(7,4), i(7,2,3), 1
aten.embedding_bag.padding_idx    f(7,4), i(7,9), torch.tensor([0,2,6]), False, 0, False, None, False, None
aten.embedding_bag.padding_idx    f(7,4), i(7,9), torch.tensor([0,2,6]), False, 0, False, f(9), False, 1
aten.embedding_bag.padding_idx    f(7,4), i(7,9), torch.tensor([0,2,9]), True, 1, False, None, True, 2
aten.embedding_bag.padding_idx    f(7,4), i(7,9), torch.tensor([0,2,9]), False, 0, False, None, True, None
aten.embedding_bag.padding_idx    f(7,4), i(7,9), torch.tensor([0,2,6]), False, 2, False, None, False, None
aten.lstm.input                   f(5,2,3), [f(1,2,4), f(1,2,4)], [f(16,3), f(16,4), f(16), f(16)], True, 1, \
    0.0, False, False, False
aten.lstm.input                   f(2,5,3), [f(4,2,4), f(4,2,4)], [f(16,3), f(16,4)] * 2 + [f(16,8), \
    f(16,4)] * 2, False, 2, 0.0, False, True, True
aten.gru.input                    f(5,2,3), f(1,2,4), [f(12,3), f(12,4), f(12), f(12)], True, 1, 0.0, False, \
    False, False
aten.rnn_relu.input               f(5,2,3), f(1,2,4), [f(4,3), f(4,4), f(4), f(4)], True, 1, 0.0, False, False, False
aten.rnn_tanh.input               f(2,5,3), f(1,2,4), [f(4,3), f(4,4), f(4), f(4)], True, 1, 0.0, False, False, True
aten.lstm_cell.default            f(2,3), [f(2,4), f(2,4)], f(16,3), f(16,4), f(16), f(16)
aten.gru_cell.default             f(2,3), f(2,4), f(12,3), f(12,4), f(12), f(12)
aten.rnn_tanh_cell.default        f(2,3), f(2,4), f(4,3), f(4,4), f(4), f(4)
aten.rnn_relu_cell.default        f(2,3), f(2,4), f(4,3), f(4,4), f(4), f(4)
aten.scaled_dot_product_attention.default f(2,2,5,8), f(2,2,6,8), f(2,2,6,8), b(5,6)
aten.scaled_dot_product_attention.default f(2,4,5,8), f(2,2,6,8), f(2,2,6,8), None, 0.0, True, enable_gqa=True
aten._scaled_dot_product_flash_attention_for_cpu.default f(2,2,5,8), f(2,2,6,8), f(2,2,6,8), 0.0, False, \
    attn_mask=f(5,6)
aten._scaled_dot_product_flash_attention_for_cpu.default f(2,2,40,8), f(2,2,50,8), f(2,2,50,8), 0.0, True
aten.dropout.default              f(2,3), 0.5, False
aten.alpha_dropout.default        f(2,3), 0.5, False
aten.feature_dropout.default      f(2,3,4), 0.5, True
aten.sym_size.int                 f(2,3), 1
aten.leaky_relu.default           f(2,3), 0.1
aten.elu.default                  f(2,3), 1.0, 1.0, 1.0
aten.softplus.default             f(2,3), 1.0, 20.0
aten.hardtanh.default             f(2,3), -1.0, 1.0
getitem                           [f(2), f(3)], 1
int.neg                           4
int.pow                           4, 3
"""
