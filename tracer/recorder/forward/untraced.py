"""A model that cannot be traced, in a network's place: a private copy of it is run, and watched as it runs.

Control flow that depends on values, operations a table cannot hold and generators of the model's own have no
row in a table. A private copy in eval mode has all of them. Hooks tell which module runs and a mode over
PyTorch's functions shows its nonlinearities and its Linear and Conv calls, under the names that a table would
give them. What a model decides by the values of a whole batch belongs to no example of it: such a model sees
one example at a time.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tracer.errors import RecordError, first_line
from tracer.network import Visit, tracing
from tracer.network.axes import linear_size
from tracer.network.copies import named_tensors, private_copy, quiet
from tracer.network.independence import Independence, independence, mixes
from tracer.network.objective import Objective, objective_of
from tracer.network.pytree import cloned, examples_in, leaves_of, take
from tracer.network.randomness import comparable, generators_of, set_state, state_of
from tracer.network.structure import find_layers, find_sites
from tracer.network.table import Call, Row, per_example
from tracer.network.torch_internals import within_transform
from tracer.recorder.forward import observer
from tracer.recorder.forward.discovery import Discovery, Functions, Key, Watching

_FEW, _MORE = 3, 5  # two numbers of examples: what changes with them are examples
_MOST = 64  # examples in a chunk
_ALONE = (
    "The model decides by values, so it is shown one example at a time, and it does not take one alone: where it takes "
    "off axes of size 1, as x.squeeze() does, name the axis, as in x.squeeze(-1) ({})."
)
JUDGING = "correct"  # the row of what an objective says


class EagerNetwork:
    """Runs a private copy of a model as a `Network` runs its table, for one recording and for probing only.

    rows: the sites and calls met, and one for each parameter where it was first used. reason: why there is no
    table. batch: 1 where examples are seen one by one, else None. Everything else as in `Network`.
    RecordError where the loss gives no value per example.
    """

    foreign: Sequence[str] = ()
    correct: tuple[str, int] | None = None

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss: Any = None,
        *,
        objective: Objective | None = None,
        reason: str,
    ) -> None:
        self.reason = reason.partition(tracing.INSTEAD)[0]
        self._goal = objective_of(loss, objective)
        self.output, self.losses = ("eager", 0), ("eager", 1)
        self.batch: int | None = None
        self.mixing: str | None = None  # path of a module that normalises over the batch
        self.random_rows: list[Row] = []
        self._unknown: set[str] = set()
        self._told: set[str] = set()
        self._keys: dict[Key, int] = {}
        self.rows: list[Row] = []
        self._found: dict[Key, tuple[Row, Any]] = {}
        self._first_used: dict[str, None] = {}
        self.refresh(model)
        examples = tracing._Examples(inputs, targets)
        self.inputs, self.targets = (
            [_declared(leaf, flag) for leaf, flag in zip(leaves_of(tree), flags, strict=True)]
            for tree, flags in zip((inputs, targets), examples.batched, strict=True)
        )
        self._look(examples, inputs, targets)
        self._index()

    def refresh(self, model: nn.Module) -> None:
        """Take a new private copy: attributes that `forward` reads may have changed since the last."""
        self._replica = private_copy(model)
        self._path = [""]
        for name, module in self._replica.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            for kind in ("_forward_pre_hooks", "_forward_hooks"):
                setattr(
                    module, kind, OrderedDict(getattr(module, kind))
                )  # handles need weak references to it
            module.register_forward_pre_hook(observer._entering(self._path, name), prepend=True)
            module.register_forward_hook(observer._leaving(self._path, name))
        self._own = named_tensors(self._replica)
        self._generators = generators_of(self._replica, self._goal)
        self._states = [state_of(generator) for generator in self._generators]
        self.activations = tracing._activation_modules(self._replica)
        self.names = {id(parameter): name for name, parameter in self._replica.named_parameters()}

    @property
    def note(self) -> str:
        """What to tell the user."""
        how = "" if self.batch is None else "one example at a time, "
        return (
            f"a private copy of the model itself is probed, {how}which is slower, since {self.reason}; "
            "metrics that replay the network will need a model that can be traced, by `--model`"
        )

    def chunk(self, memory: int) -> int:
        """Examples that may go through together: the gradients of all parameters of each are held at once."""
        one = 4 * sum(parameter.numel() for parameter in self._replica.parameters())
        return max(1, min(_MOST, memory // (8 * max(one, 1))))

    @property
    def excluded(self) -> dict[str, str]:
        """Every trainable parameter, as one whose gradients no rule gives."""
        return {name: "there is no table" for layer in self.layers for name in layer.parameters}

    # Setting up.

    def _look(self, examples: Any, inputs: Any, targets: Any) -> None:
        """Run a few examples together, and find out whether they may be, and where each one lies."""
        few, more = Discovery(self), Discovery(self)
        inputs_few, targets_few = examples.first(_FEW)
        self._pass(few, inputs_few, targets_few, _FEW)
        if few.drawing is not None:
            self.random_rows = [Row("random", "a random stream", [], {}, few.drawing)]
        self.mixing = few.mixing
        if few.alone:
            self.batch = 1
            self._look_at_each(inputs, targets)
            return
        inputs, targets = examples.first(_MORE)
        self._pass(more, inputs, targets, _MORE)
        self._found = {
            key: (row, _placed(size, more.found[key][1] if key in more.found else None))
            for key, (row, size) in few.found.items()
        }
        self._first_used = few.first_used

    def _look_at_each(self, inputs: Any, targets: Any) -> None:
        n, order = examples_in(inputs), list[Key]()
        for i in range(n):
            one = Discovery(self)
            example = [take(tree, torch.tensor([i]), n) for tree in (inputs, targets)]
            try:
                self._pass(one, example[0], example[1], 1)
            except Exception as error:
                raise RecordError(_ALONE.format(first_line(error))) from error
            at = 0
            for key, (row, size) in one.found.items():
                if key in self._found:
                    at = order.index(key) + 1
                    continue
                order.insert(at, key)
                at += 1
                self._found[key] = row, _alone(size)
            self._first_used |= one.first_used
        self._found = {key: self._found[key] for key in order}

    def _pass(self, mode: Discovery, inputs: Any, targets: Any, n: int) -> None:
        _, losses, *correct = self._through({}, inputs, targets, mode)
        if not isinstance(losses, Tensor) or losses.shape != (n,):
            shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise RecordError(
                f"the objective must give one loss per example: expected shape ({n},), got {shape}"
            )
        self._says = bool(correct)

    def _index(self) -> None:
        sites: dict[int, str] = {}
        self.calls: list[Call] = []
        for key, (row, place) in self._found.items():
            kind, base, k = key
            shape, axis, inner = place
            name = base if k == 1 else f"{base}#{k}"
            row = replace(row, name=f"{kind} {name}", shape=shape, axis=axis, inner=inner)
            index = self._keys[key] = len(self.rows)
            self.rows.append(row)
            if kind == "site":
                sites[index] = name
            else:
                self.calls.append(Call(name, index, row.op, row.module, per_example(row) or ()))
        self._site_names = sites
        self.sites = find_sites(self.rows, sites, frozenset())
        uses = [Row(f"use of {name}", "", [{"tensor": name}], {}, "") for name in self._first_used]
        trainable = [name for name, p in self._replica.named_parameters() if p.requires_grad]
        self.layers = find_layers(uses, trainable)
        self.rows += uses
        if self._says:
            self.correct = ("eager", len(self.rows))
            self.rows.append(Row(JUDGING, "what the objective calls correct", [], {}, ""))
        self.rows.append(Row("forward", "the computation", [], {}, ""))

    def examine(self, tensors: Mapping[str, Tensor], inputs: Any, targets: Any) -> Independence:
        """Whether each example's outputs and loss depend on it alone."""
        if self.mixing is not None:
            return Independence(False, mixes(f"module {self.mixing!r}", "batch_norm", True), self.mixing)
        if self.batch is not None and not self.random_rows:
            return Independence(True, "examples are seen one by one")
        result = independence(self, tensors, inputs, targets)  # type: ignore[arg-type]
        # Where examples are merged with another axis, both orders are tried before the place is unknown.
        return independence(self, tensors, inputs, targets) if result.wrong_axes else result  # type: ignore[arg-type]

    def forget_axes(self, names: Sequence[str]) -> None:
        """Look for the examples of these rows elsewhere; at last, say that their place is unknown."""
        wrong = set(names)
        self.rows = [_elsewhere(row) if row.name in wrong else row for row in self.rows]
        self.sites = find_sites(self.rows, self._site_names, frozenset())

    # Running.

    def run(
        self, tensors: Mapping[str, Tensor], inputs: Any, targets: Any = None, *, visit: Visit | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs and losses (n,) with these weights; visit(row, (pre-activation,), out) sees sites and
        calls.

        Gradients flow to those of `tensors` that want them, and to nothing else.
        """
        mode = None if visit is None else Watching(self, visit, examples_in(inputs))
        differentiable = {
            f"model.{name}": tensor.clone()  # a forward pass that writes into it must not reach the user's
            for name, tensor in tensors.items()
            if tensor.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        }
        if not within_transform():
            with torch.inference_mode(False), torch.no_grad():
                for name, own in self._own.items():
                    if f"model.{name}" not in differentiable:
                        own.copy_(tensors[name])
        outputs, losses, *correct = self._through(differentiable, inputs, targets, mode)
        if visit is not None and correct and self.correct is not None:
            visit(self.rows[self.correct[1]], (), correct[0])
        if mode is not None:
            self._unknown |= mode.unknown
        return (outputs, losses) if differentiable else (outputs.detach(), losses.detach())

    @property
    def run_rows(self) -> list[Row]:
        """All rows: none is left out of a run."""
        return self.rows

    @property
    def judging_row(self) -> str | None:
        """Name of the row that gives what the objective calls correct."""
        return None if self.correct is None else JUDGING

    def take_unknown(self) -> list[str]:
        """Names of sites and calls that the first look did not show; those told before are left out."""
        unknown = sorted(self._unknown - self._told)
        self._told |= self._unknown
        return unknown

    def _through(
        self,
        swapped: dict[str, Tensor],
        inputs: Any,
        targets: Any,
        mode: "Functions | None",
    ) -> tuple[Tensor, ...]:
        together = tracing._Together(self._replica, self._goal, inputs, targets)
        leaves = tuple(leaves_of(cloned([inputs, targets])))
        del self._path[1:]
        with quiet(*self._generators, grad=True):
            for generator, state in zip(self._generators, self._states, strict=True):
                set_state(generator, state)
            with nullcontext() if mode is None else mode:
                returned = functional_call(together, swapped, leaves)
            if isinstance(mode, Discovery):
                states = [state_of(generator) for generator in self._generators]
                mode.alone |= comparable(states) != comparable(self._states)
            return returned

    @property
    def path(self) -> str | None:
        """Path of the module that is running, None outside of the model."""
        return self._path[-1] if len(self._path) > 1 else None

    def row_of(self, key: Key) -> Row | None:
        """The row of a site or call, None for one that the first look did not show."""
        return self.rows[self._keys[key]] if key in self._keys else None


def _placed(small: tuple[int, ...], large: tuple[int, ...] | None) -> tuple[Any, int | None, int]:
    """Shape, example axis and elements after it within that axis; verified by the independence check."""
    size = None if large is None else linear_size(small, large, _FEW, _MORE)
    axes = [] if size is None else [axis for axis, d in enumerate(size) if not isinstance(d, int)]
    if size is None or len(axes) != 1:
        return None, None, 1
    factor, rest = size[axes[0]]  # type: ignore[misc]
    return (size, axes[0], factor) if rest == 0 else (size, None, 1)


def _elsewhere(row: Row) -> Row:
    return row.without_axis() if row.inner == 1 else replace(row, inner=1)


def _alone(size: tuple[int, ...]) -> tuple[Any, int | None, int]:
    """The same for one example at a time, to which everything belongs."""
    return (((size[0], 0), *size[1:]), 0, 1) if size else (None, None, 1)


def _declared(leaf: Tensor, batched: bool) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype).removeprefix("torch."), "batched": batched}
