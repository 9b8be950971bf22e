"""Loops over one loader beside each other and one after another: what they are given, and where an epoch ends."""

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tests.tracer.recorder.test_batches import Log, N, numbered
from tracer.errors import RecordError
from tracer.recorder.batches import Delivered, noting_copy


def shuffled(**options):
    return DataLoader(numbered(), batch_size=4, shuffle=True, **options)


def test_a_loader_whose_workers_last_gives_the_same_batches_wherever_it_is_recorded():
    outcomes = []
    for logs in ((None,) * 5, (Log(), None, Log(), Log(), None)):  # None: used without recording
        torch.manual_seed(5)
        loader = shuffled(num_workers=1, persistent_workers=True)
        seen = [
            [batch[0].tolist() for batch in (loader if log is None else log.batches.iterate(loader))]
            for log in logs
        ]
        outcomes.append((seen, torch.get_rng_state().tolist()))
        for log, round_ in zip(logs, seen, strict=True):
            assert log is None or [ids.tolist() for ids in log.ids] == round_
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_loop_whose_workers_are_begun_again_tells_no_ids_from_there_on(recorded):
    loader = shuffled(num_workers=1, persistent_workers=True)
    log, other = Log(), Log()
    for number, batch in enumerate(log.batches.iterate(loader)):
        if number == 1:
            next(iter(other.batches.iterate(loader) if recorded else loader))
        if number < 2:
            np.testing.assert_array_equal(batch[0].numpy(), log.ids[-1])
    assert log.ids[2:] == [None] * len(log.ids[2:]) and len(log.ids) > 2
    assert "was begun again while a loop over it went on" in log.notes[0]


def taking(log, loader, count):
    batches = iter(log.batches.iterate(loader))
    return [next(batches) for _ in range(count)]


def test_an_epoch_of_which_all_batches_were_taken_ends_when_the_loader_is_begun_again():
    log, loader = Log(), shuffled()
    taking(log, loader, len(loader))
    assert log.ends == 0
    log.batches.iterate(DataLoader(numbered(), batch_size=4))
    assert log.ends == 0  # another one says nothing of it
    taking(log, loader, len(loader))
    assert log.ends == 1
    log.batches.finish()
    log.batches.finish()
    assert log.ends == 2
    taking(log, loader, len(loader) - 1)
    log.epoch(loader)
    log.batches.finish()
    assert log.ends == 3  # of the loop that went to its end alone


class Counted(BatchSampler):
    """Its length is found by drawing."""

    def __len__(self):
        return len(list(iter(self)))


def test_to_ask_a_loader_for_its_length_draws_no_random_numbers():
    streams = []
    for record in (False, True):
        torch.manual_seed(5)
        sampler = Counted(RandomSampler(range(N), generator=torch.Generator().manual_seed(2)), 4, False)
        loader, log = DataLoader(numbered(), batch_sampler=sampler), Log()
        seen = []
        for _ in range(2):
            for batch in log.batches.iterate(loader) if record else loader:
                seen.append(batch[0].tolist())
                if len(seen) % 2 == 0:
                    break
        streams.append((seen, torch.rand(1)))
    assert streams[0] == streams[1]


def delivered(log, loader, ids=None):
    return Delivered(loader, lambda: log.batches.iterate(loader, ids), log.batches, ids)


def test_batches_that_are_delivered_already_are_delivered_once():
    log, loader = Log(), shuffled()
    for epoch in range(3):
        loader = delivered(log, loader)
        values, ids = log.epoch(loader)
        np.testing.assert_array_equal(values, ids)
        assert log.ends == epoch + 1
    told = delivered(log, delivered(log, [torch.zeros(2)], lambda batch: [7, 8]))
    log.ids.clear()
    assert len(list(told)) == 1 and [ids.tolist() for ids in log.ids] == [[7, 8]]


def test_two_recorders_note_the_batches_of_one_loader():
    outer, inner = Log(), Log()
    loader = shuffled()
    both = delivered(outer, delivered(inner, loader))
    seen = [batch[0].tolist() for batch in both]
    assert [ids.tolist() for ids in outer.ids] == [ids.tolist() for ids in inner.ids] == seen
    assert outer.ends == inner.ends == 1
    with pytest.raises(RecordError, match=r"note already: give each recorder's run\.batches the loader once"):
        iter(delivered(inner, both))


def test_a_copy_for_a_trainer_has_the_workers_of_its_loader():
    outcomes = []
    for record in (False, True):
        torch.manual_seed(5)
        loader = shuffled(num_workers=1, persistent_workers=True)
        trained = noting_copy(loader, lambda sentence: None) if record else loader
        seen = [batch[0].tolist() for each in (trained, loader, trained, loader) for batch in each]
        outcomes.append((seen, torch.get_rng_state().tolist()))
        trained._iterator = None  # as a trainer does that shuts them down
        assert loader._iterator is None
    assert outcomes[0] == outcomes[1]
