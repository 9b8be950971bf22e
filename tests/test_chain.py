import json

import pytest
import torch
from torch import nn

from analyze.chain import Convolution, convolution, dense_chain, weight_rows
from tracer.errors import MissingTraceError
from tracer.network import Network

X = {"input": 0}


def row(op, *args, name="r", **more):
    return {"name": name, "op": op, "args": list(args), **more}


def linear(value, name):
    return row("aten.linear.default", value, {"tensor": name}, {"tensor": "bias"}, name=name)


def test_chain_passes_reshaping_and_stops_at_the_loss():
    rows = [
        row("aten.sym_size.int", X, 0),
        row("aten.view.default", X, [{"row": 0}, 784]),
        linear({"row": 1}, "a"),
        row("aten.dropout.default", {"row": 2}, {"float": "0x1p-1"}, False),
        row("aten.leaky_relu.default", {"row": 3}, {"float": "0x1p-3"}),
        linear({"row": 4}, "b"),
        row("aten.log_softmax.int", {"row": 5}, 1),
        row("aten.gather.default", {"row": 6}, 1, {"target": 0}, loss=True),
    ]
    assert dense_chain({"rows": rows}) == ["a", "b"]


@pytest.mark.parametrize(
    "rows",
    [
        [
            linear(X, "a"),
            row("aten.relu.default", {"row": 0}),
            row("aten.add.Tensor", {"row": 1}, {"row": 0}),
        ],
        [linear(X, "a"), linear(X, "b")],
        [linear(X, "a"), linear({"row": 0}, "a")],
        [row("aten.linear.default", X, {"row": 0}, None)],
        [linear(X, "a"), row("aten.mul.Tensor", {"row": 0}, {"tensor": "scale"})],
        [linear(X, "a"), row("aten.mul.Tensor", {"row": 0}, 2)],
        [row("aten.conv2d.default", X, {"tensor": "a"}, None)],
        [linear(X, "a"), row("aten.softmax.int", {"row": 0}, 1), linear({"row": 1}, "b")],
        [linear(X, "a"), row("aten.gelu.default", {"row": 0})],
        [linear(X, "a"), row("aten.leaky_relu.default", {"row": 0}, {"float": "0x1p+1"})],
        [linear(X, "a"), row("aten.batch_norm.default", {"row": 0}, {"tensor": "g"}, {"tensor": "b"})],
        [row("aten.linear.default", X, {"tensor": "a"}, None, shape=[[1, 0], 7, 4])],
    ],
    ids=[
        "residual",
        "branch",
        "shared",
        "computed",
        "scale",
        "twice",
        "conv",
        "softmax",
        "gelu",
        "steep",
        "norm",
        "tokens",
    ],
)
def test_anything_else_is_refused_with_the_row(rows):
    with pytest.raises(MissingTraceError, match="more than a chain of linear layers"):
        dense_chain({"rows": rows})


def test_no_layer_at_all_is_refused():
    with pytest.raises(MissingTraceError, match="no linear layer"):
        dense_chain({"rows": [row("aten.relu.default", X)]})


def test_first_use_of_each_weight_with_its_input_size():
    rows = [
        row("aten.relu.default", X, shape=[[1, 0], 3, 8, 6]),
        row("aten.conv2d.default", {"row": 0}, {"tensor": "c"}, None, [2, 2], [1, 0], [1, 1], 3),
        row("aten.conv2d.default", {"row": 0}, {"tensor": "c"}, None),
        row("aten.linear.default", {"row": 1}, {"row": 0}, None),
        linear({"row": 1}, "fc"),
    ]
    found = weight_rows({"rows": rows})
    assert list(found) == ["c", "fc"] and convolution(found["fc"], []) is None
    geometry = Convolution((8, 6), stride=(2, 2), before=(1, 0), after=(1, 0), dilation=(1, 1), groups=3)
    assert convolution(found["c"], [3, 3]) == geometry


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["same", 2], Convolution((9,), (1,), (3,), (3,), (2,))),
        (["same", 1], Convolution((9,), (1,), (1,), (2,), (1,))),
        (["valid"], Convolution((9,), (1,), (0,), (0,), (1,))),
    ],
)
def test_padding_by_name(args, expected):
    kernel = 4
    conv = row("aten.conv1d.padding", X, {"tensor": "c"}, None, [1], *args, space=[9])
    assert convolution(conv, [kernel]) == expected


def test_general_convolution_and_transposed_one():
    args = [X, {"tensor": "c"}, None, [1], [1], [1]]
    general = row("aten.convolution.default", *args, False, [0], 2, space=[5])
    assert convolution(general, [3]) == Convolution((5,), (1,), (1,), (1,), (1,), groups=2)
    assert convolution(row("aten.convolution.default", *args, True, [0], 2, space=[5]), [3]) is None


def test_size_that_is_not_known_is_no_geometry():
    conv = row("aten.conv2d.default", X, {"tensor": "c"}, None)
    assert convolution(weight_rows({"rows": [conv]})["c"], [3, 3]) is None


def recorded(model, inputs):
    network = Network.trace(
        model, inputs, torch.zeros(len(inputs), dtype=torch.int64), nn.functional.cross_entropy
    )
    return json.loads(network.to_json())


def test_tables_of_recorded_networks():
    images = torch.randn(3, 2, 6, 6)
    dense = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 4), nn.LogSoftmax(1)
    )
    assert dense_chain(recorded(dense, images)) == ["1.weight", "4.weight"]
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
    table = recorded(nn.Sequential(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 4)), images)
    found = weight_rows(table)
    assert list(found) == ["0.weight", "3.weight"]
    assert convolution(found["0.weight"], [3, 3]) == Convolution(
        (6, 6), (2, 2), (1, 1), (1, 1), (1, 1), groups=2
    )
    with pytest.raises(MissingTraceError, match=r"conv2d"):
        dense_chain(table)
