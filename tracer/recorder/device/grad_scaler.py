"""Updates that a GradScaler leaves out because a scaled gradient overflowed.

An unfused optimizer is then not called at all, so its hook cannot tell; a fused one is called and finds out
by itself. `GradScaler.step` is where both pass, so while a recording is open, it is listened to there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.amp import GradScaler

from tracer.network.torch_internals import Replaced


class Skips:
    """Calls `tell` whenever a scaler leaves out an update of an optimizer that `is_ours`, until `stop`."""

    def __init__(self, is_ours: Callable[[torch.optim.Optimizer], bool], tell: Callable[[], None]) -> None:
        def make(step: Callable[..., Any]) -> Callable[..., Any]:
            def listened(
                scaler: GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any
            ) -> Any:
                if not is_ours(optimizer):
                    return step(scaler, optimizer, *args, **kwargs)
                called: list[int] = []
                hook = optimizer.register_step_pre_hook(lambda *_: called.append(1))
                try:
                    result = step(scaler, optimizer, *args, **kwargs)
                finally:
                    hook.remove()
                if not called:
                    tell()
                return result

            return listened

        self._replaced = Replaced(GradScaler, "step", make)

    def stop(self) -> None:
        """Listen no more."""
        self._replaced.stop()


def found_overflow(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """What a scaler told a fused optimizer in the update just made: not 0 if skipped. None: no scaler."""
    overflow = getattr(optimizer, "found_inf", None)
    return overflow if isinstance(overflow, torch.Tensor) else None
