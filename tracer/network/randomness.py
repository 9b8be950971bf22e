"""The random streams a training loop may draw from, saved and put back around what must not draw.

Those of everyone (Python's, NumPy's, PyTorch's on each device in use), and those that an object holds itself.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_DEPTH = 6  # how far inside an object its generators are looked for
_DEVICES = ("cuda", "xpu", "mps")


def random_state() -> dict[str, Any]:
    """The states of the random streams of Python, NumPy and torch (devices: those in use)."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        **{device: _device_state(device) for device in _DEVICES},
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device in _DEVICES:
        if state[device]:
            module = torch.get_device_module(device)
            if device == "mps":
                module.set_rng_state(state[device][0])
            else:
                module.set_rng_state_all(state[device])


@contextmanager
def untouched_random_state(*holders: Any) -> Iterator[None]:
    """Leave every random stream as it was found, those of generators inside the holders too."""
    held: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    for holder in holders:
        _find_generators(holder, held, seen, _DEPTH)
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
        for generator, own in held:
            _set_state(generator, own)


def _device_state(device: str) -> list[torch.Tensor]:
    if device == "mps":
        return [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    module = getattr(torch, device, None)
    return module.get_rng_state_all() if module is not None and module.is_initialized() else []


def _find_generators(value: Any, held: list[tuple[Any, Any]], seen: set[int], depth: int) -> None:
    if id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    if (state := _state(value)) is not None:
        held.append((value, state))
    elif isinstance(value, list | tuple | dict) and len(value) > 1000:
        return  # examples, not transforms
    else:
        inside = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        )
        for other in [*inside, *getattr(value, "__dict__", {}).values()]:
            if not isinstance(other, torch.Tensor | np.ndarray | str | bytes | int | float | type):
                _find_generators(other, held, seen, depth - 1)


def _state(value: Any) -> Any:
    if isinstance(value, torch.Generator | np.random.RandomState):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value.getstate() if isinstance(value, random.Random) else None


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
