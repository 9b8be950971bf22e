"""Accelerate: `with record(path, model, optimizer, loss=...) as run:`, on what `accelerator.prepare` gave.

The loop stays the user's own, so everything is as with `tracer.record`: `run.batches(loader)` takes the prepared
loader, `run.log(loss=loss)` logs, and steps left out while gradients accumulate make no update.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tracer import recorder

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ImportError(
        "Recording with Accelerate needs the package accelerate: pip install 'tracer-nn[transformers]'."
    ) from error

__all__ = ["record"]


def record(path: str | Path, model: nn.Module, optimizer: Any, **options: Any) -> recorder.Recorder:
    """`tracer.record` for a prepared model and optimizer; the same options, the same archive."""
    return recorder.record(path, model, optimizer, **options)


class Replaced:
    """A method of a class with another in its place, made from it, until `stop`."""

    def __init__(
        self, owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._owner, self._name, self._own = owner, name, name in owner.__dict__
        self._original = getattr(owner, name)
        instead = make(self._original)
        self._active = True

        @wraps(self._original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return (instead if self._active else self._original)(*args, **kwargs)

        self._method = method
        setattr(owner, name, method)

    def stop(self) -> None:
        """Put the method back; where it has been replaced once more since, ours only passes on."""
        self._active = False
        if self._owner.__dict__.get(self._name) is not self._method:
            return
        if self._own:
            setattr(self._owner, self._name, self._original)
        else:
            delattr(self._owner, self._name)


def hear_losses(tell: Callable[[Tensor], None]) -> Replaced:
    """Tell of every loss that any accelerator propagates back, as a share of that of the update."""

    def make(backward: Callable[..., Any]) -> Callable[..., Any]:
        def heard(self: Accelerator, loss: Tensor, **kwargs: Any) -> Any:
            tell(loss.detach() / self.gradient_accumulation_steps)
            return backward(self, loss, **kwargs)

        return heard

    return Replaced(Accelerator, "backward", make)
