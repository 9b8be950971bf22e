import random
from hashlib import blake2b

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

import tracer
from analyze.metrics.depth.complexity import complexity
from tests.loops import blobs, run_loop
from tracer.errors import MissingTraceError, RecordError
from tracer.network.randomness import random_state
from tracer.recorder import dataset


class Items(Dataset):
    """Items as given, or made by a function of the index."""

    def __init__(self, make, n=10):
        self.make, self.n = make, n
        self.read = []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read.append(index)
        return self.make(index)


def images(n=10, low=0.0, high=1.0, seed=0):
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 3.0), (0.0, 1.5)])
@pytest.mark.parametrize("read_again", [False, True])
def test_alpha_is_the_entropy_that_the_complexity_metric_gives(low, high, read_again, monkeypatch):
    if read_again:
        monkeypatch.setattr(dataset, "_HELD", 0)
    x = images(low=low, high=high)
    found = dataset.read(TensorDataset(x, torch.arange(10)))
    np.testing.assert_array_equal(found.alpha, complexity(x.numpy())["entropy"])
    assert found.labels.tolist() == list(range(10)) and found.ids.tolist() == list(range(10))
    assert found.span == ((0.0, 1.0) if (low, high) == (0.0, 1.0) else (float(x.min()), float(x.max())))
    assert found.notes == [] and found.inputs is None


def test_a_long_reading_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(dataset, "_MANY", 9)
    dataset.read(TensorDataset(images(9), torch.arange(9)))
    assert capsys.readouterr().err == ""
    dataset.read(TensorDataset(images(), torch.arange(10)))
    assert "the 10 examples of data=" in capsys.readouterr().err


def test_pixels_as_bytes_have_their_own_range():
    x = (images() * 200).to(torch.uint8)
    found = dataset.read(TensorDataset(x, torch.zeros(10)), inputs=True)
    np.testing.assert_array_equal(found.alpha, complexity(x.numpy())["entropy"])
    assert found.span == (0.0, 255.0)
    np.testing.assert_array_equal(found.inputs, x.numpy())


def test_values_that_are_not_finite_have_no_entropy():
    x = images()
    x[3, 0, 0, 0] = float("nan")
    found = dataset.read(TensorDataset(x, torch.arange(10)))
    assert np.isnan(found.alpha).tolist() == [i == 3 for i in range(10)]
    np.testing.assert_array_equal(found.alpha, complexity(x.numpy())["entropy"])


def test_digests_are_those_of_the_bytes():
    x = images()
    found = dataset.read(TensorDataset(x, torch.arange(10)))
    assert found.digests.shape == (10, 16)
    assert found.digests[4].tobytes() == blake2b(x[4].numpy().tobytes(), digest_size=16).digest()


def test_ids_are_those_of_the_base_dataset_each_once():
    x = images(20)
    found = dataset.read(Subset(TensorDataset(x, torch.arange(20)), [7, 3, 7, 12]))
    assert found.ids.tolist() == found.labels.tolist() == [3, 7, 12]
    np.testing.assert_array_equal(found.alpha, complexity(x[[3, 7, 12]].numpy())["entropy"][:])


def test_random_augmentation_is_noticed():
    x = images()
    found = dataset.read(Items(lambda i: (x[i] + torch.rand(()), i)), inputs=True)
    assert found.alpha is None and found.digests is None and found.inputs is None
    assert found.labels.tolist() == list(range(10))
    assert len(found.notes) == 1 and "augmentation" in found.notes[0]


def test_reading_leaves_every_random_stream_alone():
    generator, numbers = torch.Generator().manual_seed(3), np.random.default_rng(4)
    own, old = random.Random(5), np.random.RandomState(6)
    x = images()

    def make(i):
        noise = torch.rand(()) + torch.rand((), generator=generator) + numbers.random() + own.random()
        return x[i] + noise + random.random() + np.random.rand() + old.rand(), i

    made = Items(make)
    made.transforms = [{"first": generator}, (numbers, own), old]

    def states():
        streams = random_state()
        return [
            streams["python"],
            streams["numpy"][1].tolist(),
            streams["torch"].tolist(),
            generator.get_state().tolist(),
            numbers.bit_generator.state,
            own.getstate(),
            old.get_state()[1].tolist(),
        ]

    before = states()
    found = dataset.read(made)
    assert len(made.read) > 10 and "augmentation" in found.notes[0]
    assert states() == before


def test_inputs_that_are_no_numbers_leave_the_labels():
    found = dataset.read(Items(lambda i: ("text", i % 2)))
    assert found.alpha is None and found.labels.tolist() == [i % 2 for i in range(10)]
    assert "no arrays of numbers" in found.notes[0]


def test_items_of_other_forms():
    only = dataset.read(Items(lambda i: torch.full((2,), i / 10)))
    assert only.labels is None and only.alpha.tolist() == [0.0] * 10
    uneven = dataset.read(Items(lambda i: (np.linspace(0, 1, i + 2), np.zeros(i))), inputs=True)
    assert uneven.labels is None and uneven.inputs is None and len(uneven.alpha) == 10
    assert len(uneven.notes) == 2 and "labels" in uneven.notes[0]
    spans = dataset.read(Items(lambda i: (i, [i])))
    assert spans.labels is None and spans.span == (0.0, 9.0)


class Stream(IterableDataset):
    def __iter__(self):
        yield 1


def broken(index):
    raise OSError("no such file\nmore")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Stream(), "iterable"),
        (Items(broken), "item 0 of Items cannot be read: no such file."),
        (Items(lambda i: i, 0), "empty"),
        (Items(lambda i: (torch.zeros(2) if i != 4 else "text", 0), 30), "the input of item 4 is a str"),
    ],
)
def test_unusable_datasets_are_refused_before_anything_is_written(given, message, tmp_path):
    model = torch.nn.Linear(6, 3)
    with (
        pytest.raises(RecordError, match=message),
        tracer.record(tmp_path / "run.zarr", model, None, probes={}, data=given),
    ):
        pass
    assert not (tmp_path / "run.zarr").exists()


def test_an_archive_holds_the_training_set(tmp_path):
    x, y = blobs(24)

    def record(*args, **options):
        return tracer.record(*args, data=TensorDataset(x, y), **options)

    run_loop(tmp_path / "run.zarr", data=(x, y), record=record, epochs=1)
    data = tracer.open(tmp_path / "run.zarr").data
    np.testing.assert_array_equal(data.alpha, complexity(x.numpy())["entropy"])
    np.testing.assert_array_equal(data.labels, y.numpy())
    assert data.inputs is None and data.digests.shape == (24, 16) and "24 examples" in repr(data)
    assert data.attributes["complexity"] == {"bins": 1000, "range": [0.0, 1.0]}
    run_loop(tmp_path / "bare.zarr", epochs=1)
    with pytest.raises(MissingTraceError, match="record with data=dataset"):
        tracer.open(tmp_path / "bare.zarr").data
