"""From a user's model to a table, by `torch.export` in the user's own process."""

import operator
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from tracer.errors import ArchiveError, RecordError
from tracer.network.axes import Place, input_place, linear_size, place_rows
from tracer.network.copies import named_tensors, passing_copy, quiet
from tracer.network.graph import Draft, Reader
from tracer.network.network import Heard, Network
from tracer.network.objective import Objective, call_model, is_reducible, objective_of
from tracer.network.parts import in_parts, is_region
from tracer.network.program import Program
from tracer.network.pytree import examples_in, first_tensor, leaves_of, rebuild, take
from tracer.network.structure import find_calls, find_layers, find_sites, site_names, zero_constants
from tracer.network.table import Row
from tracer.network.torch_internals import composites, hushed, lean, masks_answered, without_guards
from tracer.network.value_checks import unchecked
from tracer.ops import OPS, alias, kernels
from tracer.ops.decompositions import decompositions, is_primitive

_FEW = 3  # examples in a trace with a variable number of them
_MANY = 1 << 31  # more examples than go through at once
INSTEAD = (
    "; replace control flow that depends on values there by torch.where, or let the model itself be probed"
)
# What torch says, by a piece of it, where its words do not say what of the user's code it is.
_MEANINGS = {
    "fake tensor in the exported program constant": "a derivative is taken in it (torch.autograd.grad), or a tensor's "
    "`data`, for which detach() can be traced",
    "'Tensor' object has no attribute 'constant'": "a derivative is taken in it (torch.func)",
}


class _Together(nn.Module):
    """Model and objective in one module, taking flat tensors."""

    def __init__(self, model: nn.Module, objective: Any, inputs: Any, targets: Any) -> None:
        super().__init__()
        self.model = model
        self._rest = (objective, inputs, targets)

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        objective, inputs, targets = self._rest
        leaf = iter(leaves)
        inputs, targets = rebuild(inputs, leaf), rebuild(targets, leaf)
        before = [(module, dict(module.__dict__)) for module in self.model.modules()]
        try:
            with unchecked():
                if objective is None:
                    return (_recorded(call_model(self.model, inputs)),)
                outputs, losses, correct = objective(self.model, inputs, targets)
        finally:
            # Tensors that a forward pass caches in attributes (weight norm does) would be refused by export.
            for module, attributes in before:
                module.__dict__.clear()
                module.__dict__.update(attributes)
        return (_recorded(outputs), losses, *(() if correct is None else (correct,)))


class _Examples:
    """The user's inputs and targets, of which any number of examples can be had."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self._trees = (inputs, targets)
        self._n = n = examples_in(inputs)
        self.batched = [[leaf.ndim > 0 and leaf.shape[0] == n for leaf in leaves_of(t)] for t in self._trees]
        if n == 0:
            raise RecordError("inputs must hold at least one example along their first axis, got none")

    def first(self, size: int) -> tuple[Any, Any]:
        """The first `size` examples, repeated from the start where there are fewer."""
        index = torch.arange(size) % self._n
        return take(self._trees[0], index, self._n), take(self._trees[1], index, self._n)


def trace(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    loss: Any = None,
    *,
    objective: Objective | None = None,
    chunk: int = 64,
) -> Network:
    """The network of a model in eval mode and its loss; the model itself is only read.

    inputs: a tensor, or a tuple (positional) or dict (keyword arguments) of tensors, examples first; a
    few examples are enough. targets: what the loss wants. loss: as in `tracer.network.objective.per_example`; or
    objective(model, inputs, targets) -> (outputs, losses). Neither: outputs only. chunk: number of
    examples traced for when the model refuses a variable one; `batch` then says so. RecordError, naming
    the user's line, where the model cannot be traced at all.
    """
    with quiet(model, loss, objective, grad=True), hushed(), lean(), passing_copy(model) as replica:
        examples = _Examples(inputs, targets)
        goal = None if loss is None and objective is None else objective_of(loss, objective)
        few, more = examples.first(_FEW), examples.first(_FEW + 2)
        try:
            if goal is not None and objective is None and not is_reducible(loss):
                # With values, by which it is known what one number for all examples is made of.
                goal(replica, *few)
            draft = _export(replica, goal, few, examples.batched)
            small, large = _sizes(draft, replica, few), _sizes(draft, replica, more)
        except (RecordError, ArchiveError):
            raise
        except Exception:  # torch.export raises whatever the model's code does on symbolic sizes
            return _fixed(replica, goal, examples, max(2, chunk))
        rows = _with_sizes(draft.rows, small, large, _FEW, _FEW + 2)
        return _network(draft, rows, replica, few, examples.batched, None)


def _fixed(model: nn.Module, goal: Any, examples: _Examples, chunk: int) -> Network:
    """A table for exactly `chunk` examples; a second, larger one shows where the examples lie."""
    few = examples.first(chunk)
    try:
        draft = _export(model, goal, few)
        sizes = _sizes(draft, model, few)
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(_refused(model, error)) from error
    rows = _with_sizes(draft.rows, sizes, sizes, chunk, chunk + 1)
    for larger in (chunk + 1, 2 * chunk):
        more = examples.first(larger)
        try:
            other = _export(model, goal, more)
        except Exception:
            continue
        if [row.op for row in other.rows] == [row.op for row in draft.rows]:
            rows = _with_sizes(draft.rows, sizes, _sizes(other, model, more), chunk, larger)
            break
    return _network(draft, rows, model, few, examples.batched, chunk)


def _export(
    model: nn.Module,
    goal: Any,
    trees: tuple[Any, Any],
    batched: Sequence[Sequence[bool]] | None = None,
) -> Draft:
    """One export; batched: which tensors hold a variable number of examples (None: all sizes are fixed)."""
    inputs, targets = trees
    arguments = [inputs] if goal is None else [inputs, targets]
    shapes = None
    if batched is not None:
        # Up to 2.8 PyTorch asks of a recurrent layer whether there are 2**63 - 1 examples, if nothing rules it out.
        batch = torch.export.Dim("batch", max=_MANY)
        flags = [flag for part in batched[: len(arguments)] for flag in part]
        shapes = (tuple({0: batch} if flag else None for flag in flags),)
    leaves = leaves_of(arguments)
    together = _Together(model, goal, inputs, targets)
    together.__dict__["training"] = False
    with masks_answered(model, lambda: together(*leaves)):
        program = torch.export.export(together, tuple(leaves), dynamic_shapes=shapes, strict=False)
    _detach_no_grad(program.graph_module)
    written = in_parts(program.graph)
    if written is None:
        program = _decomposed(_rewritten(program, {}))
    else:
        program.graph_module.graph = written
    return Reader(program, model, len(leaves_of(inputs))).draft()


def _decomposed(program: Any) -> Any:
    """The program with what has no record written in operations that have one, as far as PyTorch knows how.

    Each operation once: a step that fails, or ends in primitives that no table holds, is not taken. All that are
    there go together, which is one export again instead of one each; where that fails, one at a time.
    """
    tried: set[Any] = set()
    while steps := {at: how for at, how in decompositions(_targets(program)).items() if at not in tried}:
        written = _step(program, steps)
        if written is None and len(steps) > 1:
            steps = dict([next(iter(steps.items()))])
            written = _step(program, steps)
        tried |= steps.keys()
        program = written or program
    return program


def _step(program: Any, steps: dict[Any, Any]) -> Any:
    """The program with these operations written in others; None where that fails or ends in primitives."""
    try:
        written = _rewritten(program, steps)
    except Exception:  # whatever PyTorch's own forms raise on symbolic sizes
        return None
    return None if any(is_primitive(at) for at in _targets(written)) else written


def _rewritten(program: Any, steps: dict[Any, Any]) -> Any:
    """The program without writing in place, and with these operations written in others."""
    with composites([*_targets(program), *steps], lambda name: alias(name) in OPS):
        return without_guards(program).run_decompositions(steps)


def _targets(program: Any) -> list[Any]:
    """What is called, in regions of their own too (where gradients are off)."""
    inside = [part for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    return [node.target for part in inside for node in part.graph.nodes if node.op == "call_function"]


def _detach_no_grad(module: fx.GraphModule) -> None:
    """Put a `detach` behind what leaves a `no_grad` region: decomposing dissolves the region."""
    for inside in module.children():
        if isinstance(inside, fx.GraphModule):
            _detach_no_grad(inside)
    for node in list(module.graph.nodes):
        if not is_region(node) or node.args[0] is not False:
            continue
        for value in list(node.users):
            if value.target is not operator.getitem:
                continue
            with module.graph.inserting_after(value):
                cut = module.graph.call_function(kernels.detach, (value,))
            cut.meta = dict(value.meta)
            value.replace_all_uses_with(cut, delete_user_cb=lambda user, cut=cut: user is not cut)
    module.recompile()


def _recorded(outputs: Any) -> Tensor:
    first = first_tensor(outputs)
    if first is None:
        raise RecordError("the model's output holds no floating-point tensor, so there is nothing to record")
    return first


def _sizes(draft: Draft, model: nn.Module, trees: tuple[Any, Any]) -> list[Any]:
    """(size, dtype) of every row's output on real examples; None where it is no tensor."""
    leaves: dict[tuple[str, Any], Any] = {
        ("constant", name): value for name, value in draft.constants.items()
    }
    for kind, tree in zip(("input", "target"), trees, strict=True):
        leaves |= {(kind, index): leaf for index, leaf in enumerate(leaves_of(tree))}
    leaves |= {("tensor", name): tensor for name, tensor in named_tensors(model).items()}
    device = leaves["input", 0].device
    program = Program(draft.rows, range(len(draft.rows)), device)
    values = program.start(leaves)
    sizes: list[Any] = []
    with torch.no_grad():
        for call, arguments, slot, dead, _ in program.steps:
            out = values[slot] = call(*arguments(values))
            sizes.append(
                (tuple(out.shape), str(out.dtype).removeprefix("torch.")) if isinstance(out, Tensor) else None
            )
            for used in dead:
                values[used] = None
    return sizes


def _with_sizes(rows: Sequence[Row], small: list[Any], large: list[Any], n: int, larger: int) -> list[Row]:
    sized = []
    for row, a, b in zip(rows, small, large, strict=True):
        if a is not None and b is not None:
            row = replace(row, shape=linear_size(a[0], b[0], n, larger), dtype=a[1])
        sized.append(row)
    return sized


def _network(
    draft: Draft,
    rows: list[Row],
    model: nn.Module,
    arguments: tuple[Any, Any],
    batched: Sequence[Sequence[bool]],
    batch: int | None,
) -> Network:
    declared = [
        [_declared(leaf, flag) for leaf, flag in zip(leaves_of(tree), flags, strict=True)]
        for tree, flags in zip(arguments, batched, strict=True)
    ]
    places: dict[tuple[str, int], Place] = {
        (kind, index): input_place(entry["shape"])
        for kind, entries in zip(("input", "target"), declared, strict=True)
        for index, entry in enumerate(entries)
        if entry["batched"]
    }
    rows = place_rows(rows, places)
    parameters = dict(model.named_parameters())
    trainable = [name for name, tensor in parameters.items() if tensor.requires_grad]
    used = [name for name in draft.tensors if name in parameters]
    zeros = zero_constants(draft.constants)
    network = Network(
        rows,
        output=draft.results[0],
        losses=draft.results[1] if len(draft.results) > 1 else None,
        correct=draft.results[2] if len(draft.results) > 2 else None,
        inputs=declared[0],
        targets=declared[1] if len(draft.results) > 1 else [],
        constants=draft.constants,
        parameters=used,
        buffers=[name for name in draft.tensors if name not in parameters],
        sites=find_sites(rows, site_names(rows, _activation_modules(model), zeros), zeros),
        calls=find_calls(rows, frozenset(parameters)),
        layers=find_layers(rows, trainable),
        batch=batch,
    )
    _check_losses(network, model, arguments)
    return network


def _declared(leaf: Tensor, batched: bool) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype).removeprefix("torch."), "batched": batched}


def _activation_modules(model: nn.Module) -> frozenset[str]:
    """Paths of PyTorch's own nonlinearity modules; everything else that is called is a functional call."""
    home = nn.ReLU.__module__
    return frozenset(
        name
        for name, module in model.named_modules()
        if name and type(module).__module__ == home and not isinstance(module, nn.MultiheadAttention)
    )


def _check_losses(network: Network, model: nn.Module, arguments: tuple[Any, Any]) -> None:
    n = examples_in(arguments[0])
    if network.losses is None:
        return
    with torch.no_grad():
        _, losses = network.run(named_tensors(model), *arguments)
    if losses is None or losses.shape != (n,):
        shape = None if losses is None else tuple(losses.shape)
        raise RecordError(f"the objective must give one loss per example: expected shape ({n},), got {shape}")
    if network.correct is not None:
        check_correct(network, model, arguments, n)


def check_correct(network: Any, model: nn.Module, arguments: tuple[Any, Any], n: int) -> None:
    """RecordError where an objective's `correct` is not one number for each example."""
    heard = Heard(network)
    with torch.no_grad():
        network.run(named_tensors(model), *arguments, visit=heard)
    if heard.value is None or heard.value.shape != (n,):
        shape = None if heard.value is None else tuple(heard.value.shape)
        raise RecordError(
            f"the objective's correct must be one number for each example: expected shape ({n},), got {shape}"
        )


def _refused(model: nn.Module, error: Exception) -> str:
    """One sentence naming the user's own line where tracing stopped."""
    here = str(Path(__file__).parent)
    library = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((here, library, "<"))]
    where = f" past {own[-1].filename}:{own[-1].lineno} ({own[-1].line})" if own else ""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    for words, meaning in _MEANINGS.items():
        reason = meaning if words in reason else reason
    return f"torch.export cannot trace {type(model).__name__}{where}: {reason}{INSTEAD}"
