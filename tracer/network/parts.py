"""Operations of a program written in their parts one at a time: what is around them needs no second trace."""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from tracer.network.graph import PYTHON, needed
from tracer.network.torch_internals import can_stay, stays, traced
from tracer.ops import OPS, SIZE, alias, kernels
from tracer.ops.decompositions import COMPOSITE, NEW, decompositions


def is_plain(target: Any) -> bool:
    """Whether what is called has a record and would stay as it is if the program were traced again."""
    return target in PYTHON or (stays(target) and alias(str(target)) in OPS)


def in_parts(graph: fx.Graph) -> fx.Graph | None:
    """The graph with each operation that is not plain written in parts that are; None where one has no such parts.

    Writing in place is one of these where nothing but its result can tell the difference. Regions without gradients
    are dissolved: what leaves them is detached already.
    """
    return _Writing(_dissolved(graph)).written()


def is_region(node: fx.Node) -> bool:
    """Whether a node is a region of the program in which gradients are off, or on."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "wrap_with_set_grad_enabled"


def _dissolved(graph: fx.Graph) -> fx.Graph:
    """The graph with the nodes of its regions in their places."""
    if not any(map(is_region, graph.nodes)):
        return graph
    owner: Any = graph.owning_module
    flat, at = fx.Graph(), dict[fx.Node, Any]()
    for node in graph.nodes:
        if is_region(node):
            inside = _dissolved(owner.get_submodule(node.args[1].target).graph)
            taken = iter(node.args[2:])
            given = {inner: at[next(taken)] for inner in inside.nodes if inner.op == "placeholder"}
            at[node] = flat.graph_copy(inside, given)
        elif (one := _one_of(node, at)) is not None:
            at[node] = one
        elif node.op != "get_attr":
            at[node] = flat.node_copy(node, at.__getitem__)
    return flat


def _one_of(node: fx.Node, at: dict[fx.Node, Any]) -> Any:
    """What a node takes out of the several values that parts gave as they are; None where it takes out none."""
    source = at.get(node.args[0]) if node.target is operator.getitem else None  # type: ignore[arg-type]
    return source[node.args[1]] if isinstance(source, list | tuple) else None  # type: ignore[index]


class _Writing:
    def __init__(self, graph: fx.Graph) -> None:
        self._old, self._new = graph, fx.Graph()
        self._order = {node: number for number, node in enumerate(graph.nodes)}
        self._now: dict[fx.Node, Any] = {}  # what stands for a node of the old graph
        self._place: dict[fx.Node, fx.Node] = {}  # for a node that wrote in place: where
        self._sizes: dict[str, fx.Node] = {}

    def written(self) -> fx.Graph | None:
        inputs = [node for node in self._old.nodes if node.op == "placeholder"]
        for node in inputs:
            self._now[node] = self._new.node_copy(node)
        for node in inputs:
            self._measure(self._now[node])
        wanted = needed([node for node in self._old.nodes if node.op == "output" or _writes(node)])
        for node in self._old.nodes:
            if node.op == "placeholder" or (node.op == "call_function" and node not in wanted):
                continue
            if node.op != "call_function" or is_plain(node.target):
                self._now[node] = self._copied(node)
                continue
            result = self._result(node)
            if result is None:
                return None
            names = self._names(node) if _writes(node) else [node]
            self._now.update(dict.fromkeys(names, result))
        return self._new

    def _copied(self, node: fx.Node) -> Any:
        one = _one_of(node, self._now)
        if one is not None:
            return one
        return self._once(self._new.node_copy(node, self._now.__getitem__))

    def _measure(self, node: fx.Node) -> None:
        """Ask for the sizes of an input that are symbols: as in a trace they stand first, whoever needs them."""
        value = node.meta.get("val")
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt):
                asked = self._new.call_function(kernels.size, (node, axis))
                asked.meta = {"val": size}
                self._once(asked)

    def _once(self, node: fx.Node) -> fx.Node:
        """The node; of a size, the first that gives it. The size of a tensor belongs to no module."""
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt):
            return node
        if _is_size(node):
            node.meta.pop("nn_module_stack", None)
        return self._sizes.setdefault(str(value.node.expr), node)

    def _multiple(self, node: fx.Node) -> fx.Node | None:
        """A size that is a multiple of one that is known, whichever way a part comes to it."""
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt):
            return None
        factor, size = value.node.expr.as_coeff_Mul()
        known = self._sizes.get(str(value.node.expr))
        if known is None and str(size) in self._sizes and factor.is_Integer:
            made = self._new.call_function(operator.mul, (self._sizes[str(size)], int(factor)))
            made.meta = {"val": value}
            known = self._once(made)
        return known

    def _result(self, node: fx.Node) -> Any:
        """What a node gives, written in its parts; None where these are not plain."""
        if _drops_nothing(node):
            return self._now[node.args[0]]  # type: ignore[index]
        target = self._target(node)
        if target is None:
            return None
        args, kwargs = map_arg((node.args, node.kwargs), self._now.__getitem__)
        taken: list[fx.Node] = []
        map_arg((args, kwargs), taken.append)
        how = decompositions([target]).get(target, target)

        def call(*values: Any) -> Any:
            at = dict(zip(taken, values, strict=True))
            arguments, options = map_arg((args, kwargs), at.__getitem__)
            return how(*arguments, **options)

        try:
            part = traced(call, [one.meta["val"] for one in taken])
        except Exception:  # whatever PyTorch's own forms raise on symbolic sizes
            return None
        if _writes(node) and _dtype(part.output_node().args[0]) != _dtype(node):
            return None  # a comparison, say, which written in place is no bool
        return self._inlined(part, taken, node)

    def _inlined(self, part: fx.Graph, taken: list[fx.Node], node: fx.Node) -> Any:
        at: dict[fx.Node, fx.Node] = {}
        values, wanted = iter(taken), needed([part.output_node()])
        for inner in part.nodes:
            if inner.op == "output":
                return map_arg(inner.args[0], at.__getitem__)
            if inner.op == "placeholder":
                at[inner] = next(values)
            elif inner not in wanted:
                continue
            elif (size := self._multiple(inner)) is not None:
                at[inner] = size
            elif inner.op != "call_function" or not is_plain(inner.target):
                return None
            else:
                copied = self._new.node_copy(inner, at.__getitem__)
                copied.meta = {**node.meta, "val": inner.meta.get("val")}
                at[inner] = self._once(copied)
        return None

    # ---- writing in place ----

    def _target(self, node: fx.Node) -> Any:
        """The operation of a node, or the one that does the same without writing in place."""
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload):
            return None
        if not _writes(node):
            # What has a record and PyTorch can keep whole it may keep, which only a trace of the whole tells.
            composite = target.has_kernel_for_dispatch_key(COMPOSITE)
            may_stay = can_stay(target) and alias(str(target)) in OPS
            return target if composite and not may_stay else None
        packet = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
        other = getattr(packet, target._overloadname, None)
        place = node.args[0]
        if other is None or other._schema.is_mutable or not isinstance(place, fx.Node):
            return None
        self._place[node] = place
        names = self._names(node)
        users = {user for name in names for user in name.users if self._order[user] < self._order[node]}
        seen = [node.meta.get("val"), *(one.meta.get("val") for one in node.all_input_nodes)]
        dtypes = {value.dtype for value in seen if isinstance(value, Tensor)}
        alone = all(map(_is_new, [names[-1], *users.difference(names)]))
        return other if alone and len(dtypes) == 1 else None

    def _names(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that are one memory, as far as it was written in place, the one that made it last."""
        names = [node]
        while names[-1] in self._place:
            names.append(self._place[names[-1]])
        return names


def _dtype(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None


def _is_size(node: fx.Node) -> bool:
    return str(node.target) == SIZE


def _writes(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _drops_nothing(node: fx.Node) -> bool:
    """Whether a node is dropout in place outside training, which writes nothing."""
    return _writes(node) and "dropout" in str(node.target) and node.args[-1] is False


def _is_new(node: fx.Node) -> bool:
    """Whether what a node gives is no part of what it takes."""
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    views = any(value.alias_info is not None for value in target._schema.returns)
    return not views and (
        not target.has_kernel_for_dispatch_key(COMPOSITE) or is_plain(target) or str(target) in NEW
    )
