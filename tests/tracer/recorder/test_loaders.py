"""Example ids in an archive, for every kind of loader: the examples that the loop was given, or a refusal."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
    get_worker_info,
    random_split,
)

import tracer
from tracer.errors import RecordError

N = 23


def numbered(start=0, n=N):
    return TensorDataset(torch.arange(start, start + n))


class Named(Dataset):
    """Items that are dictionaries, fetched many at a time."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"number": index}

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Stream(IterableDataset):
    """Numbers in two halves where there are two workers."""

    def __iter__(self):
        worker = get_worker_info()
        return iter(torch.arange(N) if worker is None else torch.arange(N)[worker.id :: worker.num_workers])


class Endless:
    """A sampler without an end."""

    def __iter__(self):
        while True:
            yield from torch.randperm(N).tolist()


def split():
    return random_split(numbered(), [0.6, 0.4])[1]


def shuffled_whole():
    sampler = BatchSampler(RandomSampler(numbered()), 5, drop_last=False)
    return DataLoader(numbered(), sampler=sampler, batch_size=None)


KNOWN = {
    "random split": lambda: DataLoader(split(), batch_size=4, shuffle=True),
    "subset of a concatenation": lambda: DataLoader(
        Subset(ConcatDataset([numbered(0, 10), numbered(10, 13)]), [22, 3, 9, 10, 14]), batch_size=2
    ),
    "stacked data sets": lambda: DataLoader(StackDataset(numbered()), batch_size=4, shuffle=True),
    "dictionaries": lambda: DataLoader(Named(), batch_size=4, shuffle=True),
    "some indices": lambda: DataLoader(numbered(), batch_size=3, sampler=SubsetRandomSampler([5, 7, 1, 20])),
    "with replacement": lambda: DataLoader(
        numbered(), batch_size=4, sampler=RandomSampler(numbered(), replacement=True, num_samples=9)
    ),
    "one of two ranks": lambda: DataLoader(
        numbered(), batch_size=4, sampler=DistributedSampler(numbered(), 2, 1, shuffle=True, seed=3)
    ),
    "own collation": lambda: DataLoader(
        numbered(), batch_size=4, collate_fn=lambda items: default_collate(items)
    ),
    "far ahead": lambda: DataLoader(numbered(), batch_size=2, shuffle=True, num_workers=2, prefetch_factor=4),
    "one at a time": lambda: DataLoader(numbered(), shuffle=True),
}
GIVEN = {
    "iterable": lambda: DataLoader(Stream(), batch_size=4),
    "iterable, workers": lambda: DataLoader(Stream(), batch_size=4, num_workers=2),
    "unordered": lambda: DataLoader(numbered(), batch_size=4, shuffle=True, num_workers=2, in_order=False),
    "whole batches": shuffled_whole,
    "a list": lambda: [(torch.tensor([3, 1]),), (torch.tensor([2]),)],
    "a generator": lambda: ((torch.tensor([i, i + 1]),) for i in range(4)),
}


def numbers(batch):
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return batch


def recorded(path, loader, epochs=1, **options):
    """Ids by update, of the archive and of the loop."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with tracer.record(path, model, optimizer, probes={}, snapshots=tracer.epochs()) as run:
        for _ in range(epochs):
            for batch in run.batches(loader, **options):
                seen.append(numbers(batch).tolist())
                optimizer.step()
    archive = tracer.open(path)
    return [archive.ids(step).tolist() for step in archive.rows["step"][1:]], seen, archive


@pytest.mark.parametrize("kind", KNOWN)
def test_ids_are_those_of_the_examples_trained_on(tmp_path, kind):
    torch.manual_seed(0)
    found, seen, archive = recorded(tmp_path / "run.zarr", KNOWN[kind](), epochs=2)
    assert found == seen and len(archive.epoch_ends) == 2


# Other workers tell as little in any order.
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "iterable, workers")) for kind in GIVEN]
)
def test_ids_that_a_loader_cannot_tell_are_refused_or_given(tmp_path, kind):
    torch.manual_seed(0)
    with pytest.raises(RecordError, match=r"ids=function_of_a_batch.*run\.step"):
        recorded(tmp_path / "refused.zarr", GIVEN[kind]())
    found, seen, _ = recorded(tmp_path / "run.zarr", GIVEN[kind](), ids=numbers)
    assert found == seen and seen


def test_ids_given_after_each_update_need_no_loader(tmp_path):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        for batch in DataLoader(Stream(), batch_size=10):
            optimizer.step()
            run.step(ids=batch)
    archive = tracer.open(tmp_path / "run.zarr")
    assert np.concatenate([archive.ids(step) for step in (1, 2, 3)]).tolist() == list(range(N))


def test_an_endless_loader_is_left_by_a_break(tmp_path):
    torch.manual_seed(0)
    loader = DataLoader(numbered(), batch_size=5, sampler=Endless())
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with tracer.record(tmp_path / "run.zarr", model, optimizer, probes={}) as run:
        for batch in run.batches(loader):
            seen.append(numbers(batch).tolist())
            optimizer.step()
            if len(seen) == 12:
                break
    archive = tracer.open(tmp_path / "run.zarr")
    assert [archive.ids(step).tolist() for step in range(1, 13)] == seen
    assert not len(archive.epoch_ends)
