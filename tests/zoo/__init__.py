"""Small models of the kinds people train; widths are parameters, so that tests take milliseconds."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tracer.network import Network, trace

# Modules of cases (`tests.zoo.case`): what people train, each recorded, compared, replayed and analyzed.
FAMILIES = ("losses", "tasks", "sequences", "graphs", "vision", "language")


class MLP(nn.Sequential):
    """Two hidden layers on flat images."""

    def __init__(self, size: int = 12, width: int = 16, classes: int = 4, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        ]
        if dropout:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(width, classes))


class CNN(nn.Module):
    """Two convolutions, pooling, one functional and one in-place ReLU."""

    def __init__(self, width: int = 4, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.conv = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(self.features(x)))
        return self.fc(self.dropout(x.mean((2, 3))))


class Block(nn.Module):
    """Residual block whose one in-place ReLU is called twice."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 for 32 x 32 images: width 64 is the usual one."""

    def __init__(self, width: int = 4, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        inside = width
        self.layers = nn.Sequential()
        for stage, stride in enumerate((1, 2, 2, 2)):
            outside = width * 2**stage
            self.layers.extend([Block(inside, outside, stride), Block(outside, outside, 1)])
            inside = outside
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layers(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(self.dropout(x))


class ResNet6(nn.Module):
    """Two residual blocks between an overlapping pool and an adaptive one: layers of the three larger CNNs."""

    def __init__(self, width: int = 4, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class AlexNet(nn.Module):
    """AlexNet's shape for 32 x 32 images: five convolutions, overlapping pools, adaptive average pool,
    dropout.
    """

    def __init__(self, width: int = 4, classes: int = 4, dropout: float = 0.5) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(w, 2 * w, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(2 * w, 3 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(3 * w, 2 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * w, 2 * w, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(8 * w, 4 * w),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4 * w, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class VGG19BN(nn.Module):
    """VGG-19 with batch normalisation: sixteen convolutions in five stages."""

    def __init__(self, width: int = 2, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for factor, repeats in ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4)):
            for _ in range(repeats):
                outside = width * factor
                layers += [
                    nn.Conv2d(inside, outside, 3, padding=1),
                    nn.BatchNorm2d(outside),
                    nn.ReLU(inplace=True),
                ]
                inside = outside
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(inside, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Attention(nn.Module):
    """Pre-norm block around `nn.MultiheadAttention`, which works on (token, example, channel)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Vision transformer with class token and positions that belong to the root module."""

    def __init__(self, width: int = 8, classes: int = 4, dropout: float = 0.0, size: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.positions = nn.Parameter(torch.randn((size // 4) ** 2 + 1, 1, width) * 0.1)
        self.blocks = nn.ModuleList([Attention(width, 2, dropout)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.token.expand(-1, x.shape[1], -1), x]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[0])


class LSTM(nn.Module):
    """Sequence classifier on token ids."""

    def __init__(self, width: int = 8, classes: int = 4, dropout: float = 0.0, words: int = 11) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=dropout, bidirectional=True)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(self.words(x))[0][:, -1])


class CausalAttention(nn.Module):
    """Attention by `scaled_dot_product_attention`, heads split by views."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dropout(self.out(y.transpose(1, 2).reshape(n, length, width)))


class GPT(nn.Module):
    """Language model whose output layer is tied to its embedding; outputs (example, token, word)."""

    def __init__(self, width: int = 8, words: int = 11, dropout: float = 0.0, length: int = 6) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = nn.Embedding(length, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = CausalAttention(width, 2, dropout)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        h = h + self.attention(self.norms[0](h))
        h = h + self.mlp(self.norms[1](h))
        return self.head(h)


class Smooth(nn.Module):
    """One layer of each of the usual nonlinearities that are not ReLU."""

    def __init__(self, size: int = 12, width: int = 8, classes: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        kinds = [
            nn.GELU(),
            nn.SiLU(),
            nn.Tanh(),
            nn.LeakyReLU(0.2),
            nn.ReLU6(),
            nn.ELU(),
            nn.Sigmoid(),
            nn.PReLU(width),
        ]
        self.inputs = nn.Linear(size, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in kinds])
        self.kinds = nn.ModuleList(kinds)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x.flatten(1))
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            x = kind(layer(x))
        return self.fc(self.dropout(x))


MODELS: dict[str, type[nn.Module]] = {
    model.__name__: model for model in (MLP, CNN, ResNet6, ResNet18, AlexNet, VGG19BN, ViT, LSTM, GPT, Smooth)
}
DEEP = (
    "ResNet18",
    "AlexNet",
    "VGG19BN",
)  # more of the same: each kind of layer they have is in ResNet6 and CNN
WORDS = 3  # of a sentence: an LSTM has a row in its table for every one
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in MODELS]


def build(name: str, n: int = 5, seed: int = 0, **options: float) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with non-trivial running statistics, n inputs for it and n targets."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[name](**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    if name in ("LSTM", "GPT"):
        x = torch.randint(0, 11, (n, WORDS), generator=generator)
    else:
        side = {"MLP": 2, "Smooth": 2, "CNN": 8, "ViT": 8, "ResNet6": 24}.get(name, 32)
        x = torch.randn(n, 3, side, side, generator=generator)
    classes, shape = (11, (n, WORDS)) if name == "GPT" else (4, (n,))
    return model, x, torch.randint(0, classes, shape, generator=generator)


def loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy for class scores and for word scores at every token."""
    return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction=reduction)


@functools.cache
def traced(name: str) -> Network:
    """The table of a model of `build(name)`, made once a process: for reading and running, not for changing.

    It is the same for any number of examples, any seed and any dropout.
    """
    return trace(*build(name), loss)
