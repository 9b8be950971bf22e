"""Path norms and exact operator norms against forward passes of the same network."""

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from analyze.replay.paths import path_sums
from analyze.replay.paths.operator_norm import map_norm
from benchmarks.harness import Work, case
from benchmarks.models import batch, resnet18
from tracer.network import Network, trace
from tracer.network.copies import named_tensors

STEPS = 60
FORWARDS = 10  # averaged, as one is short against the noise of a shared machine


def vgg16() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    layers: list[nn.Module] = []
    inside = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10)), *batch(8, 3, 32, 32)


def trained(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = STEPS
) -> tuple[Network, dict[str, Any]]:
    """The table and weights after some steps: at initialisation the largest singular values lie unusually close."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    weights = {name: tensor.detach().numpy() for name, tensor in named_tensors(model).items()}
    return trace(model, x, y, F.cross_entropy), weights


def table_of(network: Network) -> dict[str, Any]:
    values = {name: tensor.numpy() for name, tensor in network.constants.items()}
    return {**json.loads(network.to_json()), "values": values}


def one_forward(model: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> Work:
    model, x = model.to(dtype), x[:1].to(dtype)

    def work() -> None:
        with torch.no_grad():
            model(x)

    return work


@case("one float64 forward of one example", repeats=5)
def path_norms() -> Iterator[tuple[str, Work, Work, float]]:
    """Each of the four sums (two powers, with and without literal factors) counts as one norm."""
    for name, (model, x, y) in (("VGG-16", vgg16()), ("ResNet-18", resnet18(8))):
        torch.manual_seed(0)
        network, weights = trained(model, x, y)
        table = table_of(network)

        def ours(table: Any = table, weights: Any = weights) -> None:
            path_sums(table, weights)

        forward = one_forward(model, x, torch.float64)
        yield f"{name}, each of four", ours, lambda f=forward: [f() for _ in range(4)], 3.0  # type: ignore[misc]


@case("one float32 forward of one example", repeats=3)
def operator_norms() -> Iterator[tuple[str, Work, Work, float]]:
    for steps, when in ((STEPS, f"after {STEPS} steps"), (0, "at initialisation")):
        torch.manual_seed(0)
        model, x, y = resnet18(8)
        network, weights = trained(model, x, y, steps)
        maps = path_sums(table_of(network), weights).maps
        forward = one_forward(model, x, torch.float32)

        def ours(maps: Any = maps) -> None:
            for layer in maps:
                map_norm(layer.apply, layer.weight(), layer.inputs)

        def theirs(forward: Work = forward) -> float:
            start = time.process_time()
            for _ in range(FORWARDS):
                forward()
            return (time.process_time() - start) / FORWARDS

        yield f"all layers of ResNet-18 {when}, to 1e-6", ours, theirs, 60.0
