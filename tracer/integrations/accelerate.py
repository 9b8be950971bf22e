"""Accelerate: `with record(path, model, optimizer, loss=...) as run:`, on what `accelerator.prepare` gave.

The loop stays the user's own, so everything is as with `tracer.record`: `run.batches(loader)` takes the prepared
loader, `run.log(loss=loss)` logs, and steps left out while gradients accumulate make no update.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tracer import recorder
from tracer.network.torch_internals import Replaced

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


def hear_losses(tell: Callable[[Tensor], None]) -> Replaced:
    """Tell of every loss that any accelerator propagates back, as a share of that of the update."""

    def make(backward: Callable[..., Any]) -> Callable[..., Any]:
        def heard(self: Accelerator, loss: Tensor, **kwargs: Any) -> Any:
            tell(loss.detach() / self.gradient_accumulation_steps)
            return backward(self, loss, **kwargs)

        return heard

    return Replaced(Accelerator, "backward", make)
