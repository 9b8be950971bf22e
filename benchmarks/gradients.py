"""Gram matrices of per-example gradients against a training step's forward and backward, and against vmap."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import Work, case
from benchmarks.models import MODELS
from tracer.network import trace
from tracer.network.copies import named_tensors
from tracer.probe import Probe
from tracer.probe.passes import ProbePass

GOALS = {"MLP": 0.9, "CNN": 1.4, "ResNet-18": 1.2, "VGG-11": 1.2, "ViT": 1.4}
VMAP_GOALS = {"MLP": 1 / 80, "CNN": 1.0, "ResNet-18": 1 / 2, "VGG-11": 1 / 5, "ViT": 1.0}


def gram(model: nn.Module, x: Tensor, y: Tensor) -> Work:
    network = trace(model, x[:8], y[:8], F.cross_entropy)
    tensors = named_tensors(model)
    probe = Probe(x, y, split="train", capture={"gradients": len(x), "outputs": 0, "sums": 0, "masks": 0})
    seen = ProbePass(
        network,
        {"train": probe},
        tensors=tensors,
        streams=["gradients"],
        gradients="gram",
        memory=8 << 30,
        chunk=len(x),
    )
    return lambda: seen.run(tensors, {"gradients"})


def step(model: nn.Module, x: Tensor, y: Tensor) -> Work:
    parameters = list(model.parameters())
    return lambda: torch.autograd.grad(F.cross_entropy(model(x), y), parameters)


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Work:
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        outputs = functional_call(model, {**weights, **buffers}, (example[None],))
        return F.cross_entropy(outputs, target[None])

    def work() -> None:
        with sdpa_kernel(
            SDPBackend.MATH
        ):  # the fused attention knows no vmap and would run example by example
            rows = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
        for gradient in rows.values():
            flat = gradient.flatten(1)
            flat @ flat.T

    return work


def _rows(other: Callable[..., Work], goals: dict[str, float]) -> Iterator[tuple[str, Work, Work, float]]:
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model, x, y = build()
        model.eval()
        yield name, gram(model, x, y), other(model, x, y), goals[name]


@case("one forward and backward of the batch", repeats=5)
def gradient_gram() -> Iterator[tuple[str, Work, Work, float]]:
    yield from _rows(step, GOALS)


@case("vmap(grad) and products", repeats=3)
def gradient_gram_by_vmap() -> Iterator[tuple[str, Work, Work, float]]:
    yield from _rows(by_vmap, VMAP_GOALS)
