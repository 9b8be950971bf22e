"""An ordinary training loop for MNIST, wrapped: record 784-256-256-10, then compute every metric offline.

    python examples/mnist_mlp.py --data mnist.npz

The file holds x_train (n, 28, 28) uint8, y_train, x_test and y_test. Leaves mnist_mlp.zarr, and results with
a report in mnist_mlp.analysis.
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


def load(path: Path, limit: int | None) -> list[torch.Tensor]:
    """Images as rows of pixels in [0, 1], and labels: train, then test."""
    with np.load(path) as file:
        arrays = [file[name][:limit] for name in ("x_train", "y_train", "x_test", "y_test")]
    x_train, y_train, x_test, y_test = map(torch.from_numpy, arrays)
    return [x_train.flatten(1) / 255, y_train.long(), x_test.flatten(1) / 255, y_test.long()]


def train(out: Path, data: list[torch.Tensor], epochs: int) -> None:
    x_train, y_train, x_test, y_test = data
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)

    with tracer.record(
        out,
        model,
        optimizer,
        loss=F.cross_entropy,
        probes={"train": (x_train[:2000], y_train[:2000]), "test": (x_test, y_test)},
        snapshots=tracer.epochs() | tracer.log_spaced(),
    ) as run:
        for epoch in range(epochs):
            for x, y in run.batches(loader):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss)
            with torch.no_grad():
                accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
            run.log(test_accuracy=accuracy)
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}, test accuracy {accuracy:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record an MLP on MNIST and analyze it.")
    parser.add_argument("--data", type=Path, required=True, help="mnist.npz")
    parser.add_argument("--out", type=Path, default=Path("mnist_mlp.zarr"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--quick", action="store_true", help="512 images, two epochs and few metrics: does it run?"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    data = load(options.data, limit=512 if options.quick else None)
    train(options.out, data, epochs=2 if options.quick else options.epochs)
    results = analyze.run(options.out, metrics=FEW if options.quick else None)
    results.save(options.out.with_suffix(".analysis"))
    print(f"report: {options.out.with_suffix('.analysis') / 'report.html'}")


if __name__ == "__main__":
    main()
