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
        self.ids, self.notes, self.ends = [], [], 0
        self.batches = Batches(self.ids.append, self.end, self.notes.append)

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


# Workers that last are workers too: each kind in one of the two tests by default.
BARE = [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "persistent")) for kind in LOADERS]
NOTED = [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "workers")) for kind in LOADERS]


@pytest.mark.parametrize("kind", NOTED)
def test_noted_ids_are_the_examples_delivered(kind):
    loader, log = LOADERS[kind](), Log()
    for epoch in range(2):
        values, ids = log.epoch(loader)
        np.testing.assert_array_equal(values, ids)
        assert log.ends == epoch + 1


@pytest.mark.parametrize("kind", BARE)
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


class Drawn:
    """Batches that are drawn when they are asked for the first, not when the first is."""

    def __iter__(self):
        return iter(torch.randperm(4).split(2))


@pytest.mark.parametrize("batches", [Drawn, lambda: BatchSampler(RandomSampler(range(4)), 2, False)])
def test_random_numbers_are_drawn_when_the_loader_is_begun(batches):
    outcomes = []
    for record in (False, True):
        torch.manual_seed(5)
        loader, log = DataLoader(numbered(n=4), batch_sampler=batches()), Log()
        begun = iter(log.batches.iterate(loader) if record else loader)
        noise = torch.rand(3).tolist()
        outcomes.append((noise, [batch[0].tolist() for batch in begun]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", [iter, lambda batch: map(int, batch), lambda batch: (i for i in batch)])
def test_batches_of_indices_that_can_be_read_only_once_are_read_once(kind):
    class Once:
        def __iter__(self):
            return map(kind, ([3, 1], [2]))

    values, ids = Log().epoch(DataLoader(numbered(), batch_sampler=Once()))
    assert values.tolist() == ids.tolist() == [3, 1, 2]


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


class Sized(TensorDataset):
    """Takes (index, size), as for training at several scales."""

    def __getitem__(self, key):
        index, _ = key
        return torch.full((2,), float(index))


class Rows(TensorDataset):
    def __getitems__(self, indices):
        return [self[i] for i in indices if i != 2]


@pytest.mark.parametrize(
    ("dataset", "batches"),
    [
        (Sized(torch.zeros(4)), [[(0, 64), (1, 64)], [(2, 32)]]),
        ({"a": 1, "b": 2}, [["a", "b"]]),
        ({"1": 1, "2": 2}, [["1", "2"]]),
        ({0.5: 1}, [[0.5]]),
    ],
)
def test_keys_that_are_no_whole_numbers_are_never_taken_for_ids(dataset, batches):
    log = Log()
    with pytest.raises(RecordError, match=r"sampler yields .*ids=function_of_a_batch"):
        log.epoch(DataLoader(dataset, batch_sampler=batches))
    assert not log.ids


def test_indices_of_any_kind_of_whole_number_are_ids():
    batches = [np.array([3, 1]), torch.tensor([0, -1]), (2,)]
    log = Log()
    log.epoch(DataLoader(numbered(), batch_sampler=batches))
    assert [ids.tolist() for ids in log.ids] == [[3, 1], [0, N - 1], [2]]


def without_odd(items):
    return torch.stack([item[0] for item in items if item[0] % 2 == 0])


def doubled(items):
    return {"views": torch.cat([torch.stack([item[0] for item in items])] * 2)}


def listed(items):
    return [item[0] for item in items]


class Graphs:
    def __init__(self, items):
        self.x, self.num_graphs = torch.zeros(7 * len(items)), len(items)


class Opaque:
    def __init__(self, items):
        pass


@pytest.mark.parametrize(
    ("collate", "known", "said"),
    [
        (without_odd, False, "A batch of 2 examples came where 4 were drawn"),
        (doubled, False, "A batch of 8 examples came where 4 were drawn"),
        (lambda items: [{"x": item} for item in items], True, None),
        (Graphs, True, None),
        (Opaque, True, "Batches are a Opaque"),
        (lambda items: (listed(items), torch.zeros(len(items))), True, None),
    ],
)
def test_ids_of_batches_that_a_collate_fn_makes_are_right_or_not_recorded(collate, known, said):
    log = Log()
    for _ in log.batches.iterate(DataLoader(numbered(n=8), batch_size=4, collate_fn=collate)):
        pass
    assert [None if ids is None else ids.tolist() for ids in log.ids] == (
        [[0, 1, 2, 3], [4, 5, 6, 7]] if known else [None, None]
    )
    assert all(said is not None and note.startswith(said) for note in log.notes)
    assert bool(log.notes) == (said is not None)


def test_a_dataset_that_gives_fewer_examples_than_were_asked_for_has_no_ids():
    log = Log()
    seen = [len(batch[0]) for batch in log.batches.iterate(DataLoader(Rows(torch.arange(4)), batch_size=2))]
    assert seen == [2, 1] and log.ids[0].tolist() == [0, 1] and log.ids[1] is None


class Kept(DataLoader):
    """Keeps one iterator over all epochs."""

    def __iter__(self):
        if not hasattr(self, "kept"):
            self.__dict__["kept"] = super().__iter__()
        return self.kept


class Beforehand(DataLoader):
    """Draws its indices elsewhere."""

    def _get_iterator(self):
        return iter([torch.zeros(2)])


def test_loaders_that_iterate_in_their_own_way_are_asked_for_ids():
    with pytest.raises(RecordError, match=r"Kept, which iterates in its own way.*ids="):
        Log().epoch(Kept(numbered(), batch_size=4))
    with pytest.raises(RecordError, match=r"without drawing indices.*ids="):
        Log().epoch(Beforehand(numbered(), batch_size=4))


def test_ids_given_by_the_user_are_taken_and_compared_with_their_batch():
    log = Log()
    told = iter([[5, 6], [7], None])
    list(log.batches.iterate([torch.zeros(2), torch.zeros(2), torch.zeros(2)], lambda batch: next(told)))
    assert [None if ids is None else ids.tolist() for ids in log.ids] == [[5, 6], [7], None]
    assert log.notes == ["ids= gave 1 ids for a batch of 2 examples: they are recorded so"]
