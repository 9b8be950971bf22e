"""Every path of a network written out as units and edges, walked one by one."""

import math
from itertools import product

import numpy as np


class Units:
    """A network unrolled. A unit is a list of (source unit or None for a bias, weight, layer or None)."""

    def __init__(self):
        self.edges = []
        self.sizes = []

    def inputs(self, *shape):
        return self.made(shape, lambda index: None)

    def made(self, shape, edges):
        layer = np.empty(shape, np.int64)
        for index in np.ndindex(*shape):
            self.edges.append(edges(index))
            layer[index] = len(self.edges) - 1
        return layer

    def layer(self, shape, edges):
        """A parametrised layer: its edges carry the layer's number."""
        self.sizes.append(math.prod(shape))
        number = len(self.sizes) - 1
        return self.made(shape, lambda index: [(s, w, number) for s, w in edges(index)])

    def linear(self, x, weight, bias):
        flat = x.ravel()
        return self.layer(
            (len(weight),), lambda o: [(None, bias[o[0]]), *zip(flat, weight[o[0]], strict=True)]
        )

    def conv(self, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        out, inside, k, _ = weight.shape
        space = [(s + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for s in x.shape[1:]]

        def edges(index):
            o, i, j = index
            found = [] if bias is None else [(None, bias[o])]
            first = (o * groups // out) * inside
            for c, a, b in product(range(inside), range(k), range(k)):
                at = (i * stride - padding + a * dilation, j * stride - padding + b * dilation)
                if 0 <= at[0] < x.shape[1] and 0 <= at[1] < x.shape[2]:
                    found.append((x[(first + c, *at)], weight[o, c, a, b]))
            return found

        return self.layer((out, *space), edges)

    def scaling(self, x, weight, bias):
        """BatchNorm as a layer of its own."""
        return self.layer(x.shape, lambda index: [(None, bias[index[0]]), (x[index], weight[index[0]])])

    def max_pool(self, x, k, stride, padding=0):
        space = [(s + 2 * padding - k) // stride + 1 for s in x.shape[1:]]
        return self.made(
            (len(x), *space),
            lambda index: [(u, 1.0, None) for u in self._window(x, index, k, stride, padding)],
        )

    def _window(self, x, index, k, stride, padding):
        for a, b in product(range(k), range(k)):
            i, j = index[1] * stride - padding + a, index[2] * stride - padding + b
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                yield x[index[0], i, j]

    def average(self, x, parts):
        """Adaptive average pooling to (parts, parts), windows of unequal size where it does not divide."""

        def edges(index):
            rows, columns = (
                range(i * s // parts, -(-(i + 1) * s // parts))
                for i, s in zip(index[1:], x.shape[1:], strict=True)
            )
            size = len(rows) * len(columns)
            return [(x[index[0], a, b], 1 / size, None) for a, b in product(rows, columns)]

        return self.made((len(x), parts, parts), edges)

    def add(self, x, y):
        return self.made(x.shape, lambda index: [(x[index], 1.0, None), (y[index], 1.0, None)])

    def paths(self, unit, power, literal, biases):
        """Worth of each path that ends in a unit."""
        if self.edges[unit] is None:
            yield 1.0
            return
        for source, weight, layer in self.edges[unit]:
            factor = abs(weight) ** power
            if literal and layer is not None:
                factor *= 2 if power == 1 else 4 * self.sizes[layer]
            if source is None:
                if biases:
                    yield factor
                continue
            for worth in self.paths(source, power, literal, biases):
                yield factor * worth

    def total(self, outputs, power, literal=False, biases=False):
        return math.fsum(w for unit in np.ravel(outputs) for w in self.paths(unit, power, literal, biases))


def folded(weight, bias, scale, shift, mean, variance, eps):
    """A convolution and the BatchNorm after it as one convolution."""
    size = scale / np.sqrt(variance + eps)
    bias = np.zeros(len(weight)) if bias is None else bias
    return weight * size.reshape(-1, 1, 1, 1), size * (bias - mean) + shift
