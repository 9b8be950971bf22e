"""The graph of an exported program, read into rows."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from tracer import ops
from tracer.errors import RecordError
from tracer.network.table import Row, encode

# Sizes that are symbols have a largest and a smallest of their own.
_SYMBOLIC = {max: torch.sym_max, min: torch.sym_min}
PYTHON = {
    _SYMBOLIC.get(record.python, record.python): record.name
    for record in ops.OPS.values()
    if record.python is not None
}


@dataclass
class Draft:
    """What one export gave, before sizes, axes and structure are known."""

    rows: list[Row]
    results: list[tuple[str, Any]]
    tensors: list[str]
    constants: dict[str, Tensor]


class Reader:
    """Reads the graph of an exported program into rows."""

    def __init__(self, program: Any, model: nn.Module, n_inputs: int) -> None:
        self._program = program
        self._rows: list[Row] = []
        self._references: dict[str, Any] = {}
        self._constants: dict[str, Tensor] = {}
        self._tensors: dict[str, None] = {}
        self._n_inputs = n_inputs
        self._counts: Counter[str] = Counter()
        self._before_output: set[fx.Node] = set()
        first_name: dict[int, str] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            first_name.setdefault(id(module), name)
        self._paths = {
            name: first_name[id(module)] for name, module in model.named_modules(remove_duplicate=False)
        }
        self._first_tensor: dict[int, str] = {}
        self._canonical: dict[str, str] = {}
        for name, tensor in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]:
            self._canonical[name] = self._first_tensor.setdefault(id(tensor), name)

    def draft(self) -> Draft:
        """The rows that the outputs depend on; assertions and whatever else nobody needs are not read."""
        self._read_inputs()
        outputs = self._user_outputs()
        wanted = needed(outputs)
        self._before_output = needed(outputs[:1])
        for node in self._program.graph.nodes:
            if node.op == "call_function" and node in wanted:
                self._read(node)
        results = [next(iter(self._argument(value).items())) for value in outputs]
        used = {pair for row in self._rows for pair in row.references()} | set(results)
        constants = {name: value for name, value in self._constants.items() if ("constant", name) in used}
        return Draft(self._rows, results, list(self._tensors), constants)

    def _user_outputs(self) -> list[Any]:
        # The outputs that update buffers come first in the graph; they are not for us.
        kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
        (values,) = next(node.args for node in self._program.graph.nodes if node.op == "output")
        return [value for value, kind in zip(values, kinds, strict=True) if kind == OutputKind.USER_OUTPUT]

    def _read_inputs(self) -> None:
        users = 0
        for spec in self._program.graph_signature.input_specs:
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                name = self._canonical[spec.target.removeprefix("model.")]
                self._references[spec.arg.name] = {"tensor": name}
            elif spec.kind == InputKind.CONSTANT_TENSOR:
                name = f"c{len(self._constants)}"
                self._constants[name] = self._program.constants[spec.target].detach().clone()
                self._references[spec.arg.name] = {"constant": name}
            elif spec.kind == InputKind.USER_INPUT:
                kind, index = (
                    ("input", users) if users < self._n_inputs else ("target", users - self._n_inputs)
                )
                if hasattr(spec.arg, "name"):
                    self._references[spec.arg.name] = {kind: index}
                users += 1
            elif spec.kind != InputKind.TOKEN:  # that of a check whose result nobody needs
                raise RecordError(
                    f"the model uses an object that is no tensor ({spec.target}), which no table can hold"
                )

    def _read(self, node: fx.Node) -> None:
        op = self._op(node)
        path, loss = self._module(node)
        try:
            args = [self._argument(value) for value in node.args]
            kwargs = {name: self._argument(value) for name, value in node.kwargs.items()}
        except TypeError as error:
            raise RecordError(
                f"operation {op} in module {path!r} has {error}, which no table can hold"
            ) from None
        kwargs.pop("pin_memory", None)
        if ops.short(op) == ops.short(ops.SQUEEZE):
            op, args = ops.SQUEEZE, [args[0], _squeezed(*node.args)]
        if op == ops.SIZE and "target" in args[0]:
            # The number of examples: read off the inputs, so that the model part runs without targets.
            args = [{"input": self._batched_input()}, 0]
        self._references[node.name] = {"row": len(self._rows)}
        self._rows.append(Row(self._name(op), op, args, kwargs, path, loss))

    def _name(self, op: str) -> str:
        """`relu`, `relu_1`, ...: the graph's own names change from one trace to the next."""
        base = ops.short(op)
        self._counts[base] += 1
        return base if self._counts[base] == 1 else f"{base}_{self._counts[base] - 1}"

    def _op(self, node: fx.Node) -> str:
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload):
            return ops.alias(str(target))
        if target in PYTHON:
            return PYTHON[target]
        raise RecordError(
            f"module {self._module(node)[0]!r} uses {getattr(target, '__name__', target)}, "
            "which no table can hold: let the model itself be probed"
        )

    def _module(self, node: fx.Node) -> tuple[str, bool]:
        """Path of the innermost module, and whether the row belongs to the loss: outside of the model, unless the
        outputs depend on it, as where an objective calls methods of the model other than forward.
        """
        stack = node.meta.get("nn_module_stack") or {}
        paths = [str(path) for path, _ in stack.values()]
        inside = [path for path in paths if path == "model" or path.startswith("model.")]
        if not inside:
            return "", bool(paths) and paths[-1] == "" and node not in self._before_output
        path = inside[-1].removeprefix("model").removeprefix(".").partition("@")[0]
        return self._paths.get(path, path), False

    def _batched_input(self) -> int:
        values = {
            node.name: node.meta.get("val") for node in self._program.graph.nodes if node.op == "placeholder"
        }
        for name, reference in self._references.items():
            if "input" in reference and _batched(values[name]):
                return reference["input"]
        return 0

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            reference = self._references[value.name]
            if "tensor" in reference:
                self._tensors[reference["tensor"]] = None
            return reference
        if isinstance(value, list | tuple):
            return [self._argument(item) for item in value]
        return encode(value)


def needed(outputs: list[Any]) -> set[fx.Node]:
    """The nodes that some depend on, and these."""
    wanted: set[fx.Node] = set()
    waiting = [node for node in outputs if isinstance(node, fx.Node)]
    while waiting:
        node = waiting.pop()
        if node not in wanted:
            wanted.add(node)
            waiting += node.all_input_nodes
    return wanted


def _squeezed(node: Any, asked: Any = None) -> list[int]:
    """The axes that are left out: never the one of the examples, of which there may be one at another time."""
    sizes = node.meta["val"].shape
    axes = range(len(sizes)) if asked is None else [asked] if isinstance(asked, int) else asked
    return [axis for axis in axes if sizes and isinstance(sizes[axis], int) and sizes[axis] == 1]


def _batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and not isinstance(value.shape[0], int)
