import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from analyze.replay.paths import operator_norm
from analyze.replay.paths.operator_norm import applied_weights, map_norm, row_norm, singular_values
from tests.analyze.replay.test_homogeneous import randomise, traced
from tests.tables import stored

LAYERS = {
    "plain": (nn.Conv2d(2, 3, 3, bias=False), (2, 8, 7)),
    "padded": (nn.Conv2d(2, 3, 3, padding=(1, 2)), (2, 8, 7)),
    "same": (nn.Conv2d(2, 3, 4, padding="same"), (2, 8, 7)),
    "strided": (nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), (2, 9, 8)),
    "dilated": (nn.Conv2d(2, 2, (2, 3), stride=(1, 2), padding=2, dilation=(2, 3)), (2, 7, 11)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 6)),
    "one dimension": (nn.Conv1d(3, 4, 3, 2, 1), (3, 50)),
    "three dimensions": (nn.Conv3d(2, 2, 2), (2, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 6, 6)),
    "one element": (nn.Conv2d(12, 14, 1, stride=2, groups=2), (12, 5, 5)),
    "one element, between the strides": (nn.Conv2d(3, 4, 1, stride=2, padding=1), (3, 6, 6)),
    "one element, cropped": (nn.ConvTranspose2d(3, 4, 1, padding=1), (3, 6, 6)),
    "linear": (nn.Linear(140, 150), (140,)),
}


def by_columns(layer, shape):
    """The layer as a matrix: its answers to one input at a time."""
    with torch.no_grad():
        basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        layer = layer.double()
        return (layer(basis) - layer(torch.zeros(1, *shape).double())).flatten(1).T.numpy()


def conv_matrix(conv, kernel, shape):
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return conv(basis, kernel).flatten(1).numpy()


@pytest.mark.parametrize("dense_up_to", [10**6, 0])
@pytest.mark.parametrize("name", LAYERS)
def test_norm_is_that_of_the_written_out_matrix(monkeypatch, name, dense_up_to):
    monkeypatch.setattr(operator_norm, "DENSE_UP_TO", dense_up_to)
    layer, shape = LAYERS[name]
    layer = randomise(layer.float())
    table, tensors = traced(layer, *shape)
    norm = row_norm(tensors["weight"], applied_weights(table)["weight"])
    expected = np.linalg.svd(by_columns(layer, shape), compute_uv=False)[0]
    assert norm.value == pytest.approx(expected, rel=1e-10 if dense_up_to else 1e-6)
    assert (norm.iterations == 0) == bool(dense_up_to)
    if norm.iterations:
        assert norm.value <= expected * (1 + 1e-12) and norm.error <= 1e-6


def test_positions_of_a_kernel_of_one_element_are_mapped_alike():
    kernel = torch.randn(130, 140, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = []

    def apply(x, weight):
        seen.append(x.shape[1:])
        return torch.nn.functional.conv2d(x, weight, None, 2)

    norm = map_norm(apply, kernel, (140, 9, 9))
    assert set(seen) == {(140, 1, 1)}
    assert norm.value == pytest.approx(float(torch.linalg.matrix_norm(kernel[:, :, 0, 0], 2)), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 5, 12, 45, 53])
def test_two_values_that_lie_close_are_told_apart(seed):
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(6, 6, 3, 3, dtype=torch.float64, generator=generator)
    conv = partial(torch.nn.functional.conv2d, padding=1)
    largest = np.linalg.svd(conv_matrix(conv, kernel, (6, 10, 10)), compute_uv=False)[0]
    norm = map_norm(conv, kernel, (6, 10, 10))
    assert norm.iterations > 0
    assert (1 - 1e-6) * largest <= norm.value <= (1 + 1e-12) * largest


def test_scale_of_the_weights_does_not_matter():
    kernel = torch.randn(3, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    conv = torch.nn.functional.conv2d
    norms = [map_norm(conv, kernel * scale, (3, 9, 9)).value / scale for scale in (1.0, 1e-200, 1e150)]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-12)


def test_a_map_of_rank_one_ends_the_iterations():
    left, right = (
        torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
    )
    norm = map_norm(lambda x, w: x @ w.T, torch.outer(left, right), (200,))
    assert norm.value == pytest.approx(float(left.norm() * right.norm()), rel=1e-9)


def test_scaling_zeros_and_what_is_not_finite():
    assert map_norm(None, torch.tensor([2.0, -3.0]), (2, 4, 4)).value == 3.0
    conv = torch.nn.functional.conv1d
    assert map_norm(conv, torch.zeros(1, 1, 2), (1, 500)).value == 0.0
    assert math.isnan(map_norm(conv, torch.full((1, 1, 2), math.inf), (1, 500)).value)
    rows = [
        {"op": "aten.relu.default", "args": [{"input": 0}]},
        {"op": "aten.conv1d.default", "args": [{"row": 0}, {"tensor": "w"}, None]},
    ]
    unknown = applied_weights(stored(rows, inputs=[(2, 1, 4)]))["w"]
    assert math.isnan(row_norm(np.ones((1, 1, 2)), unknown).value)


@pytest.mark.parametrize("shape", [(3, 4), (2, 30), (30, 2), (1, 1)])
def test_singular_values(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    gram = matrix @ matrix.T if shape[0] < shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(singular_values(matrix), np.sqrt(np.linalg.eigvalsh(gram))[::-1], rtol=1e-10)
    assert np.isnan(singular_values(np.full(shape, np.inf))).all()


def test_first_use_of_each_weight_with_its_input_size():
    x = {"input": 0}
    options = [[2, 2], [1, 0], [1, 1], 3]
    rows = [
        {"op": "aten.relu.default", "args": [x], "shape": [[1, 0], 3, 8, 6]},
        {
            "op": "aten.conv2d.default",
            "args": [{"row": 0}, {"tensor": "c"}, None, *options],
            "shape": [[1, 0], 4],
        },
        {"op": "aten.conv2d.default", "args": [{"row": 0}, {"tensor": "c"}, None]},
        {"op": "aten.linear.default", "args": [{"row": 1}, {"row": 0}, None]},
        {"op": "aten.linear.default", "args": [{"row": 1}, {"tensor": "fc"}, None]},
        {"op": "aten.linear.default", "args": [{"row": 1}, {"tensor": "in the loss"}, None], "loss": True},
    ]
    applied = applied_weights(stored(rows))
    assert list(applied) == ["c", "fc"]
    assert applied["c"].inputs == (3, 8, 6) and applied["c"].row.args[3] == [2, 2]
    assert applied["fc"].inputs == (4,)


@pytest.mark.parametrize("shape", [None, [[1, 0], 3, [2, 1], 8]])
def test_size_that_is_not_known(shape):
    rows = [
        {"op": "aten.relu.default", "args": [{"input": 0}], "shape": shape},
        {"op": "aten.conv2d.default", "args": [{"row": 0}, {"tensor": "c"}, None]},
    ]
    assert applied_weights(stored(rows))["c"].inputs is None


def test_tables_of_recorded_networks():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2), nn.Flatten()
    )
    model.append(nn.Linear(18, 3))
    assert model(torch.zeros(1, 2, 6, 6)).shape == (1, 3)
    applied = applied_weights(traced(model, 2, 6, 6)[0])
    assert {name: entry.inputs for name, entry in applied.items()} == {
        "0.weight": (2, 6, 6),
        "2.weight": (4, 2, 2),
        "4.weight": (18,),
    }
