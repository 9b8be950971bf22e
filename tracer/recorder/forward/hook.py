"""Hooks on a model that is being recorded, which stay behind when the model is copied or saved."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any


class Hook:
    """A hook that observes. In a copy or a pickle of its module there is one in its place that does nothing.

    What stands there is of the standard library, so that a saved model can be loaded where tracer is not
    installed. `failed` is told what observing raises, which is no matter of the training; without it, it is raised.

    >>> import copy
    >>> copy.deepcopy(Hook(print))("module", "inputs")
    """

    __slots__ = ("_failed", "_observe")

    def __init__(
        self, observe: Callable[..., None], failed: Callable[[Exception], None] | None = None
    ) -> None:
        self._observe, self._failed = observe, failed

    def __call__(self, *arguments: Any) -> None:
        """Observe."""
        try:
            self._observe(*arguments)
        except Exception as error:
            if self._failed is None:
                raise
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":  # which only `torch.jit.script` asks for
            raise AttributeError(
                "torch.jit.script compiles the hooks of a model too, and minibatch= has some there: script the model "
                "once the recording is closed."
            )
        raise AttributeError(name)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")  # which takes any arguments and returns None
