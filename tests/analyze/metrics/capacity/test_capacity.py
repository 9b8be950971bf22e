import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analyze.metrics.capacity.capacity import MEASURES, NORMS, capacity
from tests.analyze.replay.test_homogeneous import randomise, traced
from tests.oracles import capacity as slow
from tests.tables import stored
from tracer.errors import MissingTraceError

WIDTHS = (3, 4, 5, 2)
NAMES = [f"{2 * k}.weight" for k in range(3)]


def table(names=NAMES, activation="aten.relu.default", inputs=WIDTHS[0], scale=None):
    rows, value = [], {"input": 0}
    for name in names:
        rows.append({"name": name, "op": "aten.linear.default", "args": [value, {"tensor": name}, None]})
        rows.append({"name": f"after {name}", "op": activation, "args": [{"row": len(rows) - 1}]})
        value = {"row": len(rows) - 1}
    constants = {}
    if scale is not None:
        rows.append({"name": "scaled", "op": "aten.mul.Tensor", "args": [value, {"constant": "c"}]})
        constants["c"] = torch.tensor(scale)
    return stored(rows, inputs=[(2, inputs)], constants=constants)


def made(steps=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = list(zip(WIDTHS[1:], WIDTHS[:-1], strict=True))
    return [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in zip(NAMES, shapes, strict=True)}
        for _ in range(steps)
    ]


def matrices(tensors):
    return [tensors[name].astype(np.float64) for name in NAMES]


def test_every_measure_equals_paths_one_by_one():
    weights, gamma = made(), np.array([0.5, 2.0])
    result = capacity(weights, [table()] * len(weights), gamma)
    assert result["factors"].tolist() == ["dropped", "literal"]
    for step, literal in np.ndindex(2, 2):
        expected = slow.measures(matrices(weights[step]), gamma[step], bool(literal))
        for name in MEASURES:
            assert result[name][step, literal] == pytest.approx(expected[name], rel=1e-10)
            assert result[f"log10_{name}"][step, literal] == pytest.approx(np.log10(expected[name]))


def test_norms_without_margin():
    weights = made()
    result = capacity(weights, [table()] * len(weights), np.array([0.5, np.nan]))
    for step in range(2):
        layers = matrices(weights[step])
        assert result["l1_path_norm"][step] == pytest.approx(slow.path_sum(layers, 1))
        assert result["l2_path_norm"][step] == pytest.approx(slow.path_sum(layers, 2))
        assert result["l2_norm"][step] == pytest.approx(np.prod([(m**2).sum() for m in layers]))
        scale = [slow.largest_singular_value(m) for m in layers]
        assert result["spectral_norm"][step] == pytest.approx(np.prod(scale) ** 2)
    assert result["spectral_sum_slide"][0] == pytest.approx(
        4 * sum(slow.largest_singular_value(m) for m in matrices(weights[0]))
    )


def test_margin_not_above_zero_leaves_the_norms():
    result = capacity(made(3), [table()] * 3, np.array([0.0, -1.0, np.nan]))
    for name in MEASURES:
        assert np.isnan(result[name]).all() and np.isnan(result[f"log10_{name}"]).all()
    assert np.isnan(result["spectral_sum_slide"]).all()
    assert all(np.isfinite(result[name]).all() for name in NORMS)


def test_rescaling_a_hidden_unit_changes_l2_but_no_path():
    weights = made(1)
    scaled = {name: value.astype(np.float64) for name, value in weights[0].items()}
    scaled[NAMES[0]][1] *= 10.0
    scaled[NAMES[1]][:, 1] /= 10.0
    result = capacity([weights[0], scaled], [table()] * 2, np.ones(2))
    for name in ("l1_path", "l2_path"):
        np.testing.assert_allclose(result[name][0], result[name][1], rtol=1e-6)
    assert result["l2"][1, 0] > 1.5 * result["l2"][0, 0]


def test_order_of_hidden_units_does_not_matter():
    weights, order = made(1), np.array([2, 0, 3, 1])
    moved = dict(weights[0])
    moved[NAMES[0]], moved[NAMES[1]] = moved[NAMES[0]][order], moved[NAMES[1]][:, order]
    result = capacity([weights[0], moved], [table()] * 2, np.ones(2))
    for name in MEASURES:
        np.testing.assert_allclose(result[name][0], result[name][1], rtol=1e-12)


def test_beyond_the_range_of_floats_the_logarithm_remains():
    names = [f"{k}.weight" for k in range(40)]
    weights = [{name: np.full((10, 10), 1e5) for name in names}]
    result = capacity(weights, [table(names, inputs=10)], np.ones(1))
    assert result["l1_path"][0, 0] == np.inf
    # 10 inputs, then 40 layers of 10 paths and weights of 1e5.
    assert result["log10_l1_path"][0, 0] == pytest.approx(2 * (1 + 40 * 6))


def test_a_layer_of_zeros_has_no_capacity():
    weights = made(1)
    weights[0][NAMES[1]] = weights[0][NAMES[1]] * 0
    result = capacity(weights, [table()] * len(weights), np.ones(1))
    assert all(result[name][0, 0] == 0 and result[f"log10_{name}"][0, 0] == -np.inf for name in MEASURES)


def test_a_weight_that_is_not_a_number_is_undefined():
    weights = made(2)
    weights[1][NAMES[2]][0, 0] = np.nan
    result = capacity(weights, [table()] * len(weights), np.ones(2))
    for name in MEASURES:
        assert np.isfinite(result[name][0]).all() and np.isnan(result[name][1]).all()


def test_a_row_without_a_form_is_refused_by_name():
    with pytest.raises(MissingTraceError, match=r"row 'after 0.weight' \(aten\.gelu\.default"):
        capacity(made(), [table(activation="aten.gelu.default")] * 2, np.ones(2))
    with pytest.raises(MissingTraceError, match="output"):
        whole = stored([{"op": "aten.relu.default", "args": [{"input": 0}]}], output=["input", 0])
        capacity(made(), [whole] * 2, np.ones(2))


def test_no_steps():
    result = capacity([], [], np.empty(0))
    assert result["l2"].shape == (0, 2) and result["l2_norm"].shape == (0,)


def small_network():
    """A convolution with BatchNorm, a residual one, pooling, and a linear layer."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn = nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
            self.conv2, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(8, 2)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.bn(self.conv1(x))), 2)
            return self.fc((F.relu(self.conv2(x)) + x).flatten(1))

    return randomise(Small())


@pytest.fixture(scope="module")
def small():
    """Network and tensors of a small convolutional network."""
    return traced(small_network(), 1, 4, 4)


@pytest.mark.parametrize("units", ["unrolled", "channels"])
def test_convolutions_are_measured_unrolled(small, units):
    network, tensors = small
    result = capacity([tensors], [network], np.array([2.0]), units=units)
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    size = (w["bn.weight"] / np.sqrt(w["bn.running_var"] + 1e-5)).reshape(2, 1, 1, 1)
    kernels = [w["conv1.weight"] * size, w["conv2.weight"], w["fc.weight"]]
    frobenius = np.prod([(kernel**2).sum() for kernel in kernels])
    maps = [slow.convolution(kernels[0], 4, 4, 1), slow.convolution(kernels[1], 2, 2, 1), kernels[2]]
    spectral = np.prod([slow.largest_singular_value(matrix) ** 2 for matrix in maps])
    h = [len(matrix) for matrix in maps] if units == "unrolled" else [2, 2, 2]
    assert result["n_layers"].tolist() == [3]
    assert result["l2"][0] == pytest.approx(np.array([frobenius, 64 * frobenius]) / 4)
    assert result["spectral"][0] == pytest.approx(np.array([spectral, np.prod(h) * spectral]) / 4)
    operator = capacity([tensors], [network], np.array([2.0]), frobenius="operator")
    assert operator["l2_norm"][0] == pytest.approx(np.prod([(matrix**2).sum() for matrix in maps]))


def test_each_step_has_its_own_table():
    """A constant that changes during training is in the table of its step."""
    weights = made(1)
    result = capacity(weights * 2, [table(scale=value) for value in (0.5, 2.0)], np.ones(2))
    assert result["l1_path_norm"][1] == pytest.approx(4 * result["l1_path_norm"][0])
    assert result["l2_path_norm"][1] == pytest.approx(16 * result["l2_path_norm"][0])
    np.testing.assert_array_equal(result["l2_norm"][0], result["l2_norm"][1])


def test_biases_and_maximum_are_options(small):
    network, tensors = small
    plain = capacity([tensors], [network], np.ones(1))
    biased = capacity([tensors], [network], np.ones(1), include_bias=True)
    assert (biased["l1_path_norm"] > plain["l1_path_norm"]).all()
    np.testing.assert_allclose(biased["spectral_norm"], plain["spectral_norm"])
    kept = capacity([tensors], [network], np.ones(1), maxpool="max")
    assert (kept["l1_path_norm"] < plain["l1_path_norm"]).all()
    assert kept["attrs"]["maxpool"] == "max"
