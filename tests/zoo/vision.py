"""Image networks: those of Transformers from a small configuration, and small ones of our own."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.case import Batch, Case, N


def images(side: int = 16) -> Callable[[], Batch]:
    return lambda: (torch.randn(N, 3, side, side), torch.arange(N) % 3)


def hub(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A model with random weights, for image classification, of the given configuration."""

    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            import transformers
        config = getattr(transformers, f"{name}Config")(num_labels=3, **options)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        return settled(model)

    return build


def settled(model: nn.Module) -> nn.Module:
    """With running statistics that training might have left."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model


def logits(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    scores = model(inputs).logits
    losses = F.cross_entropy(scores, targets, reduction="none")
    return {"outputs": scores, "losses": losses, "targets": targets}


class Dense(nn.Module):
    """Each layer sees all before it, as in DenseNet."""

    def __init__(self, width: int = 4, growth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.layers = nn.ModuleList()
        for k in range(3):
            inside = width + k * growth
            norm, conv = nn.BatchNorm2d(inside), nn.Conv2d(inside, growth, 3, padding=1, bias=False)
            self.layers.append(nn.Sequential(norm, nn.ReLU(inplace=True), conv))
        inside = width + 3 * growth
        self.transition = nn.Sequential(
            nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, 6, 1), nn.AvgPool2d(2)
        )
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        x = self.norm(self.transition(torch.cat(features, 1)))
        return self.head(F.relu(x, inplace=True).mean((2, 3)))


class Grouped(nn.Module):
    """A bottleneck of grouped convolutions, as in ResNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Sequential(
            nn.Conv2d(8, 12, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 12, 3, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.adaptive_avg_pool2d(F.relu(x + self.body(x)), 1).flatten(1))


class Inverted(nn.Module):
    """Inverted bottleneck with squeeze and excitation and hard swish, as in MobileNetV3 and EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.SiLU()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = self.depthwise(self.expand(x))
        x = x + self.project(h * self.squeeze(h))
        return self.head(F.adaptive_avg_pool2d(x, 1))


class Windows(nn.Module):
    """Attention in shifted windows with relative positions, as in Swin."""

    def __init__(self, width: int = 8, side: int = 2) -> None:
        super().__init__()
        self.side = side
        self.patches, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * side - 1) ** 2, 2) * 0.1)
        at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None]) + side - 1
        self.register_buffer("index", (apart[0] * (2 * side - 1) + apart[1]).flatten())
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        n, height, _, width = x.shape
        w = self.side
        h = torch.roll(self.norm(x), (-1, -1), (1, 2))
        h = (
            h.view(n, height // w, w, height // w, w, width)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, w * w, width)
        )
        q, k, v = self.qkv(h).reshape(-1, w * w, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].view(w * w, w * w, 2).permute(2, 0, 1)
        h = ((q @ k.transpose(2, 3)) / (width // 2) ** 0.5 + bias).softmax(3) @ v
        h = self.out(h.transpose(1, 2).reshape(-1, w * w, width))
        h = (
            h.view(n, height // w, height // w, w, w, width)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(n, height, height, width)
        )
        x = x + torch.roll(h, (1, 1), (1, 2))
        return self.head((x + self.mlp(x)).mean((1, 2)))


class ScaledBlock(nn.Module):
    """Depthwise convolution, norm of channels last, layer scale, as in ConvNeXt."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.depthwise = (
            nn.Conv2d(3, width, 4, 4),
            nn.Conv2d(width, width, 7, padding=3, groups=width),
        )
        self.norm, self.wide, self.back = nn.LayerNorm(width), nn.Linear(width, 12), nn.Linear(12, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        h = self.scale * self.back(F.gelu(self.wide(h)))
        return self.head((x + h.permute(0, 3, 1, 2)).mean((2, 3)))


V = "vision"
CE = nn.CrossEntropyLoss()
SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
CASES = [
    *(
        Case(name, V, lambda kind=kind: settled(kind()), images(), CE)
        for name, kind in {
            "DenseNet block": Dense,
            "ResNeXt block": Grouped,
            "MobileNetV3 block": Inverted,
            "Swin block": Windows,
            "ConvNeXt block": ScaledBlock,
        }.items()
    ),
    Case("ViT", V, hub("ViT", image_size=16, patch_size=8, **SMALL), images(), objective=logits),
    Case(
        "ResNet",
        V,
        hub("ResNet", embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"),
        images(),
        objective=logits,
    ),
    Case(
        "RegNet (grouped, as ResNeXt)",
        V,
        hub("RegNet", embedding_size=4, hidden_sizes=[8, 12], depths=[1, 1], groups_width=4),
        images(),
        objective=logits,
    ),
    Case(
        "ConvNeXt",
        V,
        hub("ConvNext", hidden_sizes=[4, 8], depths=[1, 1], num_stages=2),
        images(32),
        objective=logits,
    ),
    Case(
        "MobileNetV2",
        V,
        hub("MobileNetV2", depth_multiplier=0.1, min_depth=4, depth_divisible_by=2),
        images(32),
        objective=logits,
    ),
    Case(
        "EfficientNet",
        V,
        hub("EfficientNet", width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128, depth_divisor=2),
        images(32),
        objective=logits,
    ),
    Case(
        "Swin",
        V,
        hub("Swin", image_size=16, patch_size=2, embed_dim=4, depths=[2, 1], num_heads=[1, 2], window_size=2),
        images(),
        objective=logits,
    ),
]
