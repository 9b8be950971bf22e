"""The positive-homogeneous form of a network: run on ones with |w|^q, its outputs are sums over paths.

A path starts at one input, passes one unit after another and ends at one output; it is worth the product of
the |w|^q it meets. The sum over all of them is one forward pass in float64 in which every row adds paths up
(Neyshabur et al. 2017; Gonon et al., arXiv 2310.01225, for graphs with max pooling).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from analyze.replay.paths.rules import FORMS, Call, Line, Refused, refusal
from analyze.replay.paths.scaled import Phi, bare, moderate, phis_in
from tracer.errors import MissingTraceError
from tracer.ops import op
from tracer.ops.written import constant

if TYPE_CHECKING:
    from torch import Tensor

    from tracer.network import Network
    from tracer.network.table import Row, Site

MaxPool = Literal["sum", "max"]
Units = Literal["unrolled", "channels"]


class Affine(NamedTuple):
    """One parametrised row as the linear map it is, a BatchNorm after it folded in.

    weight: makes it, float64, in the row's own layout. apply(x, weight): the map, examples first; None
    where it scales every unit by its own weight. inputs: shape of one such x. units, channels: of its
    output.
    """

    name: str
    weight: Callable[[], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor] | None
    inputs: tuple[int, ...]
    units: int
    channels: int


class Lanes(tuple[Any, ...]):
    """What a row returns without and with the literal factors: two sums carried side by side."""


@dataclass(frozen=True)
class PathSums:
    """Natural logarithms of sums over all paths, by (q, literal), and the maps the paths cross, in order."""

    log: dict[tuple[int, bool], float]
    maps: list[Affine]


class Stored:
    """A weight or constant, made float64 when it is looked at: those of all layers need not be held at once."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def make(self) -> Tensor:
        """Its values, float64 where they are floating-point numbers."""
        import torch

        values = (
            self._values
            if isinstance(self._values, torch.Tensor)
            else torch.from_numpy(np.array(self._values))
        )
        return values.double() if values.is_floating_point() else values


def path_sums(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    *,
    include_bias: bool = False,
    maxpool: MaxPool = "sum",
    units: Units = "unrolled",
) -> PathSums:
    """Sums over all paths of the product of |w|^q, q = 1 and 2, of any network whose rows have a form.

    `tensors`: parameters and buffers by name. `literal` puts a factor 2 (q = 1) or 4h (q = 2) on every
    parametrised row, h being the units of its output, or with `units="channels"` its channels. `include_bias` counts
    paths that begin at a bias. -inf where no path is above 0, NaN where a weight is not finite.

    Raises MissingTraceError, naming the row and its module, where a row has no such form, ArchiveError where a stored
    network takes more than its weights could be worth.

    >>> import torch
    >>> from tracer.network import trace
    >>> network = trace(torch.nn.Linear(2, 1, bias=False), torch.zeros(5, 2))
    >>> sums = path_sums(network, {"weight": np.array([[3.0, -4.0]])})
    >>> round(np.exp(sums.log[1, False])), round(np.exp(sums.log[2, True])), sums.maps[0].units
    (7, 100, 1)
    """
    logs: dict[tuple[int, bool], float] = {}
    for power in (2, 1):
        run = Pass(network, tensors, power, include_bias, maxpool, units)
        logs |= {(power, literal): total for literal, total in run.totals().items()}
    return PathSums(logs, run.maps)


@dataclass
class Pass:
    """One run of a table in its positive-homogeneous form of one power.

    Biases do not count unless included; activations with f(0) = 0 and slopes of at most 1 pass everything
    on; for the rest see `analyze.replay.paths.rules`. BatchNorm in eval mode is folded into the affine row before
    it, where nothing else uses that row. What does not depend on the input is computed as it is.
    """

    network: Network
    tensors: Mapping[str, np.ndarray]
    power: int = 1
    include_bias: bool = False
    maxpool: MaxPool = "sum"
    units: Units = "unrolled"
    maps: list[Affine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self.network.rows
        self.sites = {site.row: site for site in self.network.sites}
        self.folded = self._folded()
        self.n = self.network.batch or 1
        self.moving: set[int] = set()  # rows that depend on the input
        self.literal = False
        self.before: Any = None  # the line that waits for its BatchNorm

    def totals(self) -> dict[bool, float]:
        """Natural logarithm of the sum over all paths of the whole network, by literal."""
        import torch

        kind, key = self.network.output
        if kind != "row":
            raise MissingTraceError("capacity needs a network whose output is the result of one of its rows")
        with torch.no_grad():
            leaves: dict[tuple[str, Any], Any] = {
                (kind, name): Stored(values)
                for kind, tensors in (("tensor", self.tensors), ("constant", self.network.constants))
                for name, values in tensors.items()
            }
            leaves |= {("input", k): self._input(entry) for k, entry in enumerate(self.network.inputs)}
            phis = self.network.interpret(self._row, leaves)
        if isinstance(phis, Refused):
            raise phis.error
        if not isinstance(phis, Lanes) or not all(isinstance(phi, Phi) for phi in phis):
            raise refusal(self.rows[key], "is not one tensor of scores")
        return {literal: self._log_sum(phi) for literal, phi in zip((False, True), phis, strict=True)}

    def _log_sum(self, phi: Phi) -> float:
        total = float(phi.value.sum() / self.n)
        if not math.isfinite(total):
            return math.nan
        return math.log(total) + phi.exponent * math.log(2.0) if total > 0 else -math.inf

    def _parents(self, index: int) -> Iterator[int]:
        row, site = self.rows[index], self.sites.get(index)
        # A hand-written ReLU also reads the sign of its argument, which is no way for a path.
        arguments = row.references() if site is None else references(row.args[site.argument])
        return (key for kind, key in arguments if kind == "row")

    def _folded(self) -> dict[int, int]:
        """Affine row -> the BatchNorm row folded into it."""
        uses: dict[int, list[int]] = {}
        for index in self.network.needed([self.network.output]):
            if not op(self.rows[index].op).shape_only:
                for key in self._parents(index):
                    uses.setdefault(key, []).append(index)
        folded = {}
        for index, users in uses.items():
            first, path = self.rows[users[0]], op(self.rows[index].op).path
            if len(users) == 1 and op(first.op).path == "batch_norm" and first.args[0] == {"row": index}:
                dims = len(self.rows[index].shape or (1, 1))
                if path == "conv" or (path == "linear" and dims == 2):
                    folded[index] = users[0]
        return folded

    # ---- rows ----

    def _row(self, index: int, row: Row, call: Callable[..., Any], arguments: list[Any]) -> Any:
        site = self.sites.get(index)
        refused = refusals_in(arguments if site is None else [arguments[site.argument]])
        if refused:
            return min(refused, key=lambda one: one.index)
        try:
            args = made(arguments)
            if site is None and (op(row.op).shape_only or not any(True for _ in phis_in(args))):
                return self._plain(row, call, args)
            self.moving.add(index)
            self.powered: Any = None
            results = []
            for self.literal in (False, True):
                operands = Call(self, index, row, in_lane(args, self.literal), arguments, call)
                results.append(self._lane(operands, site))
            return Lanes(results)
        except MissingTraceError as error:
            return Refused(index, error)  # unless nothing but the gate of a hand-written ReLU needs it

    def _plain(self, row: Row, call: Callable[..., Any], args: list[Any]) -> Any:
        """What does not depend on the values of the input, as it is."""
        self.refuse_random(row)
        return call(*bare(in_lane(args, self.literal)))

    def _lane(self, call: Call, site: Site | None) -> Any:
        row, form = call.row, op(call.row.op).path
        if site is not None or form == "activation":
            return self._activation(call, site)
        if form is None:
            raise refusal(row, "has no positive-homogeneous form")
        if form not in ("reshape", "scores") and any(phi.scores for phi in phis_in(call.args)):
            raise refusal(row, "works on what a softmax returned")
        if row.shape is not None and row.axis is None:
            raise refusal(row, "has no known example axis, so it may mix examples")
        return FORMS[form](call)

    def refuse_random(self, row: Row) -> None:
        """Raise where a row's result is drawn anew at each run."""
        positions = op(row.op).random
        if positions is not None and all(k < len(row.args) and constant(row.args[k]) for k in positions):
            raise refusal(row, "draws random numbers")

    def _input(self, entry: Mapping[str, Any]) -> Lanes:
        import torch

        shape = [self.n, *entry["shape"][1:]] if entry["batched"] else entry["shape"]
        return Lanes([Phi(torch.ones(shape, dtype=torch.float64))] * 2)

    def _activation(self, call: Call, site: Site | None) -> Any:
        activation = op(call.row.op).activation
        passes = (
            activation is not None and activation.contracts and _around_zero(activation.ends(call.row.args))
        )
        if site is not None and site.kind in ("path", "gate"):
            passes = site.slope is not None and abs(site.slope) <= 1
        if not passes:
            raise refusal(call.row, "is no activation with f(0) = 0 and slopes of at most 1")
        return call.args[site.argument if site else 0]

    def is_learned(self, index: int) -> bool:
        """Whether a row's factor is made of parameters."""
        waiting, seen = [index], set()
        while waiting:
            row = self.rows[waiting.pop()]
            for kind, key in () if op(row.op).shape_only else references(row.args):
                if kind == "tensor" and key in self.network.parameters:
                    return True
                if kind == "row" and key not in seen and key not in self.moving:
                    seen.add(key)
                    waiting.append(key)
        return False

    def crossed(self, row: Row, phi: Phi, line: Line, channels: int) -> Phi:
        """The value after a parametrised row: noted, with its factor, and brought back to a moderate size."""
        units, wide = phi.value.numel() // self.n, phi.value.shape[channels]
        if self.literal:
            h = wide if self.units == "channels" else units
            phi = phi._replace(value=phi.value * (2.0 if self.power == 1 else 4.0 * h))
        else:
            self.maps.append(Affine(row.name, line.weight, line.apply, line.inputs[1:], units, wide))
        return moderate(phi)


def references(argument: Any) -> Iterator[tuple[str, Any]]:
    """Every (kind, key) that a written argument refers to, in order."""
    from tracer.network import table

    return table.references(argument)


def made(values: Any) -> Any:
    """The arguments with weights and constants in float64."""
    if isinstance(values, Stored):
        return values.make()
    return [made(value) for value in values] if type(values) is list else values


def in_lane(values: Any, literal: bool) -> Any:
    """The arguments of one of the two sums that are carried side by side."""
    if isinstance(values, Lanes):
        return values[literal]
    return [in_lane(value, literal) for value in values] if type(values) is list else values


def refusals_in(values: Any) -> list[Refused]:
    """What could not be computed among nested arguments."""
    if isinstance(values, list):
        return [refused for value in values for refused in refusals_in(value)]
    return [values] if isinstance(values, Refused) else []


def _around_zero(ends: tuple[Any, Any]) -> bool:
    if ends == (None, None):
        return True
    low, high = (constant(end) for end in ends)
    return low is not None and high is not None and low <= 0 <= high
