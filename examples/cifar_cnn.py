"""An ordinary training loop for a small CIFAR-10 network with BatchNorm, wrapped.

    python examples/cifar_cnn.py --data cifar10.npz

The file holds x_train (n, 32, 32, 3) uint8, y_train, x_test and y_test. Training images are normalised and
mirrored at random; probes are normalised only, and keep their raw pixels for the measures of complexity.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import analyze
import tracer

FEW = ("generalization", "stiffness", "path_self_similarity", "cna")  # with --quick
MEAN = torch.tensor([0.491, 0.482, 0.447])[:, None, None]
STD = torch.tensor([0.247, 0.243, 0.262])[:, None, None]


def load(path: Path, limit: int | None) -> list[torch.Tensor]:
    """Images as (example, channel, row, column) in [0, 1], and labels: train, then test."""
    with np.load(path) as file:
        arrays = [torch.from_numpy(file[name][:limit]) for name in ("x_train", "y_train", "x_test", "y_test")]
    return [a.permute(0, 3, 1, 2) / 255 if a.ndim == 4 else a.long() for a in arrays]


def network() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*block(3, 16), *block(16, 32), *block(32, 64), *head)


def probe(images: torch.Tensor, labels: torch.Tensor, n: int) -> tracer.Probe:
    return tracer.Probe((images[:n] - MEAN) / STD, labels[:n], raw=images[:n])


def train(out: Path, data: list[torch.Tensor], epochs: int) -> None:
    x_train, y_train, x_test, y_test = data
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, 3 * epochs // 4])
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=128, shuffle=True)
    probes = {"train": probe(x_train, y_train, 512), "test": probe(x_test, y_test, 512)}

    # Metrics that run the network again (sharpness, Hessian, ...) take long: they get fewer snapshots.
    snapshots = {"default": tracer.epochs() | tracer.log_spaced(), "weights": tracer.epochs(every=5)}

    with tracer.record(
        out, model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=snapshots
    ) as run:
        for epoch in range(epochs):
            model.train()
            for x, y in run.batches(loader):
                mirrored = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
                loss = F.cross_entropy(model((mirrored - MEAN) / STD), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss)
            schedule.step()
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record a small CNN on CIFAR-10 and analyze it.")
    parser.add_argument("--data", type=Path, required=True, help="cifar10.npz")
    parser.add_argument("--out", type=Path, default=Path("cifar_cnn.zarr"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--quick", action="store_true", help="256 images, two epochs and few metrics: does it run?"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    data = load(options.data, limit=256 if options.quick else None)
    train(options.out, data, epochs=2 if options.quick else options.epochs)
    results = analyze.run(options.out, metrics=FEW if options.quick else None)
    results.save(options.out.with_suffix(".analysis"))
    print(f"report: {options.out.with_suffix('.analysis') / 'report.html'}")


if __name__ == "__main__":
    main()
