"""The models of the benchmarks, at the sizes people train."""

import torch
from torch import Tensor, nn

from tests import zoo


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    layers: list[nn.Module] = []
    for a, b in ((784, 512), (512, 512), (512, 512)):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10)), *batch(256, 784)


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    layers: list[nn.Module] = []
    for a, b in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    tail = [nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *tail), *batch(128, 3, 32, 32)


def vgg11() -> tuple[nn.Module, Tensor, Tensor]:
    layers: list[nn.Module] = []
    inside = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10)), *batch(32, 3, 32, 32)


def resnet18(n: int = 32) -> tuple[nn.Module, Tensor, Tensor]:
    return zoo.ResNet18(width=64, classes=10), *batch(n, 3, 32, 32)


def batch(n: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator)
    return x, torch.randint(0, 10, (n,), generator=generator)


MODELS = {"MLP": mlp, "CNN": cnn, "ResNet-18": resnet18, "VGG-11": vgg11}
