"""Everything that relies on how PyTorch is made inside, where it offers no other way; nothing else does.

`tests/tracer/network/test_torch_internals.py` names each attribute, so that a PyTorch without it fails there.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import cache, partial, reduce, wraps
from inspect import signature
from itertools import cycle
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn, overrides
from torch._ops import OpOverload
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes, _len_torch_dispatch_stack
from torch.utils.data import DataLoader

from tracer.ops.decompositions import COMPOSITE, MISREAD

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
    """A method of a class, or function of a module, with another in its place, made from it, until `stop`.

    For events that have no hook: a step that a `GradScaler` leaves out, the loss that an accelerator propagates
    back, a trainer's loop over its loader. Several of one method are made one from the other, and may stop in any
    order; `make` is called anew then.
    """

    def __init__(
        self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        place = getattr(owner.__dict__.get(name), "_place", None)
        if place is None or place.method is not owner.__dict__[name]:  # replaced once more, by others
            place = _Place(owner, name)
        self._place, self._make = place, make
        place.set([*place.makes, make])

    def stop(self) -> None:
        """Put the method back where nothing else replaces it; where others have since, ours only passes on."""
        self._place.set([make for make in self._place.makes if make is not self._make])


class _Place:
    """Where a method was, and what now makes another one of it."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name, self._own = owner, name, name in owner.__dict__
        self._original = self._call = getattr(owner, name)
        self.makes: list[Callable[..., Any]] = []

        @wraps(self._original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return self._call(*args, **kwargs)

        method.__dict__["_place"] = self
        self.method = method
        setattr(owner, name, method)

    def set(self, makes: list[Callable[..., Any]]) -> None:
        self.makes, self._call = makes, reduce(lambda call, make: make(call), makes, self._original)
        if makes or self._owner.__dict__.get(self._name) is not self.method:
            return
        if self._own:
            setattr(self._owner, self._name, self._original)
        else:
            delattr(self._owner, self._name)


def draw_from(loader: DataLoader[Any], sampler: Any) -> None:
    """Have a loader draw its batches from another sampler.

    Workers that have started go on, and take theirs from it: starting others would draw another seed.
    """
    loader.__dict__["batch_sampler"] = sampler  # which an assignment is not allowed to change
    if loader._iterator is not None:
        loader._iterator._index_sampler = sampler


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
def masks_answered(model: nn.Module, run: Callable[[], Any]) -> Iterator[None]:
    """Where layers of `nn.Transformer` ask of a mask whether it is causal, and hear what they heard in `run`.

    While a model is exported no mask has values that could be looked at.
    """
    if not any(
        isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)) for module in model.modules()
    ):
        yield
        return
    heard: list[bool] = []

    def listening(ask: Callable[..., bool]) -> Callable[..., bool]:
        def asked(*args: Any, **kwargs: Any) -> bool:
            heard.append(ask(*args, **kwargs))
            return heard[-1]

        return asked

    question = (torch.nn.modules.transformer, "_detect_is_causal_mask")
    replaced = Replaced(*question, listening)
    try:
        run()
    finally:
        replaced.stop()
    answers = cycle(heard)
    replaced = Replaced(*question, lambda ask: lambda *args, **kwargs: next(answers))
    try:
        yield
    finally:
        replaced.stop()


@contextmanager
def fake_tensors() -> Iterator[Any]:
    """Where tensors have sizes and no values; gives the mode, whose `from_tensor` takes the values of one away."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def lean() -> Iterator[None]:
    """Trace without what PyTorch makes for others.

    What operations gave: symbols as sizes hardly ever hit that cache, and filling it takes a quarter of a trace. The
    lines of code that called them take a tenth, and as much the Python of graphs, which a graph that is lazy makes
    when it is called.
    """
    import torch._dynamo.config as settings
    from torch.fx import _lazy_graph_module as graphs
    from torch.fx import config

    lines = "do_not_emit_stack_traces"
    before = getattr(config, lines, None)
    with settings.patch(fake_tensor_cache_enabled=False), graphs._use_lazy_graph_module(True):
        if before is not None:  # PyTorch 2.13 has it
            setattr(config, lines, True)
        try:
            yield
        finally:
            if before is not None:
                setattr(config, lines, before)


@contextmanager
def hushed() -> Iterator[None]:
    """Keep back what PyTorch prints before it raises: the refusal is told in one sentence instead.

    It prints to the process's stderr, where nothing turns it off, and logs an error for what a kernel refuses on
    tensors without values. A trace of `torch.vmap` prints of each operation that it has no form of, past Python.
    """
    disabled = logging.root.manager.disable
    vmap: Any = torch._C._functorch
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        vmap._set_vmap_fallback_warning_enabled(False)
        try:
            yield
        finally:
            logging.disable(disabled)
            vmap._set_vmap_fallback_warning_enabled(True)


_KEPT = "2.13"  # operations that PyTorch can keep whole stay so, whatever forms in Python they have
_COLLECT = "_collect_all_valid_cia_ops"


@cache
def _collected(collect: Callable[[], set[OpOverload]]) -> frozenset[OpOverload]:
    """PyTorch's own composite operations: finding them takes a tenth of a trace, and they stay the same."""
    return frozenset(op for op in collect() if op.namespace == "aten")


@contextmanager
def composites(targets: Iterable[Any], is_known: Callable[[str], bool]) -> Iterator[None]:
    """Decompose a program of these targets in less time: PyTorch prepares 500 composite operations each time.

    Here it prepares those that the program has or that are known by name; another one that comes up on the way is
    written in its parts at once. A program with operations of other libraries is decomposed as ever. Losses of a
    variable number of values have the shape that PyTorch itself gives them, not that of its forms in Python.
    """
    from torch._decomp import decomposition_table
    from torch.export import exported_program

    own = {target for target in targets if isinstance(target, OpOverload)}
    collect = getattr(exported_program, _COLLECT, None)
    if collect is not None and all(target.namespace == "aten" for target in own):
        few = {op for op in _collected(collect) if op in own or is_known(str(op))}
        setattr(exported_program, _COLLECT, lambda: few)
    misread = {op: decomposition_table.pop(op) for op in list(decomposition_table) if str(op) in MISREAD}
    try:
        yield
    finally:
        decomposition_table.update(misread)
        if collect is not None:
            setattr(exported_program, _COLLECT, collect)


def stays(target: Any) -> bool:
    """Whether decomposing a program leaves this operation as it is: it writes nothing in place, and is no composite or
    one that PyTorch can keep and has not written in Python too, which it keeps since `_KEPT`.
    """
    if not isinstance(target, OpOverload) or target.namespace != "aten" or target._schema.is_mutable:
        return False
    if torch.__version__ >= _KEPT and can_stay(target):
        return True
    if torch._C.DispatchKey.Autograd in target.py_kernels:
        return False
    if not target.has_kernel_for_dispatch_key(COMPOSITE):
        return True
    return can_stay(target) and COMPOSITE not in target.py_kernels


def can_stay(target: OpOverload) -> bool:
    """Whether this composite operation is one of those that PyTorch can keep whole."""
    from torch.export import exported_program

    collect = getattr(exported_program, _COLLECT, None)
    return collect is not None and target in _collected(collect)


def traced(call: Callable[..., Any], values: Sequence[Any]) -> fx.Graph:
    """What is called of tensors without values and of sizes that are symbols.

    Composite operations are written as an export writes them: by their forms in Python where PyTorch has these.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad(), enable_python_dispatcher():
        return make_fx(call)(*values).graph


def tell_values(tensor: torch.Tensor, values: Sequence[int]) -> None:
    """Let a tensor without values know them, as PyTorch does for one of `torch.tensor`; writing forgets them."""
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    if not isinstance(tensor, FakeTensor):
        return
    with unset_fake_temporarily(), disable_proxy_modes_tracing():
        tensor.constant = torch.tensor(values, dtype=tensor.dtype)
    tensor.fake_mode.fake_tensor_converter.add_constant_storage_mapping(tensor)


def without_guards(program: Any) -> Any:
    """The program, which is not to check its sizes while it is rewritten.

    PyTorch 2.9 writes the check in names that it does not define where a program takes any number of arguments.
    """
    whole = type(program).module
    if "check_guards" in signature(whole).parameters:
        program.module = partial(whole, program, check_guards=False)
    return program


def transform_level() -> int:
    """How many transforms of `torch.func` are at work, one within the other."""
    level = torch._C._functorch.maybe_current_level()
    return 0 if level is None else int(level)


@contextmanager
def modes_suspended() -> Iterator[None]:
    """Where nothing of the caller's sees what is called: no mode that counts operations or watches functions, no hooks
    on what is kept for a backward pass (which also rule out `torch.func`).

    The default device is such a mode too, and stays: what a model makes in its forward pass lies there.
    """
    functions = [overrides._pop_mode() for _ in range(overrides._len_torch_function_stack())]
    devices = [mode for mode in functions if isinstance(mode, DeviceContext)]
    hooks = list(_saved_tensors_hooks())
    try:
        for mode in reversed(devices):
            overrides._push_mode(mode)
        with _disable_current_modes() if _len_torch_dispatch_stack() else nullcontext():
            yield
    finally:
        for pair in reversed(hooks):
            torch._C._autograd._push_saved_tensors_default_hooks(*pair)
        for _ in devices:
            overrides._pop_mode()
        for mode in reversed(functions):
            overrides._push_mode(mode)


def _saved_tensors_hooks() -> Iterator[tuple[Callable[..., Any], Callable[..., Any]]]:
    """The hooks on what is kept for a backward pass, the last first, as they are taken away; from PyTorch 2.8 on."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    while top is not None and (pair := top(True)) is not None:
        torch._C._autograd._pop_saved_tensors_default_hooks()
        yield pair


@contextmanager
def without_fallback() -> Iterator[None]:
    """Have `torch.vmap` refuse operations that it knows no rule for: it would loop inside them and print a warning.

    Our own loop does neither.
    """
    vmap: Any = torch._C._functorch
    before = vmap._is_vmap_fallback_enabled()
    vmap._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        vmap._set_vmap_fallback_enabled(before)


def within_transform() -> bool:
    """Whether a transform of `torch.func` is at work (`vmap`, `grad`), in which tensors have no values to look at."""
    return bool(torch._C._are_functorch_transforms_active())
