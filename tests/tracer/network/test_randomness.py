"""Generators that a training draws from are found where its code refers to them, without running any of it."""

import functools
import random
import types

import numpy as np
import pytest
import torch
from torch import nn

from tracer.network import randomness
from tracer.network.hooks import Hook
from tracer.network.randomness import comparable, generators_of, state_of, untouched_random_state

NUMBERS = np.random.default_rng(0)
STREAM = torch.Generator()
LIBRARY = types.ModuleType("of_the_user")
LIBRARY.inner = types.ModuleType("of_the_user.inner")
LIBRARY.inner.numbers = random.Random(1)


def helper():
    return [NUMBERS.random() for _ in range(2)]


class Draws(nn.Module):
    own = np.random.RandomState(3)

    def forward(self, x):
        return self.moved(x)

    @torch.no_grad()
    def moved(self, x):
        return x + torch.rand((), generator=STREAM)


class Slotted:
    __slots__ = ("numbers", "unset")

    def __init__(self):
        self.numbers = random.Random(2)


def observed():
    model = nn.Linear(1, 1)
    model.register_forward_hook(Hook(NUMBERS.normal))
    return model


def closing():
    numbers = np.random.Generator(np.random.MT19937(5))
    return numbers, lambda: (lambda: numbers.random())()


def test_generators_are_found_wherever_code_refers_to_them():
    numbers, closure = closing()
    slotted, default = Slotted(), torch.Generator()

    def with_default(x, *, generator=default):
        return torch.rand(x, generator=generator)

    bits = NUMBERS.bit_generator
    for holder, wanted in [
        (NUMBERS, [bits]),
        (helper, [bits]),
        (lambda: helper(), [bits]),
        (NUMBERS.normal, [bits]),
        (functools.partial(len, NUMBERS), [bits]),
        ({"a": [(1, {NUMBERS})]}, [bits]),
        (closure, [numbers.bit_generator]),
        (with_default, [default]),
        (lambda: LIBRARY.inner.numbers.random(), [LIBRARY.inner.numbers]),
        (slotted, [slotted.numbers]),
        (nn.Sequential(nn.Linear(1, 1), Draws()), [Draws.own, STREAM]),
        (Draws().forward, [Draws.own, STREAM]),
        (nn.Sequential(nn.Linear(1, 1), nn.Dropout()), []),
        (observed(), []),
        (random.SystemRandom(), []),
        (lambda: np.random.rand() + random.random(), []),
    ]:
        assert sorted(map(id, generators_of(holder))) == sorted(map(id, wanted)), holder


class Untouchable:
    """Must not be asked for anything."""

    def __init__(self):
        object.__setattr__(self, "numbers", np.random.default_rng(1))

    def _refuse(self, *_):
        raise AssertionError("code of the user's was run")

    __getattribute__ = __getattr__ = __len__ = __iter__ = __eq__ = __bool__ = __call__ = _refuse
    __hash__ = None
    __class__ = value = property(_refuse)


class UntouchableList(list):
    __iter__ = __len__ = Untouchable._refuse


def test_no_code_of_the_users_runs():
    assert len(generators_of(Untouchable(), UntouchableList([NUMBERS]))) == 2


def test_the_search_is_bounded_and_nearest_first(monkeypatch):
    examples = [[NUMBERS]] * 1001
    assert generators_of(examples) == []
    monkeypatch.setattr(randomness, "_MOST", {True: 5, False: 20})
    far: list = [NUMBERS]
    for _ in range(30):
        far = [far]
    assert generators_of([far, STREAM]) == [STREAM]


@pytest.mark.parametrize("failing", [False, True])
def test_every_kind_of_generator_is_put_back(failing):
    generators = [
        torch.Generator(),
        np.random.Generator(np.random.Philox(1)),
        np.random.Generator(np.random.MT19937(1)),
        np.random.RandomState(1),
        random.Random(1),
    ]
    draws = [lambda g: torch.rand(3, generator=g), *[lambda g: g.normal()] * 3, lambda g: g.gauss()]
    found = generators_of(generators)
    before = comparable([state_of(generator) for generator in found])
    try:
        with untouched_random_state(generators):
            for generator, draw in zip(generators, draws, strict=True):
                draw(generator)
            after = comparable([state_of(generator) for generator in found])
            assert all(a != b for a, b in zip(before, after, strict=True))
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert comparable([state_of(generator) for generator in found]) == before
