"""The optimizers whose steps are the updates of a run: one, several, wrapped ones, or whichever is in use."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from tracer.errors import RecordError
from tracer.recorder.device.grad_scaler import Skips
from tracer.recorder.device.scalars import Number, number

# Wrappers that do nothing to the weights after the step of the optimizer inside.
_TRANSPARENT = ("AcceleratedOptimizer", "_FabricOptimizer")
_NONE = float("nan")
_REMEDY = (
    "give the torch optimizer inside it, several in a list, a function that returns the one in use, or "
    "optimizer=None and call run.step() after each update"
)


class Updates:
    """Calls `tell(optimizer, ...)` after each update by one of them, `skipped()` for one that a scaler left out.

    given: None, an optimizer, a list of them, or a function that returns either, for a training whose phases
    make their own. An optimizer that holds another one (SAM, Lookahead) counts once: its own step, or where
    that is never called, the step of the one inside. RecordError for anything else.
    """

    def __init__(self, given: Any, tell: Callable[..., None], skipped: Callable[[], None]) -> None:
        self.given, self._tell, self._skipped = given, tell, skipped
        self._changing = _is_function(given)
        self._outer = [] if self._changing else in_use(given)
        self._running: set[int] = set()
        self._handles: list[Any] = []
        self._skips: Skips | None = None

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those in use now."""
        return in_use(self.given) if self._changing else self._outer

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Their groups of parameters, in order."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def rates(self) -> list[Number]:
        """The learning rate of each group, NaN where it has none."""
        return [
            rate if type(rate) is float else _NONE if rate is None else number("lr", rate)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for rate in (group.get("lr"),)
        ]

    def start(self) -> None:
        """Listen from now on."""
        if self.given is None:
            return
        # A training step that is compiled must not compile what listens to it.
        tell, begin, end = (torch.compiler.disable(hook) for hook in (self._tell, self._begin, self._end))
        if self._changing:
            self._handles.append(register_optimizer_step_post_hook(torch.compiler.disable(self._anyone)))
        for optimizer in self._outer:
            inner = list(_inside(optimizer))
            if inner:
                self._handles.append(optimizer.register_step_pre_hook(begin))
            self._handles.append(optimizer.register_step_post_hook(end if inner else tell))
            for other in inner:
                inside = torch.compiler.disable(lambda *_, outer=optimizer: self._stepped_inside(outer))
                self._handles.append(other.register_step_post_hook(inside))
        self._skips = Skips(self._is_ours, self._skipped)

    def stop(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._skips is not None:
            self._skips.stop()

    def _begin(self, optimizer: Optimizer, *_: Any) -> None:
        self._running.add(id(optimizer))

    def _end(self, optimizer: Optimizer, *_: Any) -> None:
        self._running.discard(id(optimizer))
        self._tell(optimizer)

    def _stepped_inside(self, outer: Optimizer) -> None:
        if id(outer) not in self._running:
            self._tell(outer)

    def _anyone(self, optimizer: Optimizer, *_: Any) -> None:
        if self._is_ours(optimizer):
            self._tell(optimizer)

    def _is_ours(self, optimizer: Any) -> bool:
        return any(optimizer is ours for ours in self.optimizers)


def in_use(optimizers: Any) -> list[Optimizer]:
    """The torch optimizers that make updates now. RecordError where they cannot be heard."""
    given = unwrapped(optimizers() if _is_function(optimizers) else optimizers)
    return list({id(optimizer): optimizer for optimizer in given}.values())


def _is_function(value: Any) -> bool:
    return callable(value) and not hasattr(value, "step")


def unwrapped(value: Any) -> Iterator[Optimizer]:
    """The torch optimizers that what the user gives stands for. RecordError where its steps cannot be heard."""
    if value is None:
        return
    if isinstance(value, list | tuple):
        for one in value:
            yield from unwrapped(one)
        return
    if any(kind.__name__ in _TRANSPARENT for kind in type(value).__mro__):
        yield from unwrapped(value.optimizer)
        return
    if not isinstance(value, Optimizer) or "_optimizer_step_post_hooks" not in vars(value):
        raise RecordError(f"optimizer= got a {type(value).__name__}, whose steps cannot be heard: {_REMEDY}.")
    yield value


def _inside(optimizer: Optimizer) -> Iterator[Optimizer]:
    for held in vars(optimizer).values():
        if isinstance(held, Optimizer) and "_optimizer_step_post_hooks" in vars(held):
            yield held
