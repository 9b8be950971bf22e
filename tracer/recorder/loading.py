"""Weights that are loaded into a model while it trains: what the last update led to is kept until the next."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tracer.network.copies import named_tensors, unwrap
from tracer.network.hooks import Hook
from tracer.recorder.isolation import unseen

BEFORE = (
    "Other weights were loaded into the model (load_state_dict) before the first update: the snapshot of step 0 is of "
    "those before; load them before tracer.record"
)
BETWEEN = (
    "After update {step} other weights were loaded into the model (load_state_dict): the next update began with them, "
    "and no snapshot is of them; this is said of the first time"
)
FLUSHED = (
    "After update {step} other weights were loaded into the model (load_state_dict), and what run.flush() recorded of "
    "step {step} is of these"
)
LOADED = (
    "After update {step} other weights were loaded into the model (load_state_dict): what is recorded of step {step} "
    "is of those that the update led to"
)
WRITTEN = (
    "After update {step} the weights were written by something else than a step of the optimizer or load_state_dict, "
    "and what is recorded of step {step} is of the weights as they are now: call run.flush() before they are written"
)


class Loading:
    """Watches `load_state_dict` of a model; `before` and `after` are called around it."""

    def __init__(self, model: nn.Module, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._model, self._before, self._after = unwrap(model), before, after
        self._kept: dict[str, Tensor] | None = None
        self._handles: list[Any] = []

    def start(self) -> None:
        """Watch from now on, unless this process has only a part of each tensor."""
        if not any(hasattr(parameter, "full_tensor") for parameter in self._model.parameters()):
            self._handles = [
                self._model.register_load_state_dict_pre_hook(Hook(self._begin, self._failed)),
                self._model.register_load_state_dict_post_hook(Hook(self._end, self._failed)),
            ]

    def stop(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()

    def produced(self) -> Mapping[str, Tensor] | None:
        """The tensors that the last update led to, where others have been loaded since, else None."""
        return self._kept

    def forget(self) -> bool:
        """Take the weights for what they are from now on; whether they were loaded."""
        loaded, self._kept = self._kept is not None, None
        return loaded

    def _begin(self, *_: Any) -> None:
        self._before()
        if self._kept is None:
            with unseen(), torch.inference_mode(False), torch.no_grad():
                self._kept = {name: tensor.clone() for name, tensor in named_tensors(self._model).items()}

    def _end(self, *_: Any) -> None:
        kept, now = self._kept, named_tensors(self._model)
        with unseen():
            if kept is None or (
                now.keys() == kept.keys() and all(_equal(now[name], kept[name]) for name in kept)
            ):
                self._kept = None
        self._after()

    def _failed(self, _: Exception) -> None:
        self._kept = None


def _equal(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.device) == (b.dtype, b.device) and torch.equal(a, b)
