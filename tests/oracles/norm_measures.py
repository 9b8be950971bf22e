"""Measures of norms by torch alone: a folded copy of the module, eigenvalues of WᵀW, products term by term."""

import copy
import math
from itertools import pairwise

import torch
from torch import nn


def folded(model):
    """A copy in which every BatchNorm is a shift and the convolution or linear layer before it carries its scale."""
    model = copy.deepcopy(model).eval().double()
    layers = [m for m in model.modules() if not list(m.children())]
    for before, after in pairwise(layers):
        if isinstance(after, nn.modules.batchnorm._BatchNorm):
            fused = (
                nn.utils.fusion.fuse_conv_bn_eval(before, after)
                if isinstance(before, nn.Conv2d)
                else nn.utils.fusion.fuse_linear_bn_eval(before, after)
            )
            before.weight, before.bias = fused.weight, fused.bias
            for module in model.modules():
                for name, child in module.named_children():
                    if child is after:
                        setattr(module, name, nn.Identity())
    return model


def weights_of(model):
    return [m.weight.detach() for m in folded(model).modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def largest(matrix):
    flat = matrix.reshape(len(matrix), -1)
    return math.sqrt(float(torch.linalg.eigvalsh(flat @ flat.T).max()))


def circular(kernel, size):
    """Norm of the circular convolution on an image of that size: the whole matrix, column by column."""
    if kernel.ndim == 2:
        return largest(kernel)
    out, channels, high, wide = kernel.shape
    columns = []
    for c in range(channels):
        for i in range(size):
            for j in range(size):
                image = torch.zeros(out, size, size, dtype=torch.float64)
                for a in range(high):
                    for b in range(wide):
                        image[:, (i + a) % size, (j + b) % size] += kernel[:, c, a, b]
                columns.append(image.reshape(-1))
    return largest(torch.stack(columns, 1))


def path_norm(model, ones):
    squared = folded(model)
    with torch.no_grad():
        for parameter in squared.parameters():
            parameter.pow_(2)
        return float(squared(ones).sum())


def measures(model, initial, gamma, norm=largest):
    w, w0 = weights_of(model), weights_of(initial)
    d = len(w)
    prod_spec = sum(math.log(norm(a) ** 2) for a in w)
    prod_fro = sum(math.log(float((a * a).sum())) for a in w)
    ranks = sum(float((a * a).sum()) / norm(a) ** 2 for a in w)
    moved = sum(float(((a - b) ** 2).sum()) / norm(a) ** 2 for a, b in zip(w, w0, strict=True))
    margin = 2 * math.log(gamma)
    return {
        "params": sum(a.numel() for a in w),
        "inverse_margin": 1 / gamma / gamma,
        "log_prod_of_spec": prod_spec,
        "log_prod_of_spec_over_margin": prod_spec - margin,
        "log_spec_init_main": prod_spec - margin + math.log(moved),
        "fro_over_spec": ranks,
        "log_spec_orig_main": prod_spec - margin + math.log(ranks),
        "log_sum_of_spec": math.log(d * math.exp(prod_spec) ** (1 / d)),
        "log_sum_of_spec_over_margin": math.log(d * (math.exp(prod_spec) / gamma**2) ** (1 / d)),
        "log_prod_of_fro": prod_fro,
        "log_prod_of_fro_over_margin": prod_fro - margin,
        "log_sum_of_fro": math.log(d * math.exp(prod_fro) ** (1 / d)),
        "log_sum_of_fro_over_margin": math.log(d * (math.exp(prod_fro) / gamma**2) ** (1 / d)),
        "fro_dist": sum(float(((a - b) ** 2).sum()) for a, b in zip(w, w0, strict=True)),
        "dist_spec_init": sum(norm(a - b) ** 2 for a, b in zip(w, w0, strict=True)),
        "param_norm": sum(float((a * a).sum()) for a in w),
        "l2": math.sqrt(sum(float((a * a).sum()) for a in w)),
    }
