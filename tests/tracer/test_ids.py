"""Example ids: of what a sampler yields, and of what a user gives."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from tests.tracer.recorder.test_batches import Log, N, numbered
from tracer.errors import RecordError
from tracer.ids import resolve, taken


class Looked:
    """Indices that count how many of them are looked at."""

    looks = 0

    def __len__(self):
        return N

    def __getitem__(self, place):
        if place >= N:
            raise IndexError
        self.looks += 1
        return N - 1 - place


def test_of_the_indices_of_a_subset_only_those_of_the_batch_are_looked_at():
    indices = Looked()
    assert resolve(Subset(numbered(), indices), [0, 3]).tolist() == [N - 1, N - 4]
    assert indices.looks == 2
    for known in ([5, 7, 9], (5, 7, 9), np.array([5, 7, 9]), torch.tensor([5, 7, 9])):
        assert resolve(Subset(numbered(), known), [2, -3]).tolist() == [9, 5]
    with pytest.raises(RecordError, match=r"indices of a Subset hold 'a', expected whole numbers"):
        resolve(Subset({"a": 1}, [0, "a"]), [0, 1])


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (torch.tensor([1, 0]).to_sparse(), "tensor on the cpu device, of layout sparse_coo"),
        (torch.empty(3, dtype=torch.int64, device="meta"), "tensor on the meta device"),
        ([[1, 2], [3]], "a list that cannot be read as an array"),
        (np.array([1, 2**63], np.uint64), "go up to 9223372036854775808, expected none over"),
        ([2**63], "go up to 9223372036854775808"),
        ([2**70], "dtype object"),
        ([True], "dtype bool"),
    ],
)
def test_ids_that_are_no_whole_numbers_are_refused_in_one_sentence(ids, sentence):
    with pytest.raises(RecordError, match=f"^The ids given .*{sentence}"):
        taken(ids)


def loaders_of(kind):
    a, b, x = numbered(), numbered(1), torch.arange(N)
    return {
        "the same": lambda: [a, a],
        "other parts of the same": lambda: [Subset(a, [1, 2]), Subset(Subset(a, [3, 4]), [0])],
        "joined anew": lambda: [ConcatDataset([a, b]), ConcatDataset([a, b])],
        "one more joined": lambda: [a, ConcatDataset([a, b]), a],
        "the same tensors": lambda: [TensorDataset(x), TensorDataset(x, x)],
        "the same values": lambda: [numbered(), numbered()],
        "others": lambda: [a, b, a],
        "others joined": lambda: [ConcatDataset([a, b]), b],
        "a part joined": lambda: [a, ConcatDataset([Subset(a, [2, 1]), b])],
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "mixed"),
    [
        ("the same", False),
        ("other parts of the same", False),
        ("joined anew", False),
        ("one more joined", False),
        ("the same tensors", False),
        ("the same values", False),
        ("others", True),
        ("others joined", True),
        ("a part joined", True),
    ],
)
def test_ids_that_stand_for_examples_of_several_data_sets_are_noted(kind, mixed):
    log = Log()
    for dataset in loaders_of(kind):
        log.epoch(DataLoader(dataset, batch_size=4))
    assert {note.partition(",")[0] for note in log.notes} == (
        {"Loaders of several data sets were given to run.batches"} if mixed else set()
    )
