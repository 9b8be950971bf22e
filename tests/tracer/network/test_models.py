"""Models and training styles people use: recorded with exact per-example gradients, or refused by name."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tracer.recorder import RecordWarning


@dataclass
class Case:
    """A model, its data, and how it is trained."""

    build: Callable[[], nn.Module]
    data: Callable[[], tuple[Any, Tensor]] = blobs
    loss: Callable[..., Tensor] = F.cross_entropy
    forward: Callable[[nn.Module, Any], Any] = lambda model, x: model(x)
    context: Callable[[], Any] = nullcontext
    objective: Callable[..., Any] | None = None
    compiled: bool = False
    scaled: bool = False


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    return blobs(n, (3, 6, 6))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))


def half_frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


class Tied(nn.Module):
    """One layer called three times, and a last one tied to the first by transposition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.again = nn.Linear(6, 5), nn.Linear(5, 5)
        self.decode = nn.Linear(5, 6, bias=False)
        self.decode.weight = nn.Parameter(self.first.weight.detach().T.clone())
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.again.weight

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        for _ in range(3):
            h = F.relu(self.again(h))
        return F.linear(self.tied(h), self.first.weight.T)[:, :3] + self.decode(h)[:, 3:]


def pruned() -> nn.Module:
    model = mlp()
    prune.l1_unstructured(model[2], "weight", 0.4)
    return model


def normed(norm: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = mlp()
        norm(model[2])
        return model

    return build


class TwoInputs(nn.Module):
    """Takes two tensors, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.out = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.out(torch.relu(self.left(left) * self.right(right)))


@dataclass
class Output:
    """What models of some libraries return."""

    loss: Tensor | None
    logits: Tensor


class Named(TwoInputs):
    """Takes its inputs as keywords and returns a dataclass."""

    def forward(self, left: Tensor, right: Tensor) -> Output:  # type: ignore[override]
        return Output(None, super().forward(left, right))


def pairs() -> tuple[Any, Tensor]:
    x, y = blobs()
    return (x, x[:, :4] - 0.5), y


def named_pairs() -> tuple[Any, Tensor]:
    (left, right), y = pairs()
    return {"left": left, "right": right}, y


def dataclass_objective(model: nn.Module, inputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
    logits = model(**inputs).logits
    return logits, F.cross_entropy(logits, targets, reduction="none")


class Reverse(torch.autograd.Function):
    """Gradient reversal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Reversed(nn.Module):
    """Its backward pass is not that of its forward computation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Reverse.apply(self.body(x)))


class Swish(torch.autograd.Function):
    """Keeps its input and not its parts, as kernels written for memory do; its backward is the right one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * (s + x * s * (1 - s))


class Swishing(nn.Module):
    """Computes with a custom function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Swish.apply(self.body(x)))


class Volumes(nn.Module):
    """Convolutions of one and three dimensions, forth and back, and normalisation by groups."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.deep, self.back = nn.Conv3d(1, 2, 2), nn.ConvTranspose3d(2, 1, 2, stride=2)
        self.line, self.norm = nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.back(F.relu(self.deep(x.view(-1, 1, 3, 6, 6))))
        return self.out(F.silu(self.norm(self.line(h.reshape(len(x), 2, -1)))).mean(2))


class Words(nn.Module):
    """Scores of the next word at every position."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.norm, self.head = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.words(x).cumsum(1))))


def sentences() -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(0))
    y = x.roll(-1, 1)
    y[:, -1] = -100
    y[::2, 2:] = -100
    return x, y


def token_loss(outputs: Tensor, targets: Tensor, reduction: str = "mean", ignore_index: int = -100) -> Tensor:
    return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction=reduction, ignore_index=ignore_index)


def autocast(dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: torch.autocast("cpu", dtype)


CASES = {
    "bf16 autocast": Case(cnn, images, context=autocast(torch.bfloat16)),
    "fp16 autocast": Case(mlp, context=autocast(torch.float16), scaled=True),
    "compiled": Case(mlp, compiled=True),
    "channels last": Case(lambda: cnn().to(memory_format=torch.channels_last), images),
    "frozen": Case(half_frozen),
    "tied and reused": Case(Tied),
    "pruned": Case(pruned),
    "weight norm": Case(normed(parametrizations.weight_norm)),
    "spectral norm": Case(normed(parametrizations.spectral_norm)),
    "two inputs": Case(TwoInputs, pairs, forward=lambda model, x: model(*x)),
    "dict in, dataclass out": Case(
        Named,
        named_pairs,
        forward=lambda model, x: model(**x).logits,
        objective=dataclass_objective,
    ),
    "tokens with ignore_index": Case(Words, sentences, token_loss),
    "custom function": Case(Swishing),
    "conv1d, conv3d, transposed, group norm": Case(Volumes, images),
    "custom backward": Case(Reversed),
}
# The other kind of autocast and of parametrization stays, test_gradients.py has every kind of layer and frozen
# parameters, test_copies.py a compiled model, and test_preparation.py every way of calling one.
RARELY = {
    *("compiled", "fp16 autocast", "frozen", "pruned", "conv1d, conv3d, transposed, group norm"),
    *("weight norm", "two inputs", "dict in, dataclass out"),
}
# What of these a recording could change: casts, buffers that a forward pass writes, a backward pass of its own.
TOUCHED = {"bf16 autocast", "spectral norm", "custom backward"}


def each(slow):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in CASES]


def part(tree: Any, index: Any) -> Any:
    if isinstance(tree, dict):
        return {name: value[index] for name, value in tree.items()}
    return tuple(value[index] for value in tree) if isinstance(tree, tuple) else tree[index]


def training(case: Case, graphs: list[int] | None = None) -> Callable[[Any], None]:
    """A training function as `tracer.check` takes it: three updates in training mode."""

    def train(record: Any) -> None:
        inner = case.build().train()
        count: list[int] = []

        def backend(module: Any, inputs: Any) -> Any:
            count.append(1)
            return module.forward

        torch._dynamo.reset()
        model = torch.compile(inner, backend=backend) if case.compiled else inner
        trainable = [p for p in inner.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trainable, lr=0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", enabled=case.scaled)
        x, y = case.data()
        loader = DataLoader(TensorDataset(torch.arange(12)), batch_size=4, shuffle=True)
        goal = {"loss": case.loss} if case.objective is None else {"objective": case.objective}
        probes = {"train": (part(x, slice(6)), y[:6])}
        with record("run.zarr", model, optimizer, probes=probes, snapshots=tracer.every(1), **goal) as run:
            for (index,) in run.batches(loader):
                with case.context():
                    loss = case.loss(case.forward(model, part(x, index)), y[index])
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                run.log(loss=loss)
        if graphs is not None:
            graphs.append(len(count))

    return train


@pytest.mark.parametrize("name", each(RARELY))
def test_gradients_are_those_of_autograd_one_example_at_a_time(tmp_path, name):
    case = CASES[name]
    path = tmp_path / "run.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordWarning)
        training(case)(lambda _, *args, **options: tracer.record(path, *args, **options))
    archive = tracer.open(path)
    probe, model = archive.probes["train"], case.build().eval()
    assert archive.steps("outputs").tolist() == [0, 1, 2, 3]
    if name == "custom backward":
        assert "gradients" not in probe.capture and archive.card["gradients"]["mode"] == "none"
        assert any(
            "body.0.weight" in note and "gradients are off" in note for note in archive.attributes["notes"]
        )
        return
    x, y = case.data()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for step in (0, 3):
        model.load_state_dict(
            {key: torch.from_numpy(w) for key, w in archive.weights(step).items()}, strict=False
        )
        for i in range(6):
            loss = case.loss(case.forward(model, part(x, slice(i, i + 1))), y[i : i + 1])
            assert loss.item() == pytest.approx(float(probe.losses(step)[i]), rel=1e-5)
            wanted = torch.autograd.grad(loss, list(trainable.values()))
            for key, gradient in zip(trainable, wanted, strict=True):
                got = probe.gradients(key, step)[i].ravel().astype(float)
                expected = gradient.numpy().ravel().astype(float)
                size = np.linalg.norm(expected)
                assert np.linalg.norm(got) == pytest.approx(size, rel=1e-4, abs=1e-7), key
                if size > 1e-6:
                    assert 1 - got @ expected / (size * np.linalg.norm(got)) < 1e-5, key


@pytest.mark.parametrize("name", each(CASES.keys() - TOUCHED))
def test_training_is_unchanged(name):
    graphs: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordWarning)
        verdict = tracer.check(training(CASES[name], graphs))
    assert verdict and set(verdict.table.values()) == {"identical"}, str(verdict)
    if CASES[name].compiled:
        assert graphs[0] > 0 and len(set(graphs)) == 1, "recording made torch.compile compile again"


def test_weights_of_bfloat16_are_recorded_as_float32(tmp_path):
    """Every stream, of a model whose numbers NumPy does not have."""
    model, (x, y) = cnn().to(torch.bfloat16), images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = x.to(torch.bfloat16)
    options = {"probes": {"train": (given[:6], y[:6])}, "snapshots": tracer.every(1), "minibatch": True}
    with tracer.record(tmp_path / "run.zarr", model, optimizer, loss=F.cross_entropy, **options) as run:
        for inputs, targets in run.batches(DataLoader(TensorDataset(given, y), batch_size=4)):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    archive = tracer.open(tmp_path / "run.zarr")
    probe, weights = archive.probes["train"], archive.weights(3)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(weights[name], tensor.to(weights_type(tensor)).numpy())
    wide = cnn().eval()
    wide.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    np.testing.assert_allclose(probe.outputs(3), wide(given[:6].float()).detach(), atol=0.05)
    assert (probe.masks("2", 3) == (wide[:2](given[:6].float()) > 0).flatten(1).numpy()).mean() > 0.97
    gradient = probe.gradients("0.weight", 3)[0].ravel()
    (wanted,) = torch.autograd.grad(F.cross_entropy(wide(given[:1].float()), y[:1]), [wide[0].weight])
    cosine = gradient @ wanted.numpy().ravel() / (np.linalg.norm(gradient) * wanted.norm().item())
    assert cosine > 0.99
    assert np.isfinite(archive.minibatch.loss(3)).all()


def weights_type(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
