"""Tables of networks made to harm: refused before they take memory or time, and nothing runs that is not listed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import zoo
from tests.attacks.hostile import bounded
from tests.tables import stored
from tracer import ops
from tracer.errors import ArchiveError
from tracer.network import read, trace
from tracer.network.copies import named_tensors
from tracer.network.cost import check

N = 5
HUGE = 1 << 40
ROW0 = {"input": 0}


def hexed(value: float) -> dict[str, str]:
    return {"float": value.hex()}


def run(*rows: tuple[str, list[Any]], kwargs: dict[str, Any] | None = None) -> None:
    """Read a table of these rows and run it on five examples."""
    network = stored(
        [
            {"op": op, "args": args, "kwargs": (kwargs or {}) if i == 0 else {}}
            for i, (op, args) in enumerate(rows)
        ]
    )
    network.run({}, torch.ones(N, 4))


def test_a_harmless_table_runs() -> None:
    run(("aten.mul.Tensor", [ROW0, ROW0]), ("aten.sum.default", [{"row": 0}]))


@pytest.mark.parametrize(
    "row", [("aten.sym_size.int", [ROW0, 0]), ("aten.sum.default", [ROW0])], ids=["a number", "no examples"]
)
def test_losses_that_are_no_tensor_of_the_examples_are_refused(row: tuple[str, list[Any]]) -> None:
    op, args = row
    network = stored([{"op": op, "args": args}, {"op": "aten.neg.default", "args": [ROW0]}])
    network.output, network.losses = ("row", 1), ("row", 0)
    with pytest.raises(ArchiveError, match="what it gives as losses is no tensor of the examples"):
        network.run({}, torch.ones(N, 4))


TOO_MUCH: dict[str, list[tuple[str, list[Any]]]] = {
    "full": [("aten.full.default", [[HUGE], 1])],
    "full, many": [("aten.full.default", [[1 << 20, 1 << 20, 1 << 20], 1])],
    "arange": [("aten.arange.default", [1 << 50])],
    "linspace": [("aten.linspace.default", [0, 1, 1 << 45])],
    "eye": [("aten.eye.default", [1 << 30])],
    "one_hot": [("aten.zeros_like.default", [ROW0]), ("aten._to_copy.default", [{"row": 0}]),
                ("aten.one_hot.default", [{"row": 1}, HUGE])],
    "repeat": [("aten.repeat.default", [ROW0, [1 << 20, 1 << 20]])],
    "expand and clone": [("aten.expand.default", [{"row": 0}, [HUGE, N, 4]]), ("aten.clone.default", [{"row": 1}])],
    "expand and sum": [("aten.expand.default", [{"row": 0}, [HUGE, N, 4]]), ("aten.sum.default", [{"row": 1}])],
    "sorts": [("aten.repeat.default", [{"row": 0}, [1 << 18, 1]])]
    + [row for i in range(1, 31, 2)
       for row in (("aten.sort.default", [{"row": i}, 0]), ("getitem", [{"row": i + 1}, 0]))],
    "cat of itself": [("aten.cat.default", [[{"row": i}] * 4000]) for i in range(6)],
    "outer of itself": [("aten.flatten.using_ints", [{"row": 0}]), ("aten.repeat.default", [{"row": 1}, [10**5]]),
                        ("aten.outer.default", [{"row": 2}, {"row": 2}])],
    "pad": [("aten.constant_pad_nd.default", [{"row": 0}, [0, HUGE], 0])],
    "reflection of a copy": [("aten.pad.default", [{"row": 0}, [0, HUGE]])],
    "upsample": [("aten.unsqueeze.default", [{"row": 0}, 0]),
                 ("aten.upsample_nearest1d.vec", [{"row": 1}, [HUGE], None])],
    "adaptive pool": [("aten.unsqueeze.default", [{"row": 0}, 0]),
                      ("aten.adaptive_avg_pool1d.default", [{"row": 1}, [HUGE]])],
    "einsum": [("aten.repeat.default", [{"row": 0}, [400, 400]]),
               ("aten.einsum.default", ["ab,cd,ef->abcdef", [{"row": 1}] * 3])],
    "cdist": [("aten.repeat.default", [{"row": 0}, [10**5, 1]]),
              ("aten.cdist.default", [{"row": 1}, {"row": 1}])],
    "matrix_exp": [("aten.full.default", [[20_000, 20_000], hexed(0.5)]), ("aten.matrix_exp.default", [{"row": 1}])],
    "padding of a convolution": [
        ("aten.full.default", [[1, 1, 3, 3], 1]), ("aten.full.default", [[1, 1, 3, 3], 1]),
        ("aten.conv2d.default", [{"row": 1}, {"row": 2}, None, [1, 1], [1 << 30, 1 << 30]]),
    ],
    "many products": [("aten.full.default", [[6000, 6000], 1])]
    + [("aten.mm.default", [{"row": i}, {"row": i}]) for i in range(1, 12)],
}  # fmt: skip


@pytest.mark.parametrize("attack", TOO_MUCH)
def test_what_takes_too_much_is_not_run(attack: str) -> None:
    rows = TOO_MUCH[attack]
    if not attack.startswith(("full", "arange", "linspace", "eye", "one_hot", "repeat")):
        rows = [("aten.clone.default", [ROW0]), *rows]
    with bounded(1 << 29), pytest.raises(ArchiveError, match="network table"):
        run(*rows)


WRONG: dict[str, list[tuple[str, list[Any]]]] = {
    "a negative size": [("aten.full.default", [[-5], 1])],
    "a size beyond counting": [("aten.full.default", [[1 << 62, 8], 1])],
    "a view of another size": [("aten.view.default", [ROW0, [7, 7]])],
    "an axis that is not there": [("aten.sum.dim_IntList", [ROW0, [9]])],
    "an index out of range": [("aten.select.int", [ROW0, 0, 99])],
    "a list for a tensor": [("aten.relu.default", [[1, 2]])],
    "a text for a tensor": [("aten.relu.default", ["os.system"])],
    "a tensor for a number": [("aten.sum.dim_IntList", [ROW0, ROW0])],
    "too many arguments": [("aten.relu.default", [ROW0, ROW0, ROW0])],
    "an item of a text": [("getitem", ["secret", 0])],
    "an item by a text": [("getitem", [[1, 2], "__class__"])],
    "a power beyond counting": [("int.pow", [10, 10**9])],
    "a product beyond counting": [("int.mul", [1 << 61, 1 << 61])],
    "a list many times": [("int.mul", [[0] * 4096, 1 << 40])],
    "a text many times": [("int.mul", ["x" * 4096, 1 << 40])],
    "a format": [("int.mod", ["%9999999999d", 1])],
    "a division by zero": [("int.floordiv", [1, 0])],
    "a largest of a text": [("int.max", ["text"])],
}


@pytest.mark.parametrize("attack", WRONG)
def test_arguments_that_fit_nothing_are_one_sentence(attack: str) -> None:
    with bounded(1 << 29), pytest.raises(ArchiveError, match="network table") as caught:
        run(*WRONG[attack])
    assert "\n" not in str(caught.value)


def test_long_chains_of_growing_numbers_stay_bounded() -> None:
    rows: list[tuple[str, list[Any]]] = [("int.add", [2, 0])]
    rows += [("int.mul", [{"row": i}, {"row": i}]) for i in range(5000)]
    with bounded(), pytest.raises(ArchiveError, match="out of bounds"):
        run(*rows)


def test_indices_beyond_a_tensor_never_reach_memory() -> None:
    for op, arguments in (
        ("aten.index_select.default", [ROW0, 0, {"row": 0}]),
        ("aten.gather.default", [ROW0, 0, {"row": 1}]),
    ):
        index = [("aten.full.default", [[3], 1 << 40]), ("aten.full.default", [[3, 3], -(1 << 40)])]
        with pytest.raises((IndexError, RuntimeError, ArchiveError)):
            run(*index, (op, arguments), kwargs={"dtype": {"dtype": "int64"}})


@pytest.mark.parametrize(
    "model",
    ["MLP", "ViT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet18", "LSTM", "GPT"))],
)
def test_sound_tables_are_weighed_and_run_the_same_each_time(model: str) -> None:
    made, x, y = zoo.build(model)
    network = trace(made, x, y, zoo.loss)
    again = read(network.to_json(), network.constants)
    check(again, named_tensors(made), x, y)
    with torch.no_grad():
        first, second = (again.run(named_tensors(made), x, y) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_file_is_opened_and_no_process_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for op in (
        "aten.from_file.default",
        "aten.set_.source_Tensor",
        "prims.run",
        "os.system",
        "int.__class__",
        "getattr",
    ):
        with pytest.raises(ArchiveError, match="uses operation"):
            run((op, ["owned"]))
    assert list(tmp_path.iterdir()) == []


def test_seeds_of_random_operations_do_not_come_from_the_table() -> None:
    assert np.all([ops.op(name).random is not None for name in ops.OPS if "dropout" in name])


def test_a_number_may_stand_for_a_tensor() -> None:
    run(("aten.mul.Tensor", [ROW0, hexed(0.5)]), ("aten.add.Tensor", [{"row": 0}, 1]))
