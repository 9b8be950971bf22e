import math

import numpy as np
import pytest
import torch

from analyze import operator_norm
from analyze.chain import Convolution
from analyze.operator_norm import convolution_norm, convolve, singular_values, spectral_norm, transposed

GEOMETRIES = {
    "plain": (Convolution((5, 4), (1, 1), (0, 0), (0, 0), (1, 1)), (3, 2, 3, 3)),
    "padded": (Convolution((5, 4), (1, 1), (1, 2), (1, 2), (1, 1)), (3, 2, 3, 3)),
    "strided": (Convolution((7, 6), (2, 3), (1, 0), (1, 0), (1, 1)), (3, 2, 3, 2)),
    "dilated": (Convolution((7, 8), (1, 2), (2, 2), (2, 2), (2, 3)), (2, 2, 2, 3)),
    "grouped": (Convolution((4, 4), (1, 1), (1, 1), (1, 1), (1, 1), groups=2), (4, 3, 3, 3)),
    "one dimension": (Convolution((9,), (2,), (1,), (1,), (1,)), (4, 3, 3)),
}


def torch_convolve(kernel, x, geometry):
    """The library's own convolution, (channel, *space) in and out."""
    call = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[len(geometry.space)]
    return call(
        torch.from_numpy(x)[None],
        torch.from_numpy(kernel),
        stride=geometry.stride,
        padding=geometry.before,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )[0].numpy()


def matrix(kernel, geometry):
    """The convolution as a matrix, column by column of the library's answer."""
    inputs = (kernel.shape[1] * geometry.groups, *geometry.space)
    return np.stack(
        [torch_convolve(kernel, e.reshape(inputs), geometry).ravel() for e in np.eye(math.prod(inputs))], 1
    )


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_and_its_transpose(name):
    geometry, shape = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=shape), rng.normal(size=(shape[1] * geometry.groups, *geometry.space))
    y = convolve(kernel, x, geometry)
    np.testing.assert_allclose(y, torch_convolve(kernel, x, geometry), rtol=1e-12)
    z = rng.normal(size=y.shape)
    assert np.vdot(z, y) == pytest.approx(np.vdot(transposed(kernel, z, geometry), x), rel=1e-12)


@pytest.mark.parametrize("dense_up_to", [10**6, 0])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_norm_is_that_of_the_written_out_matrix(monkeypatch, name, dense_up_to):
    monkeypatch.setattr(operator_norm, "DENSE_UP_TO", dense_up_to)
    geometry, shape = GEOMETRIES[name]
    kernel = np.random.default_rng(1).normal(size=shape)
    assert convolution_norm(kernel, geometry) == pytest.approx(
        spectral_norm(matrix(kernel, geometry)), rel=1e-8
    )


def test_padding_on_one_side_more_than_on_the_other():
    geometry = Convolution((6,), (1,), (1,), (2,), (1,))
    kernel = np.random.default_rng(2).normal(size=(2, 2, 4))
    wide = torch.nn.functional.pad(torch.ones(1, 2, 6, dtype=torch.float64), (1, 2))
    same = torch.nn.functional.conv1d(wide, torch.from_numpy(kernel))
    np.testing.assert_allclose(convolve(kernel, np.ones((2, 6)), geometry), same[0].numpy())


def test_matrices_by_hand_and_not_finite():
    assert spectral_norm(np.array([[3.0, 4.0]])) == 5.0
    np.testing.assert_allclose(singular_values(np.diag([1.0, -7.0, 2.0])), [7, 2, 1])
    assert np.isnan(singular_values(np.array([[np.inf, 1.0], [0.0, 1.0]]))).all()
    geometry = Convolution((4,), (1,), (0,), (0,), (1,))
    assert math.isnan(convolution_norm(np.full((1, 1, 2), np.nan), geometry))
    assert convolution_norm(np.zeros((1, 1, 2)), geometry) == 0.0
