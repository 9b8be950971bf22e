"""Functions of PyTorch that have no name of their own in Python."""

import torch

detach = torch.ops.aten.detach.default
convolution_backward = torch.ops.aten.convolution_backward.default
batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
size = torch.ops.aten.sym_size.int
