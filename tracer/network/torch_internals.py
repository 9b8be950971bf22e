"""Everything that relies on how PyTorch is made inside, where it offers no other way; nothing else does.

`tests/tracer/network/test_torch_internals.py` names each attribute, so that a PyTorch without it fails there.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import wraps
from types import FunctionType
from typing import Any

import torch

# Where a module keeps its hooks: copies leave out those of the user's, and no method removes hooks one did not add.
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class Replaced:
    """A method of a class with another in its place, made from it, until `stop`.

    For events that have no hook: a step that a `GradScaler` leaves out, the loss that an accelerator propagates
    back, a trainer's loop over its loader.
    """

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


def opened(function: Any) -> FunctionType:
    """A Python function of PyTorch's that hides its parts from a mode, as one that shows them.

    `F.multi_head_attention_forward` hands itself to the mode as a whole; its linear layers are seen only where
    it does not ask for modes.
    """
    names = dict(function.__globals__)
    names |= {name: lambda *_: False for name in names if name.startswith("has_torch_function")}
    copied = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


@contextmanager
def fake_tensors() -> Iterator[Any]:
    """Where tensors have sizes and no values; gives the mode, whose `from_tensor` takes the values of one away."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def hushed() -> Iterator[None]:
    """Keep back what `torch.export` prints before it raises: the refusal is told in one sentence instead.

    It prints to the process's stderr, where nothing turns it off.
    """
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def within_transform() -> bool:
    """Whether a transform of `torch.func` is at work (`vmap`, `grad`), in which tensors have no values to look at."""
    return bool(torch._C._are_functorch_transforms_active())
