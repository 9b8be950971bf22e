"""Private copies of a user's model, and a quiet place to run them: nothing of the training is touched."""

import copy
import ctypes
import gc
import mmap
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import cache, partial
from types import CellType, FunctionType, MethodType, NoneType
from typing import Any

import numpy as np
import torch
from torch import nn

from tracer.network.hooks import OwnHooks
from tracer.network.precision import full_precision
from tracer.network.randomness import OFTEN_EMPTY, untouched_random_state
from tracer.network.torch_internals import HOOKS

# Copying one of these would copy a data set, or fail: a forward pass has no business with them.
_SHARED = (
    torch.optim.Optimizer,
    torch.utils.data.DataLoader,
    torch.utils.data.Dataset,
    type(threading.Lock()),
)
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_original_module")
# Most of what a module holds, and nothing to prepare.
_PLAIN = {bool, int, float, str, NoneType}
_DEPTH = 6
_KEPT = 64 << 20  # bytes more than before that may stay with the process


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside wrappers: `torch.compile`, `DistributedDataParallel`, `DataParallel`, Fabric's."""
    while True:
        inner = next((model._modules[name] for name in _WRAPPERS if name in model._modules), None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


@cache
def unwrapped_name(name: str) -> str:
    """A parameter's or module's path without the parts that `torch.compile` and the like put in.

    >>> unwrapped_name("block._orig_mod.weight")
    'block.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Live parameters and buffers by unwrapped name, detached (same memory), tied ones once, in registration
    order.
    """
    inner = unwrap(model)
    named = [*inner.named_parameters(), *inner.named_buffers()]
    return {unwrapped_name(name): tensor.detach() for name, tensor in named}


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor in memory of NumPy's; bfloat16, which NumPy lacks, as float32.

    `tensor.numpy()` would share the memory, and forbid its owner to resize it for ever after. So whatever may
    be a tensor of the user's comes this way.
    """
    tensor = tensor.detach()
    dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
    with torch.inference_mode(False):
        copied = torch.empty(tensor.shape, dtype=dtype)
        return copied.copy_(tensor).numpy()


def lent(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of the processor as NumPy sees it, in the same memory, for as long as the caller runs.

    It may be a view of a parameter (a learned query is the input of a layer). Unlike `tensor.numpy()`, a loan
    leaves its memory resizable once it is over.
    """
    return np.from_dlpack(tensor.detach())


def private_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode that shares no memory, hooks or random streams with it; the model is
    only read.

    Wrappers (`torch.compile`, DDP) are taken off, also around submodules. `training` is set as an attribute,
    since `train()` may be overridden; hooks of the user's are dropped, those of the model's own (`OwnHooks`) stay,
    being part of the function. Gradients are not copied; `requires_grad` is.
    A function in an attribute that holds on to modules (`self.act = lambda x: fc(x)`) holds on to their copies.
    """
    memo: dict[int, Any] = {}
    functions: list[FunctionType] = []
    _prepare(model, memo, functions, _DEPTH)
    with torch.no_grad():
        replica = _copy_module(unwrap(model), memo)
        _copy_hooks(unwrap(model), memo)
    for function in functions:
        _bind(function, memo)
    for module in replica.modules():
        module.__dict__["training"] = False
        if isinstance(module, nn.RNNBase) and _on_cuda(module):
            _differentiable(module)
    return replica


@contextmanager
def passing_copy(model: nn.Module) -> Iterator[nn.Module]:
    """A `private_copy` whose parameters take no memory afterwards, whatever still holds it (a trace leaves cycles)."""
    replica = private_copy(model)
    try:
        yield replica
    finally:
        for parameter in replica.parameters():
            parameter.data = parameter.data.new_empty(0)


def _on_cuda(module: nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in module.parameters())


def _differentiable(module: nn.RNNBase) -> None:
    """Evaluation mode as cuDNN differentiates it: that of training, without dropout."""
    module.__dict__["training"] = True
    module.dropout = 0.0
    module.flatten_parameters()


def _prepare(value: Any, memo: dict[int, Any], functions: list[FunctionType], depth: int) -> None:
    """Fill the memo with copies of what `deepcopy` would refuse, share by accident, or take forever over."""
    kind = type(value)
    if kind in _PLAIN or (kind in OFTEN_EMPTY and not value) or id(value) in memo or depth < 0:
        return
    if isinstance(value, torch.Tensor):
        memo[id(value)] = _copy_tensor(value)
    elif isinstance(value, torch.Generator):
        memo[id(value)] = torch.Generator(value.device)
        memo[id(value)].set_state(value.get_state())
    elif isinstance(value, _SHARED):
        memo[id(value)] = value
    elif isinstance(value, nn.Module):
        for child in value.modules():
            for held in child.__dict__.values():
                _prepare(held, memo, functions, depth - 1)
    elif isinstance(value, dict):
        for held in value.values():
            _prepare(held, memo, functions, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for held in value:
            _prepare(held, memo, functions, depth - 1)
    elif isinstance(value, partial):
        _prepare([value.func, value.args, value.keywords], memo, functions, depth - 1)
    elif isinstance(value, FunctionType) and (held := _held(value)):
        cells = tuple(memo.setdefault(id(cell), CellType()) for cell in value.__closure__ or ())
        memo[id(value)] = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
        functions.append(value)
        # Modules of the model are prepared with it; another one stays as it is.
        _prepare([x for x in held if not isinstance(x, nn.Module)], memo, functions, depth - 1)


def _held(function: FunctionType) -> list[Any]:
    """What was bound to a function as it was defined: closure and default arguments."""
    filled = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            filled.append(cell.cell_contents)
    return [*filled, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _bind(function: FunctionType, memo: dict[int, Any]) -> None:
    """Give the copy of a function what the copy of the model has in the place of what the function holds."""
    copied = memo[id(function)]
    copied.__dict__.update(function.__dict__)
    copied.__defaults__ = _counterpart(function.__defaults__, memo)
    copied.__kwdefaults__ = _counterpart(function.__kwdefaults__, memo)
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            memo[id(cell)].cell_contents = _counterpart(cell.cell_contents, memo)


def _counterpart(value: Any, memo: dict[int, Any]) -> Any:
    """What a copy holds in the place of a value; the value itself where it has nothing to do with the copy."""
    inner = unwrap(value) if isinstance(value, nn.Module) else value
    if id(inner) in memo:
        return memo[id(inner)]
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _counterpart(value.__self__, memo))
    if type(value) in (list, tuple):
        return type(value)(_counterpart(item, memo) for item in value)
    if type(value) is dict:
        return {key: _counterpart(item, memo) for key, item in value.items()}
    return value


def _copy_tensor(tensor: torch.Tensor) -> torch.Tensor:
    # Inside inference mode a clone would be an inference tensor, which autograd refuses later.
    with torch.inference_mode(False), torch.no_grad():
        data = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data.requires_grad_(tensor.requires_grad and tensor.is_leaf)


def _copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    module = unwrap(module)
    if id(module) in memo:
        return memo[id(module)]
    if "__deepcopy__" in type(module).__dict__ and not hasattr(module, "parametrizations"):
        return copy.deepcopy(module, memo)
    replica = type(module).__new__(type(module))
    memo[id(module)] = replica
    state: dict[str, Any] = {}
    for name, value in state_of(module).items():
        if name == "_modules":
            # By identity: a container without modules is false.
            state[name] = {
                key: None if child is None else _copy_module(child, memo) for key, child in value.items()
            }
        elif name in HOOKS:
            state[name] = type(value)()  # a plain dict takes no hooks: it cannot be referred to weakly
        else:
            state[name] = _copy_value(value, memo)
    if "_original_forward" in state and "forward" in state:
        # Accelerate puts its autocast around `forward`; what is probed is the model without.
        state["forward"] = state.pop("_original_forward")
    replica.__setstate__(state)  # recurrent modules rebuild there what their state leaves out
    return replica


def _copy_hooks(model: nn.Module, memo: dict[int, Any]) -> None:
    """Give the copies the model's own hooks, once there is a copy of all that a hook may be a method of."""
    own = OwnHooks(model)
    for module in map(unwrap, model.modules()):
        replica, state = memo.get(id(module)), state_of(module)
        if replica is None or "__deepcopy__" in type(module).__dict__:
            continue
        for name in HOOKS:
            kept = {key: hook for key, hook in state.get(name, {}).items() if own(name, hook)}
            if kept:
                replica.__dict__[name].update({key: _copy_value(hook, memo) for key, hook in kept.items()})


def state_of(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module; its own `__getstate__` is asked where the user's class has one.

    (Lightning leaves its trainer out there. Those of torch are not asked: recurrent modules change themselves
    in it.)
    """
    own = type(module).__getstate__
    if own.__module__.startswith("torch.") or own is object.__getstate__:
        return module.__dict__
    state = module.__getstate__()
    return state if isinstance(state, dict) else module.__dict__


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # process groups, open files, generators: read only in a forward pass
        return value


def plain_math() -> AbstractContextManager[Any]:
    """Leave the user's autocast and inference mode; grad mode stays as it is."""
    casting = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    inference = torch.is_inference_mode_enabled()
    return _left(casting, inference) if casting or inference else nullcontext()


@contextmanager
def _left(casting: list[str], inference: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for device in casting:
            stack.enter_context(torch.autocast(device, enabled=False))
        if inference:
            stack.enter_context(torch.inference_mode(False))
        yield


@contextmanager
def memory_returned() -> Iterator[None]:
    """Where much memory is used for a moment: what is free again at the end goes back to the system at once.

    The C library of Linux keeps pieces of up to 32 MB for later; those of a few passes of a language model add up to
    gigabytes that the training lacks.
    """
    before = _resident()
    try:
        yield
    finally:
        if _resident() - before > _KEPT:
            gc.collect()  # what a pass leaves behind may lie in circles, as outputs of the transformers library do
            return_memory()


def _resident() -> int:
    """Bytes of memory that the process has; 0 where the system does not say."""
    try:
        with open(
            "/proc/self/statm", "rb", buffering=0
        ) as told:  # a third of the time of a Path, at each snapshot
            return int(told.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def return_memory() -> None:
    """Give back to the system what is free, such as what the C library kept of training steps."""
    with suppress(OSError, AttributeError, TypeError):  # no C library that can
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def quiet(*runs: Any, grad: bool) -> Iterator[None]:
    """Where private copies of what `runs` run: random streams kept, those of its own too, autocast, inference mode and
    `torch.compile` off, full precision, grad as told.

    (What is compared is compared to 1e-5, and a user's TensorFloat-32 is good for 1e-3.)
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        # First: it refuses to run while compiled.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(memory_returned())
        stack.enter_context(untouched_random_state(*runs))
        stack.enter_context(plain_math())
        stack.enter_context(full_precision())
        stack.enter_context(torch.set_grad_enabled(grad))
        # The fused path of attention hides its linear layers.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
