"""The demo's training: a small ReLU network on scikit-learn's handwritten digits, recorded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tracer

N_TEST = 500
EPOCHS = 40
Progress = Callable[[int, float], None]


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training inputs and labels, then test ones: 1,797 images of 8 x 8 pixels in [0, 1], shuffled."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    inputs = torch.tensor(data.images[order] / 16, dtype=torch.float32).flatten(1)
    labels = torch.tensor(data.target[order])
    return inputs[N_TEST:], labels[N_TEST:], inputs[:N_TEST], labels[:N_TEST]


def network() -> nn.Module:
    """Four linear layers with ReLUs between them: 33,738 parameters."""
    widths = (64, 128, 128, 64, 10)
    linears = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)]
    return nn.Sequential(*(layer for linear in linears for layer in (linear, nn.ReLU())))[:-1]


def train(
    path: str | Path,
    *,
    epochs: int = EPOCHS,
    shuffle_labels: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Train on the digits and record to `path`; calls `progress(epoch, loss)` at the end of each epoch.

    With `shuffle_labels` the training labels are permuted: the network can then only learn them by heart. The
    caller's random state is left as it was. ArchiveError where `path` exists already.
    """
    x_train, true_labels, x_test, y_test = digits()
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        y_train = true_labels[torch.randperm(len(true_labels))] if shuffle_labels else true_labels
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)
        probes = {
            "train": tracer.Probe(x_train, y_train, true_targets=true_labels, capture={"masks": 256}),
            "test": tracer.Probe(x_test, y_test, capture={"masks": 256}),
        }
        with tracer.record(
            path,
            model,
            optimizer,
            loss=F.cross_entropy,
            probes=probes,
            snapshots=tracer.epochs(every=4) | tracer.log_spaced(),
        ) as run:
            for epoch in range(epochs):
                losses = []
                for x, y in run.batches(loader):
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    run.log(loss=loss)
                    losses.append(loss.item())
                if progress is not None:
                    progress(epoch + 1, sum(losses) / len(losses))
    return Path(path)


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small take longer on many threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
