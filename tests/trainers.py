"""One toy training for every trainer: model, data in a fixed order, plain loop, and how archives are compared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

import tracer
from tests.loops import blobs
from tracer.verify import verify

N, BATCH, EPOCHS = 22, 4, 2  # the last batch of an epoch is smaller


def skip_if_torchvision_is_broken() -> None:
    """Lightning and Transformers import torchvision wherever it is, and its wheels fail beside a CPU build of torch."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        pass
    except RuntimeError as error:
        pytest.skip(f"torchvision does not load here, uninstall it: {error}", allow_module_level=True)


class Net(nn.Module):
    """Scores, or with labels the loss and the scores, as models for Trainers return them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        scores = self.net(x)
        return scores if labels is None else {"loss": F.cross_entropy(scores, labels), "logits": scores}


class Pairs(Dataset[Any]):
    """Examples as (input, target), or as dictionaries."""

    def __init__(self, named: bool = False) -> None:
        self.x, self.y = blobs(N)
        self.named = named

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        pair = self.x[index], self.y[index]
        return dict(zip(("x", "labels"), pair, strict=True)) if self.named else pair


class Order(Sampler[int]):
    """Another order each epoch, by a generator of its own."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(N, generator=self.generator).tolist())


def loader(named: bool = False, **options: Any) -> DataLoader[Any]:
    data = Pairs(named)
    return DataLoader(data, **{"batch_size": BATCH, "sampler": Order(data), **options})


def reordered(items: list[Any]) -> Any:
    """A batch with its examples sorted by their first feature."""
    return default_collate(
        sorted(items, key=lambda item: float((item["x"] if isinstance(item, dict) else item[0])[0]))
    )


def dropped(items: list[Any]) -> Any:
    """A batch without the least of its examples."""
    key = "x" if isinstance(items[0], dict) else 0
    return default_collate(sorted(items, key=lambda item: float(item[key][0]))[1:])


def check_ids_of_collated(path: Path, seen: list[int], collate: Any) -> None:
    """Ids of a training with one of these two: right, or none and a note."""
    with tracer.open(path) as archive:
        assert archive._source.read("steps/ids").tolist() == ([] if collate is dropped else seen)
        said = [note for note in archive.attributes["notes"] if "collate_fn" in note]
        assert len(said) == (collate is dropped)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def options(**changes: Any) -> dict[str, Any]:
    x, y = blobs(N)
    chosen = {
        "loss": F.cross_entropy,
        "probes": {"train": (x[:7], y[:7]), "test": blobs(5, seed=7)},
        "snapshots": tracer.every(4) | tracer.epochs(),
        "gradients": "exact",
        "minibatch": ["correct", "sums", "masks"],
    }
    return {**chosen, **changes}


def watched(model: nn.Module) -> list[int]:
    """Example ids in the order in which the model is trained on them, by what it is given."""
    seen: list[int] = []
    known = {tuple(row): i for i, row in enumerate(blobs(N)[0].tolist())}

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        if module.training:
            inputs = args[0] if args else kwargs["x"]
            seen.extend(known[tuple(row)] for row in inputs.detach().tolist())

    model.register_forward_pre_hook(look, with_kwargs=True)
    return seen


def notes_of(archive: tracer.archive.Archive) -> list[str]:
    """The notes of a run but for the one on the hook of `watched`."""
    notes = archive.attributes["notes"]
    assert notes[0].startswith("Forward hooks of your own")
    return notes[1:]


def plain(path: Path, accumulation: int = 1) -> Net:
    """The training as a loop of plain PyTorch; the last update of an epoch may be of fewer batches."""
    model, batches = Net().train(), loader()
    optimizer = sgd(model)
    torch.manual_seed(1)
    with tracer.record(path, model, optimizer, **options()) as run:
        for _ in range(EPOCHS):
            losses = []
            for i, (x, y) in enumerate(run.batches(batches), start=1):
                loss = F.cross_entropy(model(x), y) / accumulation
                loss.backward()
                losses.append(loss.detach())
                if i % accumulation == 0 or i == len(batches):
                    optimizer.step()
                    optimizer.zero_grad()
                    run.log(loss=sum(losses))
                    losses.clear()
    return model


def assert_same_weights(model: nn.Module, other: nn.Module) -> None:
    for (name, value), (_, wanted) in zip(
        model.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert torch.equal(value, wanted), name


def assert_same(path: Path, other: Path, state: str = "complete") -> None:
    """Every array of both archives is equal bit for bit, but for times; and the tables that name what is in them."""
    with tracer.open(path) as one, tracer.open(other) as two:
        assert one.state == two.state == state
        for table in ("tensors", "sites", "calls", "layers"):
            assert one.attributes[table] == two.attributes[table], table
        assert one.rows.keys() == two.rows.keys()
        for name in two.rows.keys() - {"time"}:
            np.testing.assert_array_equal(one.rows[name], two.rows[name], err_msg=name)
        groups = {"steps", "minibatch", *two._source.streams()}
        assert set(one._source.streams()) == set(two._source.streams())
        arrays = {f"{group}/{name}" for group in groups for name in two._source.children(group)} - groups
        assert len(arrays) > 20
        for array in arrays:
            if array != "steps/time":
                np.testing.assert_array_equal(one._source.read(array), two._source.read(array), err_msg=array)
    assert verify(path, full=True, replay=True).ok
