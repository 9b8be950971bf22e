import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from tracer.errors import RecordError
from tracer.recorder.batches import Batches

N = 23


def numbered(start=0, n=N):
    return TensorDataset(torch.arange(start, start + n))


class Log:
    def __init__(self):
        self.ids, self.ends = [], 0
        self.batches = Batches(self.ids.append, self.end)

    def end(self):
        self.ends += 1

    def epoch(self, loader, **options):
        """One epoch; returns (values seen, ids noted) joined over batches."""
        self.ids.clear()
        seen = [batch[0] for batch in self.batches.iterate(loader, **options)]
        return torch.cat(seen).numpy(), np.concatenate(self.ids)


LOADERS = {
    "plain": lambda: DataLoader(numbered(), batch_size=4),
    "shuffled": lambda: DataLoader(numbered(), batch_size=4, shuffle=True),
    "drop_last": lambda: DataLoader(numbered(), batch_size=4, shuffle=True, drop_last=True),
    "workers": lambda: DataLoader(numbered(), batch_size=4, shuffle=True, num_workers=2),
    "persistent": lambda: DataLoader(
        numbered(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "weighted": lambda: DataLoader(
        numbered(), batch_size=4, sampler=WeightedRandomSampler(torch.rand(N).tolist(), 40)
    ),
    "batch_sampler": lambda: DataLoader(
        numbered(), batch_sampler=BatchSampler(RandomSampler(numbered()), 5, drop_last=False)
    ),
    "generator": lambda: DataLoader(
        numbered(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_noted_ids_are_the_examples_delivered(kind):
    loader, log = LOADERS[kind](), Log()
    for epoch in range(2):
        values, ids = log.epoch(loader)
        np.testing.assert_array_equal(values, ids)
        assert log.ends == epoch + 1


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_and_random_streams_are_those_of_the_bare_loader(kind):
    outcomes = []
    for record in (False, True):
        torch.manual_seed(5)
        loader, log = LOADERS[kind](), Log()
        seen = [
            batch[0].tolist()
            for _ in range(2)
            for batch in (log.batches.iterate(loader) if record else loader)
        ]
        outcomes.append((seen, torch.get_rng_state().numpy().tobytes()))
    assert outcomes[0] == outcomes[1]


def test_subset_resolves_to_its_base_dataset_and_concat_counts_globally():
    base = numbered()
    nested = Subset(Subset(base, [20, 3, 9, 4]), [3, 1])
    values, ids = Log().epoch(DataLoader(nested, batch_size=2))
    np.testing.assert_array_equal(values, ids)
    joined = ConcatDataset([numbered(0, 5), numbered(5, 4)])
    values, ids = Log().epoch(DataLoader(joined, batch_size=2, shuffle=True))
    np.testing.assert_array_equal(values, ids)


def test_nested_epochs_of_one_loader_keep_their_ids_apart():
    loader = DataLoader(numbered(), batch_size=4, shuffle=True)
    outer, inner = Log(), Log()
    for batch in outer.batches.iterate(loader):
        np.testing.assert_array_equal(batch[0].numpy(), outer.ids[-1])
        for other in inner.batches.iterate(loader):
            np.testing.assert_array_equal(other[0].numpy(), inner.ids[-1])


def test_an_early_break_ends_no_epoch_and_the_next_epoch_is_right():
    loader, log = LOADERS["shuffled"](), Log()
    for _ in log.batches.iterate(loader):
        break
    assert log.ends == 0
    values, ids = log.epoch(loader)
    np.testing.assert_array_equal(values, ids)


def test_workers_started_before_recording_go_on():
    loader = LOADERS["persistent"]()
    list(loader)
    values, ids = Log().epoch(loader)
    np.testing.assert_array_equal(values, ids)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(6).split(1))


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        (DataLoader(Stream(), batch_size=2), "never guesses"),
        ([(torch.zeros(2),)], "got a list"),
        (DataLoader(numbered(), batch_size=None), "batch_size=None"),
        (DataLoader(numbered(), batch_size=2, in_order=False, num_workers=1), "in_order=False"),
    ],
)
def test_ids_are_given_or_refused_never_guessed(loader, sentence):
    with pytest.raises(RecordError, match=sentence):
        list(Log().batches.iterate(loader))


def test_given_ids_are_noted_and_checked():
    loader = [(torch.tensor([4, 2]),), (torch.tensor([7]),)]
    values, ids = Log().epoch(loader, ids=lambda batch: batch[0])
    np.testing.assert_array_equal(values, ids)
    with pytest.raises(RecordError, match="one whole number per example"):
        list(Log().batches.iterate(loader, ids=lambda batch: batch[0] * 0.5))
