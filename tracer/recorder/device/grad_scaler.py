"""Updates that a GradScaler leaves out because a scaled gradient overflowed.

An unfused optimizer is then not called at all, so its hook cannot tell; a fused one is called and finds out
by itself. `GradScaler.step` is where both pass, so while a recording is open, it is listened to there.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.amp import GradScaler

_listeners: dict[int, tuple[torch.optim.Optimizer, Callable[[], None]]] = {}
_step = GradScaler.step


@wraps(_step)
def _listened(self: GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
    called: list[int] = []
    watched = [tell for mine, tell in _listeners.values() if mine is optimizer]
    hook = optimizer.register_step_pre_hook(lambda *_: called.append(1)) if watched else None
    try:
        result = _step(self, optimizer, *args, **kwargs)
    finally:
        if hook is not None:
            hook.remove()
    if not called:
        for tell in watched:
            tell()
    return result


class Skips:
    """Calls `tell` whenever a scaler leaves out an update of `optimizer`, until `stop`."""

    def __init__(self, optimizer: torch.optim.Optimizer, tell: Callable[[], None]) -> None:
        _listeners[id(self)] = (optimizer, tell)
        GradScaler.step = _listened  # type: ignore[method-assign]

    def stop(self) -> None:
        """Listen no more."""
        _listeners.pop(id(self), None)
        if not _listeners and GradScaler.step is _listened:
            GradScaler.step = _step  # type: ignore[method-assign]


def found_overflow(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """What a scaler told a fused optimizer in the update just made: not 0 if skipped. None: no scaler."""
    found = getattr(optimizer, "found_inf", None)
    return found if isinstance(found, torch.Tensor) else None
