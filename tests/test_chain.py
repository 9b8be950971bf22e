import pytest
import torch
from torch import nn

from analyze.replay.paths.chain import refusal, weight_rows
from tests.test_homogeneous import traced

X = {"input": 0}


def row(op, *args, name="r", **more):
    return {"name": name, "op": op, "args": list(args), **more}


def test_first_use_of_each_weight_with_its_input_size():
    rows = [
        row("aten.relu.default", X, shape=[[1, 0], 3, 8, 6]),
        row(
            "aten.conv2d.default",
            {"row": 0},
            {"tensor": "c"},
            None,
            [2, 2],
            [1, 0],
            [1, 1],
            3,
            shape=[[1, 0], 4],
        ),
        row("aten.conv2d.default", {"row": 0}, {"tensor": "c"}, None),
        row("aten.linear.default", {"row": 1}, {"row": 0}, None),
        row("aten.linear.default", {"row": 1}, {"tensor": "fc"}, None),
        row("aten.linear.default", {"row": 1}, {"tensor": "in the loss"}, None, loss=True),
    ]
    found = weight_rows({"rows": rows})
    assert list(found) == ["c", "fc"]
    assert found["c"]["inputs"] == [3, 8, 6] and found["c"]["args"][3] == [2, 2]
    assert found["fc"]["inputs"] == [4]


@pytest.mark.parametrize("shape", [None, [[1, 0], 3, [2, 1], 8]])
def test_size_that_is_not_known(shape):
    rows = [
        row("aten.relu.default", X, shape=shape),
        row("aten.conv2d.default", {"row": 0}, {"tensor": "c"}, None),
    ]
    assert weight_rows({"rows": rows})["c"]["inputs"] is None


def test_tables_of_recorded_networks():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2), nn.Flatten()
    )
    model.append(nn.Linear(18, 3))
    assert model(torch.zeros(1, 2, 6, 6)).shape == (1, 3)
    found = weight_rows(traced(model, 2, 6, 6)[0])
    assert {name: entry["inputs"] for name, entry in found.items()} == {
        "0.weight": [2, 6, 6],
        "2.weight": [4, 2, 2],
        "4.weight": [18],
    }


def test_refusal_names_row_and_module():
    message = str(refusal(row("aten.gelu.default", name="gelu_1", module="head.act"), "is steep"))
    assert "row 'gelu_1' (aten.gelu.default, in module 'head.act') is steep" in message
    assert "the network itself" in str(refusal(row("aten.gelu.default"), "is steep"))
