"""No operation on the list stops the process, whatever its operands; sound ones run, and refusals say what is wrong."""

import json
import platform
import random
import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.attacks import calls
from tests.attacks.fuzz_ops import TABLE, Outcome, attempt, fuzz
from tests.attacks.killers import KILLERS, UNTRIED, ends
from tests.attacks.operands import Case, sound
from tests.forks import apart
from tracer.errors import ArchiveError
from tracer.network import Network, read, trace
from tracer.ops import OPS
from tracer.ops.operands import schema_of

CASES = 2 * len(OPS)  # two for each operation; very many by `pytest -m slow`


def refuse_deaths(deaths: list[Any]) -> None:
    assert not deaths, "\n".join(f"case {number} ended with {code}: {text}" for number, code, text in deaths)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return apart(fuzz, 7, range(CASES))


def test_no_operand_stops_the_process(outcome: Outcome) -> None:
    refuse_deaths(outcome.deaths)


def test_every_operation_is_tried(outcome: Outcome) -> None:
    assert outcome.fates.keys() == OPS.keys()
    assert sum(outcome.fates.values(), Counter[str]()).total() == CASES


def test_a_sound_call_reaches_its_kernel() -> None:
    """Each is run; where the size of a result depends on values, some may say a wrong one."""
    for name, entry in OPS.items():
        torch.manual_seed(0)
        fates = set()
        for code in sound()[name]:
            args, kwargs = eval(code, vars(calls) | {"torch": torch})
            fates.add(attempt(Case(name, args, kwargs, 0, random.Random(0))))
        assert "done" in fates, name
        assert fates <= {"done", "refused"} if entry.by_value else fates == {"done"}, (name, fates)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_very_many(seed: int) -> None:
    refuse_deaths(apart(fuzz, seed, range(25_000)).deaths)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors divide the least number by -1")
def test_what_is_known_to_kill_kills_where_nothing_is_checked() -> None:
    found = apart(ends)
    assert found.keys() == KILLERS.keys()
    assert all(found.values()), found


@pytest.mark.parametrize("name", KILLERS | UNTRIED)
def test_what_is_known_to_kill_is_refused(name: str) -> None:
    assert attempt((KILLERS | UNTRIED)[name]()) == "refused"


def run(op: str, args: list[Any], tensors: dict[str, Tensor]) -> None:
    row = {"name": "r0", "op": op, "args": args}
    table = TABLE | {"rows": [row], "parameters": list(tensors)}
    read(json.dumps(table).encode(), {}).run({"x": torch.zeros(())} | tensors, torch.zeros(()))


F = {"float": (0.5).hex()}
T = [{"tensor": name} for name in "abcdefg"]
REFUSED: dict[str, tuple[str, list[Any], list[Tensor], str]] = {
    "short statistics": (
        "aten._native_batch_norm_legit_functional.default",
        [T[0], None, None, T[1], T[2], True, F, F],
        [torch.zeros(4, 3, 5), torch.zeros(2), torch.zeros(3)],
        "running_mean is float32 [2] and must have shape [3], one number a channel of input",
    ),
    "a class beyond the last": (
        "aten.nll_loss.default",
        [T[0], T[1]],
        [torch.zeros(4, 3), torch.tensor([0, 1, 2, 3])],
        "target holds 0 to 3 and must hold 0 to 2",
    ),
    "a label beyond the last": (
        "aten.ctc_loss.IntList",
        [T[0], T[1], [9, 8], [3, 2], 0, 0],
        [torch.zeros(9, 2, 5), torch.full((2, 3), 1 << 31)],
        "targets holds 2147483648 to 2147483648 and must hold 0 to 4",
    ),
    "the least number by -1": (
        "aten.floor_divide.default",
        [T[0], T[1]],
        [torch.tensor([torch.iinfo(torch.int64).min]), torch.tensor([-1])],
        "self holds -9223372036854775808 and other may hold -1, and that quotient does not exist",
    ),
    "a head too few": (
        "aten._scaled_dot_product_flash_attention_for_cpu.default",
        [T[0], T[1], T[2]],
        [torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 6, 8), torch.zeros(2, 1, 6, 8)],
        "they must agree in examples, heads and widths",
    ),
    "no bag": (
        "aten.embedding_bag.padding_idx",
        [T[0], T[1], T[2], False, 0, False, None, False, None],
        [torch.zeros(7, 4), torch.zeros(9, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)],
        "offsets at least 1 numbers",
    ),
    "a bias too long": (
        "aten.lstm.input",
        [T[0], [T[1], T[1]], [T[2], T[3], T[4], T[4]], True, 1, F, False, False, False],
        [torch.zeros(5, 2, 3), torch.zeros(1, 2, 4), torch.zeros(16, 3), torch.zeros(16, 4), torch.zeros(17)],
        "and must have shapes [[16, 3], [16, 4], [16], [16]]",
    ),
    "a place at infinity": (
        "aten.grid_sampler.default",
        [T[0], T[1], 0, 2, True],
        [torch.zeros(2, 3, 5, 5), torch.tensor([0.5, float("inf")]).expand(2, 4, 4, 2).clone()],
        "grid holds 0.5 to inf and must hold finite numbers where padding_mode is 2",
    ),
    "no stride": (
        "aten.max_pool2d.default",
        [T[0], [2, 2], [0, 1]],
        [torch.zeros(1, 1, 4, 4)],
        "stride is [0, 1] and must be at least 1",
    ),
    "a size beyond counting": (
        "aten.narrow.default",
        [T[0], 0, 1, 1 << 62],
        [torch.zeros(4)],
        "length is 4611686018427387904 and must be at least 0",
    ),
}


@pytest.mark.parametrize("attack", REFUSED)
def test_a_refusal_says_what_is_wrong(attack: str) -> None:
    op, args, tensors, clause = REFUSED[attack]
    with pytest.raises(ArchiveError, match=re.escape(clause)) as caught:
        run(op, args, dict(zip("abcdefg", tensors, strict=False)))
    assert f"row 'r0' of the network table ({op}) is not run: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_operand_of_a_constraint_exists() -> None:
    from tracer.ops.families import OPERANDS

    assert OPERANDS.keys() <= OPS.keys()
    assert all(schema_of(op) is not None for op in OPERANDS)


def traced(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Network, dict[str, Tensor]]:
    own = trace(model, x, y, nn.CrossEntropyLoss())
    return read(own.to_json(), own.constants), dict(model.state_dict())


def test_indices_are_looked_at_under_a_transform_too() -> None:
    model, x, y = nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 3])
    network, tensors = traced(model, x, y)

    def loss(one: Tensor, target: Tensor) -> Tensor:
        return network.run(tensors, one[None], target[None])[1].sum()  # type: ignore[union-attr]

    assert torch.vmap(loss)(x, y).shape == (5,)
    with pytest.raises(ArchiveError, match="target holds 0 to 4 and must hold 0 to 3"):
        torch.vmap(loss)(x, torch.tensor([0, 1, 2, 3, 4]))


def test_one_s_own_network_pays_nothing() -> None:
    model, x, y = nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 3])
    own = trace(model, x, y, nn.CrossEntropyLoss())
    own.run(dict(model.state_dict()), x, y)
    steps = [step for program in own._programs.values() for step in program.steps]
    assert steps and not any("checked" in getattr(step.call, "__qualname__", "") for step in steps)
