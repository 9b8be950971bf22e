"""The networks of the papers, for images of 32 by 32 or 28 by 28 pixels, in any width."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

VGG = {
    11: (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    16: (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"),
    19: (1, 1, "M", 2, 2, "M", 4, 4, 4, 4, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M"),
}


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths, inputs first and classes last, with an activation between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def _conv(inputs: int, outputs: int, norm: bool, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=not norm)
    return [conv, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]


def cnn(
    channels: Sequence[int] = (16, 32, 64), *, inputs: int = 3, classes: int = 10, norm: bool = True
) -> nn.Sequential:
    """Convolutions of 3 by 3, each halving the image by max pooling, a mean over positions, one Linear."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *channels]):
        layers += [*_conv(before, after, norm), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def alexnet(width: int = 64, *, inputs: int = 3, classes: int = 10) -> nn.Sequential:
    """AlexNet's five convolutions and three Linear layers; `width` channels first (64 in the original)."""
    a, b, c, d = width, 3 * width, 6 * width, 4 * width
    return nn.Sequential(
        *_conv(inputs, a, False, stride=2), nn.MaxPool2d(2),
        *_conv(a, b, False), nn.MaxPool2d(2),
        *_conv(b, c, False), *_conv(c, d, False), *_conv(d, d, False), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * d, 64 * width), nn.ReLU(),
        nn.Linear(64 * width, 64 * width), nn.ReLU(),
        nn.Linear(64 * width, classes),
    )  # fmt: skip


def vgg(
    depth: int = 16, width: int = 64, *, inputs: int = 3, classes: int = 10, norm: bool = True
) -> nn.Sequential:
    """VGG with BatchNorm (unless `norm=False`) and one Linear layer; `width` channels first."""
    layers: list[nn.Module] = []
    before = inputs
    for entry in VGG[depth]:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += _conv(before, entry * width, norm)
        before = entry * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, classes))


def vgg19(width: int = 64, **options: int) -> nn.Sequential:
    """VGG-19 with BatchNorm."""
    return vgg(19, width, **options)  # type: ignore[arg-type]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_conv(inputs, outputs, True, stride)[:2])
        self.relu1 = nn.ReLU()
        self.second = nn.Sequential(*_conv(outputs, outputs, True)[:2])
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.second(self.relu1(self.first(x))) + self.shortcut(x))


def resnet18(width: int = 64, *, inputs: int = 3, classes: int = 10) -> nn.Sequential:
    """ResNet-18 as used for small images: no pooling at first; `width` channels first."""
    blocks: list[nn.Module] = []
    before = width
    for stage in range(4):
        after = width * 2**stage
        for k in range(2):
            blocks.append(_Block(before, after, 2 if stage and not k else 1))
            before = after
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*_conv(inputs, width, True), *blocks, *head)
