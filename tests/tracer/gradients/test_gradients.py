"""Rules and forms against one autograd.grad an example; both routes to a Gram matrix against each other."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests import zoo
from tests.oracles.gradients import check_gram, check_rows, cosine_error, gram, per_example
from tracer.archive.gradients import rebuild
from tracer.gradients import Backward, Plan, inner_products, products, windows
from tracer.gradients import forms as kinds
from tracer.gradients.collect import Blocks, compact
from tracer.gradients.forms import Correlation, Form, Full, Outer, Scatter
from tracer.gradients.leftover import Leftover
from tracer.gradients.products import gram_of_pairs, gram_of_rows
from tracer.gradients.windows import Geometry
from tracer.network import Network, trace
from tracer.network.copies import named_tensors


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss (n,) that gives every output its own signal, whatever its shape."""
    flat = outputs.flatten(1)
    weights = torch.linspace(-1, 1.5, flat.shape[1], dtype=flat.dtype)
    return (flat * weights + flat.square() * targets[:, None]).sum(1)


class Calls(nn.Module):
    """A module whose forward is a function of its parameters `w`, `v`, `b` and the input."""

    def __init__(self, forward: Callable[["Calls", Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))
        self._function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


class Tied(nn.Module):
    """A table of words that is also the last layer."""

    def __init__(self, words: int = 7) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.words(x)), self.words.weight)


class Frames(nn.Module):
    """A convolution over frames that are merged with the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        y = torch.relu(self.norm(self.conv(x.flatten(0, 1)))).mean((2, 3))
        return self.fc(y.view(n, frames, 3))


def frozen(module: nn.Module, name: str) -> nn.Module:
    getattr(module, name).requires_grad_(False)
    return module


def twice(module: nn.Module) -> nn.Module:
    return nn.Sequential(module, nn.Tanh(), module)


def two_biases(m: Calls, x: Tensor) -> Tensor:
    return F.linear(F.linear(x, m.w, m.b), m.w, m.v)


def scaled_product(m: Calls, x: Tensor) -> Tensor:
    return torch.addmm(m.b, x, m.w, beta=0.5, alpha=2)


def with_token(m: Calls, x: Tensor) -> Tensor:
    return torch.cat([m.w.expand(x.shape[0], -1, -1), x], 1)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear of tokens": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear of a grid": (lambda: nn.Linear(4, 3, bias=False), (2, 3, 4)),
    "linear, weight frozen": (lambda: frozen(nn.Linear(4, 3), "weight"), (5, 4)),
    "linear, bias frozen": (lambda: frozen(nn.Linear(4, 3), "bias"), (5, 4)),
    "linear used twice": (lambda: twice(nn.Linear(4, 4)), (3, 4)),
    "linear, two biases": (lambda: Calls(two_biases, w=(4, 4), b=(4,), v=(4,)), (4,)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
    "conv2d strided, dilated": (lambda: nn.Conv2d(2, 3, (3, 2), (2, 3), (2, 1), (1, 2)), (2, 9, 10)),
    "conv2d groups": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7, 7)),
    "conv2d depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3), (3, 6, 6)),
    "conv2d 1x1 strided": (lambda: nn.Conv2d(3, 2, 1, stride=2, bias=False), (3, 7, 6)),
    "conv2d same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), (2, 7, 7)),
    "conv2d same, even kernel": (lambda: nn.Sequential(nn.Conv2d(2, 3, 4, padding="same")), (2, 5, 6)),
    "conv2d weight frozen": (lambda: frozen(nn.Conv2d(2, 3, 3), "weight"), (2, 6, 6)),
    "conv2d used twice": (lambda: twice(nn.Conv2d(2, 2, 3, padding=1)), (2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 0)), (2, 4, 5, 3)),
    "conv of frames": (Frames, (3, 2, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), groups=2, dilation=(1, 2)), (4, 4, 5)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 1, 2, stride=2), (2, 2, 3, 2)),
    "batch norm 1d": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (3,)),
    "batch norm 2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), (2, 4, 4)),
    "batch norm, bias frozen": (lambda: frozen(nn.BatchNorm2d(2), "bias"), (2, 4, 4)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), (2, 3)),
    "layer norm of images": (lambda: nn.LayerNorm((2, 3)), (4, 2, 3)),
    "group norm": (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4)), (2, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(2, affine=True), (2, 4, 4)),
    "rms norm": (lambda: nn.RMSNorm(4, eps=1e-5), (3, 4)),
    "prelu": (lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU()), (3,)),
    "prelu of channels": (lambda: nn.PReLU(2), (2, 4, 4)),
    "x @ w": (lambda: Calls(lambda m, x: torch.tanh(x) @ m.w, w=(4, 3)), (2, 4)),
    "mm": (lambda: Calls(lambda m, x: torch.mm(x, m.w), w=(4, 3)), (4,)),
    "addmm": (lambda: Calls(scaled_product, w=(4, 3), b=(3,)), (4,)),
    "x + b": (lambda: Calls(lambda m, x: x + m.b, b=(3, 1)), (2, 3, 4)),
    "b - x": (lambda: Calls(lambda m, x: m.b - x, b=(4,)), (3, 4)),
    "x - 2b": (lambda: Calls(lambda m, x: torch.sub(x, m.b, alpha=2), b=(4,)), (3, 4)),
    "w * x": (lambda: Calls(lambda m, x: m.w * torch.tanh(x) * m.v, w=(4,), v=(1,)), (3, 4)),
    "expanded token": (lambda: Calls(with_token, w=(1, 1, 4)), (3, 4)),
}  # fmt: skip
# Other sizes and ranks of what the rest has: tokens, a frozen weight, groups, two and three dimensions, x @ w.
RARE = {
    "linear of a grid", "linear, bias frozen", "conv1d", "conv2d depthwise", "conv2d 1x1 strided",
    "conv2d same, even kernel", "transposed 1d", "transposed 3d", "batch norm 1d", "layer norm of images", "mm",
}  # fmt: skip
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in RARE)) for name in MODULES]


def forms_of(network: Network, model: nn.Module, x: Any, y: Tensor) -> tuple[Plan, dict[str, Form]]:
    plan, forms = Plan.of(network), dict[str, Form]()
    backward = Backward(plan, len(y), len(y), lambda unit, found: forms.update(found))
    _, losses = network.run(named_tensors(model), x, y, visit=backward.visit)
    assert losses is not None
    backward.run(losses)
    return plan, forms


def rows_of(plan: Plan, forms: dict[str, Form]) -> dict[str, Tensor]:
    rows = {name: form.rows() for name, form in forms.items()}
    return rows | {plan.partner[name]: form.bias_rows() for name, form in forms.items() if form.bias}


def with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


class Together(nn.Module):
    """Modules side by side, each with an input of its own: tracing them one by one takes longer."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names, self.parts, self.inputs = names, nn.ModuleList(), list[Tensor]()
        for make, shape in map(MODULES.__getitem__, names):
            torch.manual_seed(0)
            self.parts.append(with_statistics(make()))
            self.inputs.append(torch.randn(4, *shape))

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [part(x) for part, x in zip(self.parts, inputs, strict=True)]


def losses_of_all(model: nn.Module, inputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    outputs = model(*inputs)
    losses = [squares(output, targets) for output in outputs]
    return outputs[0], torch.stack(losses).sum(0)


@cache
def together(rare: bool) -> tuple[Together, Tensor, Plan, dict[str, Form]]:
    model = Together([name for name in MODULES if (name in RARE) == rare])
    y = torch.rand(4, generator=torch.Generator().manual_seed(2))
    inputs = tuple(model.inputs)
    network = trace(model, inputs, y, objective=losses_of_all)
    return model, y, *forms_of(network, model, inputs, y)


@pytest.mark.parametrize("name", EACH)
def test_rule(name: str) -> None:
    whole, y, plan, forms = together(name in RARE)
    place = whole.names.index(name)
    model, x, prefix = whole.parts[place], whole.inputs[place], f"parts.{place}."
    exact, theirs = (
        {prefix + key: row for key, row in per_example(model, squares, x, y, double=double).items()}
        for double in (True, False)
    )
    assert not plan.leftover
    own = {parameter: form for parameter, form in forms.items() if parameter.startswith(prefix)}
    rows = rows_of(plan, own)
    assert rows.keys() == exact.keys()
    for parameter, row in rows.items():
        check_rows(row, exact[parameter], theirs[parameter])
    for parameter, form in own.items():
        spoken_for = [parameter, *([plan.partner[parameter]] if form.bias else [])]
        check_gram(inner_products(form), *([found[p] for p in spoken_for] for found in (exact, theirs)))


@pytest.mark.parametrize("padding", [None, 3])
def test_embedding(padding: int | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3, padding_idx=padding), nn.Tanh())
    x, y = torch.randint(0, 7, (5, 6)), torch.rand(5)
    _, forms = forms_of(trace(model, x, y, squares), model, x, y)
    expected = per_example(model, squares, x, y)["0.weight"]
    assert isinstance(forms["0.weight"], Scatter)
    torch.testing.assert_close(forms["0.weight"].rows(), expected)
    assert cosine_error(inner_products(forms["0.weight"]), gram([expected])) < 1e-6


@pytest.mark.parametrize(
    ("padding", "first"),
    [
        (None, False),
        (3, True),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((None, True), (3, False))),
    ],
)
def test_a_lookup_added_to_every_example_alike(padding: int | None, first: bool) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(7, 3, padding_idx=padding)
    table.weight.data.normal_()

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(5, 3), table

        def forward(self, x: Tensor) -> Tensor:
            places = self.places(torch.tensor([[3, 1, 3, 0]]))
            h = torch.add(places, self.words(x)) if first else torch.sub(self.words(x), places, alpha=2)
            return torch.tanh(h) + self.places(torch.tensor(2))

    model, x, y = Positions(), torch.randint(0, 5, (6, 4)), torch.rand(6)
    plan, forms = forms_of(trace(model, x, y, squares), model, x, y)
    expected = per_example(model, squares, x, y)["places.weight"]
    assert not plan.leftover
    torch.testing.assert_close(forms["places.weight"].rows(), expected)
    assert cosine_error(inner_products(forms["places.weight"]), gram([expected])) < 1e-6


def test_a_table_tied_to_the_last_layer_adds_both_uses() -> None:
    torch.manual_seed(0)
    model, x, y = Tied(), torch.randint(0, 7, (4, 5)), torch.rand(4)
    _, forms = forms_of(trace(model, x, y, squares), model, x, y)
    expected = per_example(model, squares, x, y)["words.weight"]
    torch.testing.assert_close(forms["words.weight"].rows(), expected, rtol=1e-4, atol=1e-5)
    assert cosine_error(inner_products(forms["words.weight"]), gram([expected])) < 1e-6


def test_a_large_tied_table_is_kept_as_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(products, "_BLOCK", {"cpu": 200})  # several blocks of rows
    model, x, y = Tied(300), torch.randint(0, 300, (4, 2)), torch.rand(4)
    x[:, 1] = x[:, 0]
    plan, forms = forms_of(trace(model, x, y, squares), model, x, y)
    small = compact(forms, plan.partner)
    assert isinstance(small["words.weight"], kinds.Tied)
    expected = per_example(model, squares, x, y)["words.weight"]
    half = small["words.weight"].scaled(torch.full((4,), 0.5))
    assert cosine_error(inner_products(half), gram([expected / 2])) < 1e-6
    blocks = Blocks(4, small, {"words.weight": tuple(expected.shape[1:])}, plan)
    values = torch.zeros(blocks.size)
    for start in (0, 2):  # in two chunks
        tensors = {k: t[start : start + 2] for k, t in small["words.weight"].tensors.items()}
        blocks.write(values, start, {"words.weight": kinds.Tied(**tensors)})
    assert [block["form"] for block in blocks.blocks] == ["outer", "scatter"]
    rows = rebuild(blocks.blocks, "words.weight", lambda start, stop: values.numpy()[start:stop])
    torch.testing.assert_close(torch.from_numpy(rows), expected, rtol=1e-4, atol=1e-5)


def test_a_row_the_loss_ignores_has_zero_gradient() -> None:
    model = Calls(lambda m, x: torch.cat([x @ m.w, 0 * x], 1).narrow(1, 3, 4), w=(4, 3))
    x, y = torch.randn(3, 4), torch.rand(3)
    _, forms = forms_of(trace(model, x, y, squares), model, x, y)
    assert not forms["w"].rows().any() and not inner_products(forms["w"]).any()


@pytest.mark.parametrize(("name", "way"), [("weight norm", "vmap"), ("LSTM", "loop")])
def test_what_no_rule_covers_is_left_over(name: str, way: str) -> None:
    torch.manual_seed(0)
    loss: Callable[[Tensor, Tensor], Tensor] = squares
    if name == "weight norm":
        model, x, y = parametrizations.weight_norm(nn.Linear(4, 3)), torch.randn(3, 4), torch.rand(3)
        network = trace(model, x, y, loss)
    else:
        (model, x, y), network, loss = zoo.build(name, n=3), zoo.traced(name), zoo.loss
    model = model.eval()
    plan = Plan.of(network)
    leftover = Leftover(network, list(plan.leftover))
    rows = leftover.rows(named_tensors(model), x, y, 2)
    expected = per_example(model, loss, x[:2], y[:2])
    assert leftover.way == way and rows
    for parameter, row in rows.items():
        torch.testing.assert_close(row, expected[parameter], rtol=1e-4, atol=1e-6)


GEOMETRIES = [
    ((6, 5), Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    ((7, 6), Geometry((3, 2), (2, 3), (2, 0), (1, 2))),
    ((5, 4), Geometry((1, 1), (1, 1), (0, 0), (1, 1))),
    ((9,), Geometry((4,), (2,), (3,), (1,))),
    ((3, 4, 2), Geometry((2, 3, 1), (1, 2, 1), (1, 1, 0), (1, 1, 1))),
]


@pytest.mark.parametrize(("space", "geometry"), GEOMETRIES)
@pytest.mark.parametrize("bias", [False, True])
def test_pairs_equal_rows_for_convolutions(space: tuple[int, ...], geometry: Geometry, bias: bool) -> None:
    torch.manual_seed(0)
    kernels = zip(space, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    out = [(extent + 2 * p - d * (k - 1) - 1) // s + 1 for extent, k, s, p, d in kernels]
    form = Correlation(torch.randn(5, 2, *space), torch.randn(5, 3, *out), geometry, bias=bias)
    expected = gram([form.rows(), *([form.bias_rows()] if bias else [])])
    assert cosine_error(form._gram_of_pairs(), expected) < 1e-6
    assert cosine_error(gram_of_rows(form._blocks()), expected) < 1e-6


@pytest.mark.parametrize("bias", [False, True])
def test_pairs_equal_rows_for_products(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    form = Outer(torch.randn(7, 4, 3), torch.randn(7, 4, 5), bias=bias)
    expected = gram([form.rows(), *([form.bias_rows()] if bias else [])])
    monkeypatch.setattr(products, "_TILE", {"cpu": 8})  # several tiles
    monkeypatch.setattr(products, "_BLOCK", {"cpu": 50})  # several blocks of columns
    assert cosine_error(gram_of_pairs(form.a, form.z, bias), expected) < 1e-6
    assert cosine_error(gram_of_rows(form._blocks()), expected) < 1e-6


@pytest.mark.parametrize(
    ("space", "geometry"), [*GEOMETRIES, ((6, 6), Geometry((3, 3), (1, 1), (1, 1), (1, 1), 2))]
)
def test_the_route_by_patches_equals_the_library(
    space: tuple[int, ...], geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    kernels = zip(space, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    out = [(extent + 2 * p - d * (k - 1) - 1) // s + 1 for extent, k, s, p, d in kernels]
    a, z = torch.randn(3, 4, *space), torch.randn(3, 6, *out)
    found = []
    for library in (True, False):
        for name in ("_library_is_faster", "_has_library"):
            monkeypatch.setattr(windows, name, lambda *_, answer=library: answer)
        monkeypatch.setattr(windows, "_GROUPED", 1 << 7)  # several calls
        monkeypatch.setattr(windows, "_PATCHES", {"cpu": 1})  # one example at a time
        found.append(windows.weight_gradients(a, z, geometry))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_cancelling_positions_are_added_in_float64() -> None:
    """Two positions that cancel to one part in 10,000: float32 products would miss the rest."""
    torch.manual_seed(0)
    a = torch.randn(6, 1, 20).repeat(1, 2, 1)
    z = torch.randn(6, 1, 30).repeat(1, 2, 1)
    z[:, 1] *= -1
    a[:, 1] += 1e-4 * torch.randn(6, 20)
    expected = gram([Outer(a.double(), z.double()).rows()])
    assert cosine_error(gram_of_pairs(a, z, False), expected) < 1e-6
    naive = ((a.flatten(0, 1) @ a.flatten(0, 1).T) * (z.flatten(0, 1) @ z.flatten(0, 1).T)).view(6, 2, 6, 2)
    assert cosine_error(naive.sum((1, 3)).double(), expected) > 1e-5


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_gradients_of_any_size_keep_their_angles(positions: int, scale: float) -> None:
    torch.manual_seed(0)
    a, z = torch.randn(5, positions, 4), torch.randn(5, positions, 3)
    z[1:3] *= scale
    expected = gram([Outer(a.double(), z.double()).rows()])
    for form in (Outer(a, z), Full(Outer(a, z).rows())):
        assert cosine_error(inner_products(form), expected) < 1e-5


def test_an_undefined_gradient_stays_with_its_example() -> None:
    form = Full(torch.randn(4, 3))
    form.values[2] = float("nan")
    products = inner_products(form)
    assert products[2].isnan().all() and not products[[0, 1, 3]][:, [0, 1, 3]].isnan().any()
