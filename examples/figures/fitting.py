"""Training and recording: a plain loop, once for each setting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from cache import SECONDS, Trained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from training_data import Data

import tracer


def fit(
    path: Path,
    model: Callable[[], nn.Module],
    data: Data,
    *,
    epochs: int,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    batch: int = 64,
    seed: int = 0,
    until: float | None = None,
    milestones: Sequence[int] = (),
    describe: bool = False,
    device: str = "cpu",
    **options: Any,
) -> Path:
    """Train and record to `path`; a complete archive of the same settings there is used again.

    `model()` makes the network, after seeding. `optimizer` takes its parameters (default: SGD, rate 0.05,
    momentum 0.9); after each epoch of `milestones` the rate is divided by 10. Training ends early once the
    mean loss of an epoch is at most `until`. `describe` also records label and complexity of every training
    example (`data=` of `tracer.record`). `options` go to `tracer.record`; probes are by default the first
    512 training examples and the first 512 test examples (`Data.probe`).
    """
    began = time.process_time()
    make = optimizer or _sgd
    options = {"probes": data.probes(), "loss": F.cross_entropy, **options}
    dataset = TensorDataset(data.x_train, data.y_train)
    torch.manual_seed(seed)
    network = model().to(device)
    update = make(network.parameters())
    training = {
        "epochs": epochs,
        "batch": batch,
        "seed": seed,
        "until": until,
        "milestones": list(milestones),
        **({"describe": True} if describe else {}),
    }
    settings = _plain({"data": data.key, "model": network, "optimizer": update, **training, **options})
    card = path.with_suffix(".json")
    known = json.loads(card.read_text()) if card.is_file() else {}
    took = known.pop(SECONDS, 0.0)
    if path.exists() and known == settings:
        with tracer.open(path) as archive:
            if archive.state == "complete":
                Trained.note(path, took, new=False)
                return path
        options["exists"] = "overwrite"  # of a script that was stopped: begun anew
    elif path.exists():
        raise click.ClickException(f"{path} is of other settings; remove it or pass --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(json.dumps(settings, indent=1))
    loader = DataLoader(dataset, batch_size=batch, shuffle=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(update, list(milestones))
    with tracer.record(path, network, update, data=dataset if describe else None, **options) as run:
        for _ in range(epochs):
            network.train()
            total = torch.zeros((), device=device)
            for x, y in run.batches(loader):
                loss = F.cross_entropy(network(x.to(device)), y.to(device))
                loss.backward()
                update.step()
                update.zero_grad()
                run.log(loss=loss)
                total += loss.detach() * len(x)
            schedule.step()
            if until is not None and total.item() / len(data.x_train) <= until:
                break
    took = time.process_time() - began
    card.write_text(json.dumps({**settings, SECONDS: took}, indent=1))
    Trained.note(path, took, new=True)
    return path


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def _plain(value: Any) -> Any:
    """A value as JSON has it, equal for equal settings."""
    if isinstance(value, tracer.Probe):
        return [value.digest, value.capture]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.__qualname__ if callable(value) and hasattr(value, "__qualname__") else repr(value)
