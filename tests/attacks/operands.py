"""Hostile operands: the sound call of an operation with a few changes, known by seed and number."""

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.attacks import calls
from tracer.network.program import resolve
from tracer.network.table import DTYPES
from tracer.ops import OPS

INTEGERS = [*range(-2, 4), 7, 63, 64, 1000, -100, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32]
INTEGERS += [2**62, -(2**62), 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-300, 1e38, 1e308, 2.0**31, 2.0**63]
FLOATS += [float("inf"), float("-inf"), float("nan")]
TEXTS = [
    "none",
    "mean",
    "sum",
    "same",
    "valid",
    "reflect",
    "circular",
    "replicate",
    "constant",
    "floor",
    "trunc",
    "tanh",
]
TEXTS += ["amax", "amin", "prod", "", "ii->", "ij,jk->ki", ",->", "...,...->..."]


@cache
def sound() -> dict[str, list[Any]]:
    """Code of the sound calls of each operation."""
    found: dict[str, list[Any]] = {}
    for line in calls.CALLS.strip().splitlines():
        name, _, text = line.partition(" ")
        found.setdefault(name, []).append(compile(f"call({text.strip()})", name, "eval"))
    plain = {"Tensor": "f(2,3,4)", "number": "0.5"}
    for name in OPS.keys() - found.keys():
        schema = getattr(resolve(name), "_schema", None)
        wanted = (
            ["4", "3"]
            if schema is None
            else [
                plain[str(argument.type)] for argument in schema.arguments if not argument.has_default_value()
            ]
        )
        found[name] = [compile(f"call({','.join(wanted)})", name, "eval")]
    return found


@dataclass
class Case:
    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    changes: int
    rng: random.Random = field(repr=False)


def case(seed: int, number: int, only: list[str] | None = None) -> Case:
    """The case of this number."""
    rng = random.Random(seed * 1_000_003 + number)
    torch.default_generator.manual_seed(
        rng.getrandbits(40)
    )  # without those of devices, which take longer than a case
    names = only or sorted(sound())
    op = names[number % len(names)]
    args, kwargs = eval(rng.choice(sound()[op]), vars(calls) | {"torch": torch})
    changes = rng.choice([0, 1, 1, 1, 1, 2, 2, 3])
    for _ in range(changes):
        places = list(_places(args)) + list(_places(kwargs))
        if not places:
            break
        holder, key = rng.choice(places)
        holder[key] = _changed(holder[key], rng, args)
    if rng.random() < 0.15:
        _scale_up(args, rng)
        changes += 1
    return Case(op, args, kwargs, changes, rng)


def _scale_up(args: list[Any], rng: random.Random) -> None:
    """Larger tensors, together: a write beyond a large one is far."""
    tensors = [
        (holder, key) for holder, key in _places(args) if isinstance(holder[key], Tensor) and holder[key].ndim
    ]
    axis, times = rng.randrange(3), rng.choice([17, 64, 300])
    for holder, key in tensors:
        value = holder[key]
        if axis < value.ndim and value.numel() * times < 1 << 20:
            holder[key] = value.repeat([times if d == axis else 1 for d in range(value.ndim)])


def _places(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], list):
            yield from _places(tree[key])


def _changed(value: Any, rng: random.Random, args: list[Any]) -> Any:
    if rng.random() < 0.04:
        return rng.choice([None, rng.choice(INTEGERS), rng.choice(FLOATS), [], torch.tensor(0), value])
    if isinstance(value, Tensor):
        return _tensor(value, rng, args)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([rng.choice(INTEGERS), value + rng.choice([-2, -1, 1, 2]), -value, value * 2])
    if isinstance(value, float):
        return rng.choice(FLOATS)
    if isinstance(value, str):
        return rng.choice(TEXTS)
    if isinstance(value, list):
        return _list(value, rng, args)
    if isinstance(value, torch.dtype):
        return rng.choice(list(DTYPES.values()))
    if isinstance(value, torch.memory_format):
        return rng.choice(
            [torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d]
        )
    return (
        value
        if value is not None
        else rng.choice([rng.choice(INTEGERS), *[a for a in args if isinstance(a, Tensor)], 1.0])
    )


def _list(value: list[Any], rng: random.Random, args: list[Any]) -> list[Any]:
    how = rng.randrange(5)
    if how == 0:
        return value[:-1]
    if how == 1:
        return [*value, *(value[-1:] or [1])]
    if how == 2:
        return []
    if how == 3:
        return value * rng.choice([2, 3])
    return [_changed(item, rng, args) for item in value]


def _tensor(value: Tensor, rng: random.Random, args: list[Any]) -> Tensor:
    how = rng.choice("sssssvvvvvvddlxo")
    if how == "s" and value.ndim:
        return _resized(value, rng)
    if how == "v" and value.numel():
        return _with_values(value, rng)
    if how == "d":
        return value.to(rng.choice(list(DTYPES.values())))
    if how == "l" and value.ndim:
        return _laid_out(value, rng)
    if how == "x":
        return rng.choice(
            [
                value.unsqueeze(0),
                value.flatten(),
                value[..., None],
                value.new_zeros(()),
                value.new_zeros(0),
                value.squeeze(0),
                torch.stack([value] * 2),
            ]
        )
    others = [other for other in args if isinstance(other, Tensor)]
    return rng.choice(others) if others else value


def _resized(value: Tensor, rng: random.Random) -> Tensor:
    axis = rng.randrange(value.ndim)
    n = value.shape[axis]
    size = rng.choice([0, 1, max(0, n - 1), n + 1, n + 2, 2 * n, 3 * n, 40, 300])
    if value.numel() // max(1, n) * size > 1 << 20 or not n:
        return value.new_zeros([*value.shape[:axis], min(size, 3), *value.shape[axis + 1 :]])
    return value.index_select(axis, torch.arange(size) % n)


def _with_values(value: Tensor, rng: random.Random) -> Tensor:
    value = value.clone(memory_format=torch.contiguous_format)
    if value.dtype == torch.bool:
        return value.fill_(rng.random() < 0.5)
    if value.is_floating_point() or value.is_complex():
        special = float(torch.tensor(rng.choice(FLOATS), dtype=torch.float64).to(value.dtype).real)
    else:
        info = torch.iinfo(value.dtype)
        top = int(value.max())
        near = [-1, 0, top, top + 1, top + 2, -top, -top - 1, -100, 1000]
        special = rng.choice([info.min, info.max, *near, 2**31, 2**40, 2**62])
        special = min(max(special, info.min), info.max)
    if rng.random() < 0.3:
        return value.fill_(special)
    for _ in range(rng.randint(1, 3)):
        value.view(-1)[rng.randrange(value.numel())] = special
    if not value.is_floating_point() and not value.is_complex() and rng.random() < 0.3:
        value.view(-1)[rng.randrange(value.numel())] = rng.choice([-1, 0])
    return value


def _laid_out(value: Tensor, rng: random.Random) -> Tensor:
    how = rng.randrange(5)
    if how == 0:
        return value.transpose(0, -1)
    if how == 1:
        return value.transpose(0, -1).contiguous().transpose(0, -1)
    if how == 2:
        return value[:1].expand_as(value) if value.shape[0] else value
    if how == 3:
        return value.repeat_interleave(2, -1)[..., ::2] if value.numel() < 1 << 18 else value
    return value[1:] if value.shape[0] else value


def describe(one: Case) -> str:
    """A case in one line."""

    def short(value: Any) -> str:
        if isinstance(value, Tensor):
            tail = ""
            if value.numel() and not value.is_complex() and value.dtype != torch.bool:
                tail = f" {value.min().item():g}..{value.max().item():g}"
            dense = "" if value.is_contiguous() else f"/{tuple(value.stride())}"
            return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}{dense}{tail}"
        if isinstance(value, list):
            return "[" + ", ".join(map(short, value)) + "]"
        return repr(value)

    return (
        f"{one.op}({', '.join(map(short, one.args))}"
        + "".join(f", {k}={short(v)}" for k, v in one.kwargs.items())
        + ")"
    )
