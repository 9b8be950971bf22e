from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analyze.replay.paths import path_sums
from analyze.replay.paths.rules import refusal
from tests.oracles.homogeneous import Units, folded
from tests.tables import stored
from tracer.errors import MissingTraceError
from tracer.network import read
from tracer.network.memo import trace_once
from tracer.network.table import Row


def traced(model, *shape, batch=3):
    """Network and tensors of a model in eval mode, as they are read from an archive."""
    inputs = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    network = trace_once(model.eval(), inputs)
    named = [*model.named_parameters(), *model.named_buffers()]
    network = read(network.to_json(), network.constants)
    return network, {k: v.detach().numpy() for k, v in named}


def randomise(model, seed=0):
    """Weights, shifts and running statistics that are all of them in play."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator)
                value.copy_(drawn.abs() + 0.3 if name.endswith("var") else drawn)
    return model


def sums(model, *shape, **options):
    return {key: np.exp(value) for key, value in path_sums(*traced(model, *shape), **options).log.items()}


class Residual(nn.Module):
    """Every kind of layer there is a form for, on 5 x 5 images: few enough paths to walk them all."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(2)
        self.bn3 = nn.BatchNorm2d(2)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = F.leaky_relu(self.bn2(self.conv2(x)) + x, 0.1)
        return self.fc(F.adaptive_avg_pool2d(self.bn3(x), 2).flatten(1)).log_softmax(1)


@pytest.mark.parametrize("biases", [False, True])
def test_equals_walking_every_path(biases):
    model = randomise(Residual())
    result = sums(model, 1, 5, 5, include_bias=biases)
    w = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}

    def norm(name):
        return [w[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]

    units = Units()
    x = units.inputs(1, 5, 5)
    x = units.conv(x, *folded(w["conv1.weight"], None, *norm("bn1"), 1e-5), padding=1)
    x = units.max_pool(x, 3, 2, 1)
    x = units.add(
        units.conv(x, *folded(w["conv2.weight"], w["conv2.bias"], *norm("bn2"), 1e-5), padding=1), x
    )
    scale, shift, mean, variance = norm("bn3")
    size = scale / np.sqrt(variance + 1e-5)
    x = units.average(units.scaling(x, size, shift - size * mean), 2)
    x = units.linear(x, w["fc.weight"], w["fc.bias"])
    for power, literal in result:
        expected = units.total(x, power, literal, biases)
        assert result[power, literal] == pytest.approx(expected, rel=1e-10), (power, literal)


class Grouped(nn.Module):
    """Groups, dilation, stride, concatenation, a constant factor, a fixed shift, scaling by parameters."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(4, 4, 2, dilation=2, groups=2)
        self.narrow = nn.Conv2d(4, 2, 3, stride=2, padding=1)
        self.gain = nn.Parameter(torch.ones(6, 1, 1))
        self.register_buffer("mean", torch.ones(4, 1, 1))
        self.fc = nn.Linear(24, 2)

    def forward(self, x):
        x = (x - self.mean) / 0.5
        x = torch.cat([torch.tanh(self.wide(x)), self.narrow(x)[:, :, :2, :2]], 1)
        return self.fc((x * self.gain).flatten(1))


@pytest.mark.parametrize("biases", [False, True])
def test_other_rows_equal_walking_every_path(biases):
    model = randomise(Grouped())
    result = sums(model, 4, 4, 4, include_bias=biases)
    w = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    units = Units()
    raw = units.inputs(4, 4, 4)
    mean = w["mean"].ravel()
    x = units.made(raw.shape, lambda i: [(raw[i], 2.0, None), (None, 2 * mean[i[0]], None)])
    wide = units.conv(x, w["wide.weight"], w["wide.bias"], dilation=2, groups=2)
    narrow = units.conv(x, w["narrow.weight"], w["narrow.bias"], stride=2, padding=1)[:, :2, :2]
    x = np.concatenate([wide, narrow])
    x = units.scaling(x, w["gain"].ravel(), np.zeros(6))
    x = units.linear(x, w["fc.weight"], w["fc.bias"])
    # `narrow` has 2 · 2 · 2 outputs, all of them used.
    for power, literal in result:
        assert result[power, literal] == pytest.approx(units.total(x, power, literal, biases), rel=1e-10)


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return self.pool(x).flatten(1)


POOLS = {
    "plain": nn.AvgPool2d(2),
    "overlapping": nn.AvgPool2d(3, 2, padding=1),
    "padding not counted": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "rounded up": nn.AvgPool2d(3, 2, ceil_mode=True),
    "divided by 5": nn.AvgPool2d(2, divisor_override=5),
    "adaptive": nn.AdaptiveAvgPool2d((3, 2)),
    "global": nn.AdaptiveAvgPool2d(1),
    "max": nn.MaxPool2d(2),
    "max dilated": nn.MaxPool2d(2, 2, padding=1, dilation=2),
    "max rounded up": nn.MaxPool2d(3, 2, ceil_mode=True),
    "adaptive max": nn.AdaptiveMaxPool2d(3),
}


FURTHER = ("overlapping", "global", "max", "max rounded up", "adaptive max")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in FURTHER)) for name in POOLS]
)
def test_pooling_by_its_weights(name):
    """A pooling layer's weights are its answers to one unit at a time."""
    result = sums(Pooled(POOLS[name]), 2, 7, 5)
    basis = torch.eye(70, dtype=torch.float64).reshape(-1, 2, 7, 5)
    weights = POOLS[name](basis).numpy()
    assert result[1, False] == pytest.approx(weights.sum(), rel=1e-12)
    assert result[2, False] == pytest.approx((weights**2).sum(), rel=1e-12)
    assert result[2, True] == result[2, False]


@pytest.mark.parametrize(
    "pool", [nn.AvgPool1d(3, 2, 1), nn.MaxPool1d(3, 2), nn.AvgPool3d(2), nn.MaxPool3d(2)]
)
def test_pooling_in_one_and_three_dimensions(pool):
    shape = (9,) if "1d" in type(pool).__name__ else (4, 4, 4)
    result = sums(Pooled(pool), 1, *shape)
    weights = pool(torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, 1, *shape)).numpy()
    for power in (1, 2):
        assert result[power, False] == pytest.approx((weights**power).sum(), rel=1e-12)


def test_mean_over_space_and_maximum_kept():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    assert sums(Mean(), 3, 4, 4)[2, False] == pytest.approx(3 / 16)
    model = randomise(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()))
    kept = sums(model, 1, 6, 6, maxpool="max")
    fields = F.conv2d(torch.ones(1, 1, 6, 6).double(), model[0].weight.detach().double().abs())
    assert kept[1, False] == pytest.approx(F.max_pool2d(fields, 2).sum().item())
    assert kept[1, False] < sums(model, 1, 6, 6)[1, False]


def test_batch_norm_folded_by_hand_is_the_same_network():
    model = randomise(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    )
    by_hand = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    w = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    norm = [w[f"1.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    weight, bias = folded(w["0.weight"], w["0.bias"], *norm, 1e-5)
    by_hand.load_state_dict(
        {"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)}, strict=False
    )
    by_hand[3].load_state_dict(
        {"weight": model[4].weight.detach().double(), "bias": model[4].bias.detach().double()}
    )
    for include_bias in (False, True):
        one = sums(model, 2, 4, 4, include_bias=include_bias)
        named = {name: value.detach().numpy() for name, value in by_hand.named_parameters()}
        table = traced(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)), 2, 4, 4)[
            0
        ]
        two = path_sums(table, named, include_bias=include_bias)
        for key, value in one.items():
            assert value == pytest.approx(np.exp(two.log[key]), rel=1e-12)
    maps = path_sums(*traced(model, 2, 4, 4)).maps
    np.testing.assert_allclose(maps[0].weight().numpy(), weight, rtol=1e-12)
    assert [layer.units for layer in maps] == [12, 2] and [layer.channels for layer in maps] == [3, 2]


def test_transposed_convolution_with_batch_norm():
    model = randomise(
        nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.BatchNorm2d(6), nn.Flatten())
    )
    result = sums(model, 4, 3, 3)
    (layer,) = path_sums(*traced(model, 4, 3, 3)).maps
    with torch.no_grad():
        x = torch.randn(2, 4, 3, 3).double()
        linear = layer.apply(x, layer.weight()).flatten(1)
        model = model.double()
        expected = model(x) - model(torch.zeros_like(x))
    torch.testing.assert_close(linear, expected)
    basis = torch.eye(36).double().reshape(-1, 4, 3, 3)
    matrix = layer.apply(basis, layer.weight()).flatten(1)
    assert result[2, False] == pytest.approx((matrix**2).sum().item())


def test_rescaling_hidden_units_changes_nothing():
    model = randomise(Residual())
    before = sums(model, 1, 5, 5)
    with torch.no_grad():
        model.bn1.weight *= 8.0
        model.bn1.bias *= 8.0
        model.conv1.weight *= 3.0
        model.bn1.running_mean *= 3.0
        model.bn1.running_var.copy_(9 * model.bn1.running_var + 8e-5)
        for tensor in (model.conv2.bias, model.bn2.running_mean, model.bn3.running_mean, model.bn2.bias):
            tensor *= 8.0
        model.bn2.running_var.copy_(model.bn2.running_var)
        model.fc.weight /= 8.0
    after = sums(model, 1, 5, 5)
    for key, value in before.items():
        assert after[key] == pytest.approx(value, rel=1e-5)


def test_weights_computed_from_parameters():
    plain = randomise(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, bias=False))
    normed.weight = plain[0].weight.detach()
    assert sums(nn.Sequential(normed, nn.ReLU(), plain[2]), 3)[2, True] == pytest.approx(
        sums(plain, 3)[2, True]
    )


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) * x


class Steep(nn.Module):
    def forward(self, x):
        return F.leaky_relu(x, 2.0)


class SoftmaxInside(nn.Module):
    def forward(self, x):
        return x.softmax(1) + 0 * x


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x, need_weights=False)[0].mean(1)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Product(), (4,), r"mul\.Tensor.*product or quotient of activations"),
        (Steep(), (4,), "leaky_relu.*slopes of at most 1"),
        (SoftmaxInside(), (4,), "what a softmax returned"),
        (Attention(), (3, 4), "module 'attend'"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), "layer_norm.*module '1'"),
        (nn.Sequential(nn.GroupNorm(2, 4)), (4, 2), "group_norm.*module '0'"),
        (nn.Sequential(nn.Linear(4, 4), nn.GELU()), (4,), "gelu.*module '1'"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), (4,), "sigmoid.*module '1'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_has_no_form_is_refused_by_row_and_module(model, shape, message):
    with pytest.raises(MissingTraceError, match=message):
        path_sums(*traced(model, *shape))


def test_refusals_name_row_and_place():
    row = Row("gelu_1", "aten.gelu.default", [], {}, "head.act")
    assert "row 'gelu_1' (aten.gelu.default, in module 'head.act') is steep" in str(refusal(row, "is steep"))
    assert "the network itself" in str(refusal(replace(row, module=""), "is steep"))


def test_what_only_a_hand_written_relu_looks_at_needs_no_form():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            x = self.fc(x)
            return x * (x > 0)

    class Plain(Gated):
        def forward(self, x):
            return F.relu(self.fc(x))

    gated, plain = randomise(Gated()), randomise(Plain())
    assert sums(gated, 3) == sums(plain, 3)


def test_windows_far_larger_than_what_they_lie_over_are_refused():
    size = 1 << 15
    pool = {
        "op": "aten.max_pool1d.default",
        "args": [{"input": 0}, [2 * size], [1], [size]],
        "shape": [3, 1, 5],
    }
    with pytest.raises(MissingTraceError, match="windows of 65536"):
        path_sums(stored([{**pool, "axis": 0}], inputs=[(3, 1, 4)]), {})


def test_a_network_for_a_fixed_number_of_examples():
    model = randomise(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    network, tensors = traced(model, 3)
    fixed = path_sums(network.derived(batch=5), tensors)
    for key, value in path_sums(network, tensors).log.items():
        assert fixed.log[key] == pytest.approx(value, rel=1e-12)


def test_values_beyond_floats_zeros_and_what_is_not_finite():
    model = nn.Sequential(*[nn.Linear(10, 10) for _ in range(12)])
    table, tensors = traced(model, 10)
    big = {name: np.full_like(value, 1e30) for name, value in tensors.items()}
    # 10 inputs, then 12 layers of 10 paths and weights of 1e30.
    assert path_sums(table, big).log[1, False] == pytest.approx((1 + 12 * 31) * np.log(10))
    biased = path_sums(table, big, include_bias=True).log[1, False]
    assert biased == pytest.approx((1 + 12 * 31) * np.log(10) + np.log(1.1))
    small = {name: np.full_like(value, 1e-30) for name, value in tensors.items()}
    assert path_sums(table, small).log[2, False] == pytest.approx((1 + 12 * (1 - 60)) * np.log(10), rel=1e-6)
    none = {**big, "6.weight": np.zeros((10, 10), np.float32)}
    assert path_sums(table, none).log[1, False] == -np.inf
    assert np.isfinite(path_sums(table, none, include_bias=True).log[1, False])
    for bad in (np.nan, np.inf):
        wrong = {**big, "6.weight": np.full((10, 10), bad, np.float32)}
        assert np.isnan(path_sums(table, wrong).log[1, False])
