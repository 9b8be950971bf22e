"""Probes: what they accept, what they refuse, and in which words."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from tracer.errors import RecordError
from tracer.probe import Probe, named_probes


def test_a_probe_copies_what_it_is_given() -> None:
    x, y = torch.zeros(3, 2, requires_grad=True), torch.arange(3)
    probe = Probe(x, y)
    with torch.no_grad():
        x += 1
    y += 1
    assert not probe.inputs.requires_grad and not probe.inputs.any()
    assert probe.targets.tolist() == [0, 1, 2] == probe.ids.tolist()


def test_arrays_lists_tuples_and_dicts_are_inputs() -> None:
    y = np.arange(3)
    assert Probe(np.zeros((3, 2), np.float32), y).inputs.dtype == torch.float32
    assert Probe([[1.0], [2.0], [3.0]], [0, 1, 2]).n == 3
    pair = Probe((torch.zeros(3, 2), np.ones((3, 1))), y)
    assert sorted(pair.arrays()) == ["id", "inputs_0", "inputs_1", "targets"]
    named = Probe({"b": torch.zeros(3, 2), "a": torch.ones(3)}, y)
    assert named.arrays()["inputs_0"].tolist() == [1, 1, 1]


def test_bfloat16_is_stored_as_float32() -> None:
    probe = Probe(torch.ones(2, 1, dtype=torch.bfloat16), torch.zeros(2))
    assert probe.arrays()["inputs"].dtype == np.float32


def test_a_dataset_with_indices_has_the_ids_of_its_base() -> None:
    base = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    probe = Probe.from_any("train", (Subset(base, [9, 7, 5, 3]), [0, 2]))
    assert probe.ids.tolist() == [9, 5] == probe.targets.tolist()
    assert probe.split == "train"
    assert Probe.from_any("test", base).n == 10


class Texts(Dataset[Any]):
    """Items that hold no tensors."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return [float(index), 1.0], index % 2


def test_a_dataset_without_tensors_is_collated() -> None:
    probe = Probe(Texts(), [3, 1])
    assert probe.targets.tolist() == [1, 1] and probe.ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((torch.zeros(0, 2), torch.zeros(0)), {}, "no examples"),
        ((torch.zeros(3, 2), torch.zeros(4)), {}, "targets has 4 entries for 3 inputs"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"ids": [4, 7, 4]}, "id 4 occurs twice"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"ids": [0.5, 1, 2]}, "one whole number"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"ids": [1, 2]}, "id has 2 entries for 3 inputs"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"raw": np.zeros((2, 2))}, "raw has 2 entries"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"capture": {"mask": 3}}, "did you mean 'masks'"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"capture": {"masks": -1}}, "masks is -1"),
        (((torch.zeros(3), torch.zeros(2)), torch.zeros(3)), {}, r"inputs hold \[3, 2\] examples"),
        (("words", torch.zeros(3)), {}, "inputs are a str"),
        (((torch.zeros(3), torch.eye(2).to_sparse()), torch.zeros(3)), {"shared": [1]}, "inputs are sparse"),
        ((np.array(["a"]), torch.zeros(1)), {}, "expected numbers"),
        ((Texts(), [0, 9]), {}, "index 9 is outside"),
        ((Texts(), []), {}, "no indices"),
    ],
)
def test_refused(arguments: tuple[Any, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=says):
        Probe(*arguments, **options)


def test_refusals_name_the_probe() -> None:
    with pytest.raises(RecordError, match=r"Probe 'val': .*expected \(inputs, targets\)"):
        named_probes({"val": 3})
    with pytest.raises(RecordError, match=r"Probe 'val': .*4 entries"):
        named_probes({"val": (torch.zeros(3), torch.zeros(4))})
    x, y = torch.zeros(3), torch.zeros(3)
    with pytest.raises(RecordError, match="'a' and 'b' are both of split 'train'"):
        named_probes({"a": Probe(x, y, split="train"), "b": Probe(x, y, split="train")})
    with pytest.raises(RecordError, match="cannot name a probe"):
        named_probes({"a/b": (x, y)})


def test_the_digest_is_of_the_examples() -> None:
    x, y = torch.rand(3, 2), torch.arange(3)
    assert Probe(x, y).digest == Probe(x.clone(), y, split="other").digest
    assert Probe(x, y).digest != Probe(x, y.flip(0)).digest


def test_values_lie_in_order_however_those_given_do() -> None:
    """Images turned from (row, column, channel) lie as nobody's batches do, and have killed PyTorch's convolutions."""
    x, y = torch.rand(3, 8, 8, 2), torch.arange(3)
    turned = x.movedim(-1, 1)
    given = Probe({"image": turned, "grid": turned[0]}, y.flip(0).flip(0), shared=["grid"])
    assert not turned.is_contiguous()
    assert all(leaf.is_contiguous() for leaf in (given.inputs["image"], given.inputs["grid"].tensor))
    assert torch.equal(given.inputs["image"], turned) and given.inputs["image"].data_ptr() != x.data_ptr()
    assert Probe(turned, y).digest == Probe(turned.contiguous(), y).digest
