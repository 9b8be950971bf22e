"""Training loops that tests record: small, seeded, and written as users write them."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracer


def blobs(n=24, shape=(6,), classes=3, seed=0):
    """Inputs in [0, 1] and labels that a small network can learn."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.rand(classes, *shape, generator=generator)
    noise = torch.rand(n, *shape, generator=generator)
    return (0.7 * centres[y] + 0.3 * noise), y


def mlp(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


def run_loop(
    path, model=None, optimizer=None, *, epochs=2, data=None, batch_size=8, record=tracer.record, **options
):
    """Train with recording; returns what a bare loop would know: model, ids and losses of each update."""
    model = mlp() if model is None else model
    x, y = data or blobs()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    numbered = TensorDataset(x, y, torch.arange(len(x)))
    loader = DataLoader(
        numbered, batch_size=batch_size, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    options = {
        "loss": F.cross_entropy,
        "probes": {"train": (x[:12], y[:12]), "test": blobs(9, tuple(x.shape[1:]), seed=7)},
        "snapshots": tracer.every(4) | tracer.epochs(),
        **options,
    }
    ids, losses = [], []
    with record(path, model, optimizer, **options) as run:
        for _ in range(epochs):
            for inputs, targets, numbers in run.batches(loader):
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss)
                ids.append(numbers.tolist())
                losses.append(loss.item())
    return model, ids, losses


def record_everything(path):
    """A tiny run with every stream on and two learning rates: there is no metric it cannot feed."""
    torch.manual_seed(0)
    model, (x, y) = mlp(), blobs(30)
    dataset = TensorDataset(x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2], gamma=0.1)
    all_streams = {"activations": None, "gradients": 9}
    with tracer.record(
        path,
        model,
        optimizer,
        loss=F.cross_entropy,
        probes={
            "train": tracer.Probe(x[:16], y[:16], capture=all_streams),
            "test": tracer.Probe(*blobs(13, seed=7), capture=all_streams),
        },
        snapshots=tracer.epochs() | tracer.at([1, 2]),
        gradients="exact",
        minibatch=True,
        data=dataset,
        data_inputs=True,
    ) as run:
        for _ in range(4):
            for inputs, targets in run.batches(DataLoader(dataset, batch_size=10)):
                loss = F.cross_entropy(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
            decay.step()


def record_text(path, capture=None):
    """A tiny run of a model that answers at every token, which `record_everything` does not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    tokens = torch.randint(0, 5, (9, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    parts = {"train": tokens[:6], "test": tokens[6:]}
    probes = {
        name: tracer.Probe(part[:, :-1], part[:, 1:], capture=capture or {}) for name, part in parts.items()
    }

    def loss(outputs, targets):
        return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)

    with tracer.record(path, model, optimizer, loss=loss, probes=probes, snapshots=tracer.every(1)):
        for _ in range(3):
            loss(model(tokens[:6, :-1]), tokens[:6, 1:]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
