"""Hooks on a model: which are part of what it computes, so that private copies keep them, and those of a recording."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

FORWARD = ("_forward_hooks", "_forward_pre_hooks")
_UTILS = "torch.nn.utils"  # pruning, weight and spectral norm
_LIBRARIES = ("transformers", "timm")  # whose models collect hidden states and features by hooks


class OwnHooks:
    """Says of a hook whether it is the model's own.

    It is where `torch.nn.utils` made it, and of forward hooks where a class of one of the model's modules defines it,
    as a method or within one, or a library whose models rest on hooks. A hook from elsewhere is the user's: one that
    logs would, run by a probe as well, log what training never saw.
    """

    def __init__(self, model: nn.Module) -> None:
        kinds = {kind for module in model.modules() for kind in type(module).__mro__}
        self._bodies = tuple(
            f"{kind.__module__}.{kind.__qualname__}."
            for kind in kinds
            if kind.__module__.partition(".")[0] not in ("torch", "builtins")
        )

    def __call__(self, kind: str, hook: Any) -> bool:
        """Whether a hook of this kind, such as "_forward_hooks", stays."""
        while isinstance(hook, partial | MethodType):
            hook = hook.func if isinstance(hook, partial) else hook.__func__
        home = getattr(hook, "__module__", None) or type(hook).__module__
        if home.startswith(_UTILS) or kind not in FORWARD:
            return home.startswith(_UTILS)
        defined = f"{home}.{getattr(hook, '__qualname__', '')}"
        return home.partition(".")[0] in _LIBRARIES or defined.startswith(self._bodies)


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
