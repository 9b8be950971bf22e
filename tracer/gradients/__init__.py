"""Per-example gradients of a network table: from one backward pass to Gram matrices and to what is stored.

One forward pass, one `autograd.grad` with respect to the *outputs* of the rows that use parameters: each
row's back-propagated signal z and its input a make the gradients (`tracer.gradients.rules`); no weight gradient is
computed. A signal is used and freed the moment it arrives.

Stored exact gradients ("blocks"). The gradients of one probe at one snapshot are one flat float32 array; the
attribute `blocks` of its group lists one block for every tensor:

    {"tensor", "layer", "shape" of the tensor, "form": ..., "parts": [{"name", "offset", "shape"}, ...]}

A part is `values[offset : offset + prod(shape)].reshape(shape)`, its first axis the n examples.

    form "full"     part grad (n, *shape): the gradients themselves
    form "outer"    parts a (n, t, inputs), z (n, t, outputs): the sum over t of z_t (outer) a_t
    form "conv"     parts a (n, channels, *space), z (n, outputs, *space'); "kernel", "stride", "padding",
                    "dilation" (a number for each space dimension), "groups": a convolution's weight gradient,
                    sum over positions p of z[o, p] a[first(o) + c, p * stride + k * dilation - padding]
    form "scatter"  parts index (n, t), whole numbers as float32, z (n, t, width): z_t is added to row index_t
    form "sum"      no parts; "source" = position in the list of a block whose z is summed over t or space'
    form "zero"     no parts: the loss does not use the tensor
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tracer.gradients import products
from tracer.gradients.forms import Form, Full, Outer, Scatter, Tied
from tracer.gradients.rules import RULES, Executed, Place
from tracer.network import Network
from tracer.network.table import Row, decode
from tracer.ops import ITEM, op

Receive = Callable[["Unit", dict[str, Form]], None]

_TINY, _HUGE = 1e-20, 1e30  # squared norms outside are computed again, rescaled, for float32 products' sake


class RuleError(ValueError):
    """A rule met a row it does not cover; `names`: the parameters of that row."""

    def __init__(self, names: tuple[str, ...], why: str) -> None:
        super().__init__(why)
        self.names = names


@dataclass(frozen=True)
class Piece:
    """One row's use of parameters: names of weight and bias (None: frozen, absent), where examples lie.

    lookup: the row that looks entries of the weight up, where this one adds them to every example alike.
    """

    row: str
    op: str
    rule: str
    weight: str | None
    bias: str | None
    axis: int
    inner: int
    lookup: str | None = None


@dataclass
class Unit:
    """Parameters whose gradients come together: of one row, or of rows that share a weight."""

    names: tuple[str, ...]
    rows: tuple[str, ...]
    joint: bool  # weight and bias always come as the same pair, so one form can speak for both


@dataclass
class Plan:
    """Which row gives which parameter's gradient, and which parameters need another way."""

    pieces: dict[str, Piece] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)  # by row
    leftover: dict[str, str] = field(default_factory=dict)  # parameter: why no rule gives its gradient
    unused: tuple[str, ...] = ()
    layer_of: dict[str, str] = field(default_factory=dict)
    partner: dict[str, str] = field(default_factory=dict)  # weight: the bias whose gradient may come with it

    @classmethod
    def of(cls, network: Network, excluded: Mapping[str, str] | None = None) -> "Plan":
        """The plan of a network; `excluded` parameters (name: why) are left over in any case."""
        layer_of = {name: layer.name for layer in network.layers for name in layer.parameters}
        pieces: list[Piece] = []
        leftover = dict(excluded or {})
        used: set[str] = set()
        for row in network.run_rows:
            names = {key for kind, key in row.references() if kind == "tensor" and key in layer_of}
            if not names:
                continue
            used |= names
            own, why = _piece(network, row, layer_of)
            own = own or _added(network, row, layer_of)
            pieces += own
            covered = {name for piece in own for name in _names(piece)}
            leftover |= {name: why for name in layer_of if name in names - covered - leftover.keys()}
        plan = cls(leftover=leftover, layer_of=layer_of)
        plan.unused = tuple(name for name in layer_of if name not in used)
        plan._group([_without(piece, leftover) for piece in pieces])
        return plan

    def only(self, names: Collection[str]) -> "Plan":
        """The same plan, of the parameters of these names alone; those of one unit come together."""
        rows = {row for row, unit in self.units.items() if not set(unit.names).isdisjoint(names)}
        pieces = {row: piece for row, piece in self.pieces.items() if row in rows}
        return replace(self, pieces=pieces, units={row: self.units[row] for row in pieces})

    def _group(self, pieces: Sequence[Piece]) -> None:
        owner: dict[str, list[Piece]] = {}
        for piece in pieces:
            for name in _names(piece):
                owner.setdefault(name, []).append(piece)
        for piece in pieces:
            if not _names(piece) or piece.row in self.units:
                continue
            members, todo = {piece.row: piece}, list(_names(piece))
            seen: set[str] = set()
            while todo:
                name = todo.pop()
                if name not in seen:
                    seen.add(name)
                    members |= {other.row: other for other in owner[name]}
                    todo += [n for other in owner[name] for n in _names(other)]
            pairs = {(member.weight, member.bias) for member in members.values()}
            layers = {self.layer_of[name] for name in seen}
            unit = Unit(tuple(sorted(seen)), tuple(members), joint=len(pairs) == 1 and len(layers) == 1)
            self.pieces |= members
            if unit.joint:
                self.partner |= {weight: bias for weight, bias in pairs if weight and bias}
            self.units |= dict.fromkeys(members, unit)


def _names(piece: Piece) -> tuple[str, ...]:
    return tuple(name for name in (piece.weight, piece.bias) if name is not None)


def _without(piece: Piece, excluded: Mapping[str, str]) -> Piece:
    names = [None if name in excluded else name for name in (piece.weight, piece.bias)]
    return replace(piece, weight=names[0], bias=names[1])


def _piece(network: Network, row: Row, layer_of: Mapping[str, str]) -> tuple[list[Piece], str]:
    rule, operand = op(row.op).rule, op(row.op).operand
    if rule is not None and rule.name in RULES:
        name, positions = rule.name, (rule.weight, rule.bias)
    elif operand is not None:
        name, positions = operand.name, (0, 1)
    else:
        return [], f"no rule for {row.op}"
    axis, inner = _example_place(network, row)
    if axis is None:
        return [], f"the example axis of {row.name} is unknown"
    parameters = [_parameter(row, position, layer_of) for position in positions]
    if operand is not None and None not in parameters:
        return [], f"{row.op} combines two parameters"
    if parameters == [None, None]:
        return [], f"{row.op} uses the parameter as its input"
    others = [key for kind, key in row.references() if kind == "tensor" and key in layer_of]
    if len(others) != len([name for name in parameters if name]):
        return [], f"{row.op} uses the parameter twice"
    piece = Piece(row.name, row.op, name, parameters[0], parameters[1], axis, inner)
    return [piece], f"{row.op} uses it as its input"


def _added(network: Network, row: Row, layer_of: Mapping[str, str]) -> list[Piece]:
    """Rows that add the result of a lookup to every example alike, as positions are; none where one does more."""
    rule, index = op(row.op).rule, network.rows.index(row)
    table = _parameter(row, rule.weight, layer_of) if rule is not None and rule.name == "embedding" else None
    pieces = []
    for other in network.rows[index + 1 :] if table is not None else ():
        references = list(other.references())
        if ("row", index) not in references:
            continue
        operand = op(other.op).operand
        others = [key for kind, key in references if kind == "tensor" and key in layer_of]
        if operand is None or operand.name != "shift" or other.axis is None or others or len(references) != 2:
            return []
        second = other.args[1:2] == [{"row": index}]
        weight, bias = (None, table) if second else (table, None)
        pieces.append(Piece(other.name, other.op, "added", weight, bias, other.axis, other.inner, row.name))
    return pieces


def _parameter(row: Row, position: int | None, layer_of: Mapping[str, str]) -> str | None:
    if position is None or position >= len(row.args) or not isinstance(row.args[position], dict):
        return None
    name = row.args[position].get("tensor")
    return name if name in layer_of else None


def _example_place(network: Network, row: Row) -> tuple[int | None, int]:
    if row.shape is not None:
        return row.axis, row.inner
    index = network.rows.index(
        row
    )  # an operation with several results: its first one is taken by a getitem row
    for other in network.rows[index + 1 :]:
        if other.op == ITEM and other.args[:2] == [{"row": index}, 0]:
            return other.axis, other.inner
    return None, 1


class Backward:
    """The backward pass of one chunk: shown every row while the network runs, then `run` with its losses."""

    def __init__(self, plan: Plan, n: int, batch: int, receive: Receive) -> None:
        """Of `batch` examples that go through, `n` count; `receive` gets each unit and its forms."""
        self._plan, self._n, self._batch, self._receive = plan, n, batch, receive
        self._leaves: list[Tensor] = []
        self._waiting: dict[str, tuple[Any, ...]] = {}
        self._lookups = dict.fromkeys(piece.lookup for piece in plan.pieces.values() if piece.lookup)
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the parameters that rows were given
        self._looked_up: dict[str, tuple[Any, ...]] = {}
        self._arrived: dict[int, list[tuple[Piece, Form | None, Form | None]]] = {}

    def visit(self, row: Row, values: tuple[Any, ...], out: Any) -> None:
        """Note a row that uses parameters."""
        used, looked_up = row.name in self._plan.pieces, row.name in self._lookups
        if used or looked_up:
            self._shapes |= {
                argument["tensor"]: tuple(value.shape)
                for argument, value in zip(row.args, values, strict=False)
                if isinstance(argument, dict) and "tensor" in argument
            }
        if looked_up:
            self._looked_up[row.name] = values
        if not used:
            return
        result = out if isinstance(out, Tensor) else out[0]
        held = tuple(
            value.detach() if isinstance(value, Tensor) and value.requires_grad else value for value in values
        )
        kwargs = {name: decode(value, result.device) for name, value in row.kwargs.items()}
        self._waiting[row.name] = (held, kwargs, result.shape, result.dtype, result.device)
        if not result.requires_grad:
            result.requires_grad_()
            self._leaves.append(result)
        result.register_hook(partial(self._signal, row.name))

    @property
    def waiting(self) -> list[Tensor]:
        """What rows that use parameters were given, kept until their signals arrive."""
        return [value for args, *_ in self._waiting.values() for value in args if isinstance(value, Tensor)]

    def run(self, losses: Tensor) -> None:
        """Propagate the sum of the losses back; every unit is received once."""
        # Their hooks lead back here: held on, all that the gradients went into would wait for a search for garbage.
        leaves, self._leaves = self._leaves, []
        if leaves and losses.requires_grad:
            weights = torch.ones_like(losses)
            weights[self._n :] = 0
            torch.autograd.grad(losses, leaves, weights, allow_unused=True)
        with torch.no_grad():
            for name in list(self._waiting):  # outputs that the loss does not depend on
                _, _, shape, dtype, device = self._waiting[name]
                self._signal(name, torch.zeros(shape, dtype=dtype, device=device))

    def _signal(self, name: str, z: Tensor) -> None:
        # Gradients are off: the backward pass of `run` is not one to be differentiated again.
        args, kwargs, *_ = self._waiting.pop(name)
        piece = self._plan.pieces[name]
        unit = self._plan.units[name]
        place = Place(self._batch, piece.axis, piece.inner)
        wanted = (piece.weight is not None, piece.bias is not None)
        lookup = self._looked_up[piece.lookup] if piece.lookup else ()
        try:
            weight, bias = RULES[piece.rule](
                Executed(piece.op, args, kwargs, z.detach(), place, *wanted, lookup)
            )
        except ValueError as error:
            raise RuleError(_names(piece), str(error)) from error
        self._check_shapes(piece, weight, bias)
        arrived = self._arrived.setdefault(id(unit), [])
        weight, bias = (form and form.head(self._n) for form in (weight, bias))
        arrived.append((piece, weight, bias))
        if len(arrived) == len(unit.rows):
            self._receive(unit, combine(unit, self._arrived.pop(id(unit))))

    def _check_shapes(self, piece: Piece, weight: Form | None, bias: Form | None) -> None:
        """RuleError where a rule, which knows one meaning of its operation, met another, as of a batch of weights."""
        given = {piece.weight: weight and weight.shape, piece.bias: bias and bias.shape}
        if weight and weight.bias:
            given[piece.bias] = weight.shape[:1]
        for name, shape in given.items():
            if name and shape is not None and shape != self._shapes[name]:
                why = f"the rule gives a gradient of shape {shape}, not {self._shapes[name]}"
                raise RuleError(_names(piece), why)


def combine(unit: Unit, uses: Sequence[tuple[Piece, Form | None, Form | None]]) -> dict[str, Form]:
    """Each parameter's gradients from all rows that use it; a form with `bias` speaks for the bias too."""
    if unit.joint and len(uses) == 1:
        ((piece, weight, bias),) = uses
        return {name: form for name, form in ((piece.weight, weight), (piece.bias, bias)) if name and form}
    outer = [weight for _, weight, bias in uses if isinstance(weight, Outer) and bias is None]
    weight_name = uses[0][0].weight
    if unit.joint and weight_name and len(outer) == len(uses) and len({form.swapped for form in outer}) == 1:
        return {weight_name: Outer.merge(outer)}
    looked_up = [weight for _, weight, bias in uses if isinstance(weight, Scatter) and bias is None]
    alone = len(unit.names) == 1 and len(outer) + len(looked_up) == len(uses)
    if weight_name and alone and outer and looked_up and not any(form.swapped or form.bias for form in outer):
        return {weight_name: Tied.of(Outer.merge(outer), Scatter.merge(looked_up))}
    rows: dict[str, list[Tensor]] = {}
    for piece, weight, bias in uses:
        if weight is not None and piece.weight:
            rows.setdefault(piece.weight, []).append(weight.rows())
        if piece.bias and (bias is not None or (weight is not None and weight.bias)):
            forms = bias.rows() if bias is not None else weight.bias_rows()  # type: ignore[union-attr]
            rows.setdefault(piece.bias, []).append(forms)
    return {
        name: Full(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]) for name, parts in rows.items()
    }


def inner_products(form: Form, out: Tensor | None = None) -> Tensor:
    """Inner products of a form's gradients, float64 (n, n), also where float32 products would underflow.

    out: a float64 tensor to put them in.
    On an accelerator they are always rescaled: to look whether they need it would mean waiting for it.
    """
    gram = _safe_products(form)
    return gram.double() if out is None else out.copy_(gram)


def _safe_products(form: Form) -> Tensor:
    if not form.signal.numel():  # of a parameter without elements
        return form.gram()
    looking = products.may_look(form.signal)
    if looking:
        gram = form.gram()
        norms = gram.diagonal()
        least, most = norms.aminmax()
        if float(least) > _TINY and float(most) < _HUGE:
            return gram
        safe = (norms > _TINY) & (norms < _HUGE)
    peak = form.signal.reshape(len(form.signal), -1).abs().amax(1).double()
    if looking and not bool((~safe & (peak > 0) & peak.isfinite()).any()):
        return gram
    exponent = torch.where(peak.isfinite() & (peak > 0), peak, 1.0).frexp().exponent.clamp(-100, 100)
    scale = torch.ldexp(torch.ones_like(peak), -exponent)
    return form.scaled(scale).gram() / (scale[:, None] * scale)
