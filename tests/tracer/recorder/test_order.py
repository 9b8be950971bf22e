"""A collate_fn that moves the examples of a batch: ids go with them, or are not recorded."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.tracer.recorder.test_batches import Log
from tracer.recorder.order import order_of


class Sentences(Dataset):
    """Of lengths 3, 1, 4, 2, ..., each of its own number; labels repeat."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.full(((3, 1, 4, 2)[i % 4],), i + 1.0), i % 2


def by_length(items):
    items.sort(key=lambda item: -len(item[0]))
    inputs, targets = zip(*items, strict=True)
    return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), torch.tensor(targets)


def by_length_left(items):
    inputs, targets = by_length(items)
    return inputs.flip(1), targets


def mapped(items):
    inputs, targets = by_length(items)
    return {"lengths": (inputs > 0).sum(1), "input_ids": inputs.long().tolist(), "labels": targets}


@pytest.mark.parametrize(
    ("collate", "workers"), [(by_length, 0), (by_length, 1), (by_length_left, 0), (mapped, 0)]
)
def test_ids_go_with_the_examples_that_a_collate_fn_moves(collate, workers):
    log = Log()
    loader = DataLoader(Sentences(), batch_size=4, collate_fn=collate, num_workers=workers)
    seen = list(log.batches.iterate(loader))
    assert [ids.tolist() for ids in log.ids] == [[2, 0, 3, 1], [6, 4, 7, 5]] and not log.notes
    for batch, plain in zip(seen, loader, strict=True):
        assert type(batch) is type(plain)
    assert loader.collate_fn is collate


def test_where_equal_examples_leave_it_open_no_ids_are_recorded():
    log = Log()
    items = [(torch.tensor([1.0 * (i % 2)]),) for i in range(4)]
    loader = DataLoader(
        items, batch_size=4, collate_fn=lambda items: torch.stack([x for (x,) in items]).sort(0)[0]
    )
    list(log.batches.iterate(loader))
    assert log.ids == [None] and "in an order that its parts do not tell" in log.notes[0]


@pytest.mark.parametrize(
    ("examples", "batch", "order"),
    [
        (
            [(torch.ones(2, 2) * i, 0) for i in range(3)],
            (torch.arange(3.0)[:, None, None].expand(3, 2, 2), [0, 0, 0]),
            [0, 1, 2],
        ),
        # Labels alone would not tell: the inputs do.
        ([([1, 2], 0), ([3, 4], 1), ([5, 6], 0)], ([[5, 6], [3, 4], [1, 2]], [0, 1, 0]), [2, 1, 0]),
        ([{"x": 0.5}, {"x": 0.5}], {"x": [0.5, 0.5]}, None),  # all the same: nothing can be told
        ([torch.tensor([2.0]), torch.tensor([4.0])], torch.tensor([[3.0], [3.0]]), None),  # mixed
        (
            [torch.tensor([1.0 * i] * 200) for i in range(3)],
            torch.arange(3.0).flip(0)[:, None].expand(3, 300),
            [2, 1, 0],
        ),
        ([torch.tensor(float("nan"))] * 2, torch.zeros(2), None),
        ([torch.ones(2).to_sparse(), torch.zeros(2).to_sparse()], torch.eye(2), None),
        (["a", "b"], ["b", "a"], None),
        ([True, False], torch.tensor([False, True]), [1, 0]),
        ([torch.tensor(1j), torch.tensor(2j)], torch.tensor([2j, 1j]), None),
    ],
)
def test_the_order_of_a_batch_is_told_by_what_differs_most(examples, batch, order):
    assert order_of(examples, batch) == order
