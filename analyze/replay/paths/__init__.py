"""The positive-homogeneous form of a network: run on ones with |w|^q, its outputs are sums over paths.

A path starts at one input, passes one unit after another and ends at one output; it is worth the product of
the |w|^q it meets. The sum over all of them is one forward pass in float64 in which every row adds paths up
(Neyshabur et al. 2017; Gonon et al., arXiv 2310.01225, for graphs with max pooling).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from analyze.replay.paths.chain import Row, references, refusal, short
from analyze.replay.paths.rules import FORMS, Call, Line
from analyze.replay.paths.scaled import Phi, bare, moderate, phis_in
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    from torch import Tensor

MaxPool = Literal["sum", "max"]
Units = Literal["unrolled", "channels"]
# Of an argument that they copy or measure, only the shape matters to these.
SHAPE_ONLY = (
    "sym_size",
    "sym_numel",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
)


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


def path_sums(
    network: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    include_bias: bool = False,
    maxpool: MaxPool = "sum",
    units: Units = "unrolled",
) -> PathSums:
    """Sums over all paths of the product of |w|^q, q = 1 and 2, of any network whose rows have a form.

    `network` is the stored table, with the values of its constants under `values`, `tensors` parameters and
    buffers by name. `literal` puts a factor 2 (q = 1) or 4h (q = 2) on every parametrised row, h being the
    units of its output, or with `units="channels"` its channels. `include_bias` counts paths that begin at a
    bias. -inf where no path is above 0, NaN where a weight is not finite.

    Raises MissingTraceError, naming the row and its module, where a row has no such form.

    >>> x, w = {"input": 0}, {"tensor": "w"}
    >>> rows = [{"name": "fc", "op": "aten.linear.default", "args": [x, w, None]}]
    >>> table = {"rows": rows, "inputs": [{"shape": [5, 2], "dtype": "float32", "batched": True}]}
    >>> sums = path_sums(table, {"w": np.array([[3.0, -4.0]])})
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

    network: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    power: int = 1
    include_bias: bool = False
    maxpool: MaxPool = "sum"
    units: Units = "unrolled"
    maps: list[Affine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows: Sequence[Row] = self.network["rows"]
        self.sites = {site["row"]: site for site in self.network.get("sites") or ()}
        self.needed = self._needed()
        self.folded = self._folded()
        self.n = self.network.get("batch") or 1
        self.values: dict[int, Any] = {}
        self.literal = False
        self.before: Any = None  # the line that waits for its BatchNorm

    def totals(self) -> dict[bool, float]:
        """Natural logarithm of the sum over all paths of the whole network, by literal."""
        import torch

        last = {key: index for index in self.needed for key in self._parents(index)}
        output = self._output()
        with torch.no_grad():
            for index in self.needed:
                self.powered: Any = None
                self.stored: dict[Any, Tensor] = {}
                self.values[index] = self._row(index)
                for key in set(self._parents(index)):
                    if last[key] == index and key != output:
                        del self.values[key]
        phis = self.values[output]
        if not isinstance(phis, Lanes) or not all(isinstance(phi, Phi) for phi in phis):
            raise refusal(self.rows[output], "is not one tensor of scores")
        return {literal: self._log_sum(phi) for literal, phi in zip((False, True), phis, strict=True)}

    def _log_sum(self, phi: Phi) -> float:
        total = float(phi.value.sum() / self.n)
        if not math.isfinite(total):
            return math.nan
        return math.log(total) + phi.exponent * math.log(2.0) if total > 0 else -math.inf

    def _output(self) -> int:
        kind, key = self.network.get("output") or ("row", self._last_row())
        if kind != "row" or not 0 <= key < len(self.rows):
            raise MissingTraceError("capacity needs a network whose output is the result of one of its rows")
        return int(key)

    def _last_row(self) -> int:
        return max((k for k, row in enumerate(self.rows) if not row.get("loss")), default=-1)

    def _parents(self, index: int) -> Iterator[int]:
        row = self.rows[index]
        site = self.sites.get(index)
        # A hand-written ReLU also reads the sign of its argument, which is no way for a path.
        given = (
            row["args"][site.get("argument", 0)] if site else [row["args"], *row.get("kwargs", {}).values()]
        )
        return (key for kind, key in references(given) if kind == "row")

    def _needed(self) -> list[int]:
        wanted, waiting = set(), [self._output()]
        while waiting:
            index = waiting.pop()
            if index not in wanted and index >= 0:
                wanted.add(index)
                waiting.extend(self._parents(index))
        return sorted(wanted)

    def _folded(self) -> dict[int, int]:
        """Affine row -> the BatchNorm row folded into it."""
        uses: dict[int, list[int]] = {}
        for index in self.needed:
            if not short(self.rows[index]).startswith("sym_"):
                for key in self._parents(index):
                    uses.setdefault(key, []).append(index)
        found = {}
        for index, users in uses.items():
            first = self.rows[users[0]]
            if len(users) == 1 and self._form(first) == "batch_norm" and first["args"][0] == {"row": index}:
                dims = len(self.rows[index].get("shape") or (1, 1))
                if self._form(self.rows[index]) == "conv" or (
                    self._form(self.rows[index]) == "linear" and dims == 2
                ):
                    found[index] = users[0]
        return found

    def _form(self, row: Row) -> str | None:
        entry = entry_of(row)
        if entry.rule is not None and entry.rule.name in ("addmm", "matmul"):
            return "linear"
        return entry.homogeneous

    def rule(self, row: Row) -> Any:
        """Which arguments of a row are its input, weight and bias."""
        return entry_of(row).rule

    # ---- rows ----

    def _row(self, index: int) -> Any:
        row = self.rows[index]
        if index not in self.sites:
            args = [self._value(argument) for argument in row["args"]]
            if short(row).startswith(SHAPE_ONLY) or not any(True for _ in phis_in(args)):
                return self._plain(row, args)
        results = []
        for self.literal in (False, True):
            results.append(self._lane(index, row))
        return Lanes(results)

    def _plain(self, row: Row, args: list[Any]) -> Any:
        """What does not depend on the values of the input, as it is."""
        self.refuse_random(row)
        kwargs = {name: self._value(value) for name, value in row.get("kwargs", {}).items()}
        return operation(row)(*bare(args), **bare(kwargs))

    def _lane(self, index: int, row: Row) -> Any:
        site, form = self.sites.get(index), self._form(row)
        if site is not None or form == "relu":
            return self._activation(row, site)
        if form is None:
            raise refusal(row, "has no positive-homogeneous form")
        args = [self._value(argument) for argument in row["args"]]
        kwargs = {name: self._value(value) for name, value in row.get("kwargs", {}).items()}
        if form not in ("reshape", "scores") and any(phi.scores for phi in phis_in(args)):
            raise refusal(row, "works on what a softmax returned")
        if row.get("shape") is not None and row.get("axis") is None:
            raise refusal(row, "has no known example axis, so it may mix examples")
        return FORMS[form](Call(self, index, row, args, kwargs, operation(row)))

    def refuse_random(self, row: Row) -> None:
        """Raise where a row's result is drawn anew at each run."""
        positions = entry_of(row).random
        if positions is not None and all(k < len(row["args"]) and row["args"][k] for k in positions):
            raise refusal(row, "draws random numbers")

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, list):
            return [self._value(item) for item in argument]
        kinds = list(references(argument))
        if not kinds:
            return fixed(argument)
        ((kind, key),) = kinds
        if kind == "row":
            value = self.values[key]
            return value[self.literal] if isinstance(value, Lanes) else value
        if kind == "input":
            return self._input(key)
        if (kind, key) not in self.stored:
            self.stored[kind, key] = self._read(kind, key)
        return self.stored[kind, key]

    def _read(self, kind: str, key: Any) -> Tensor:
        import torch

        stored = np.asarray(self.tensors[key] if kind == "tensor" else self.network["values"][key])
        return torch.from_numpy(np.array(stored, np.float64 if stored.dtype.kind == "f" else stored.dtype))

    def maker(self, argument: Any, value: Tensor) -> Callable[[], Tensor]:
        """Makes a weight again, so that those of all layers need not be held at once."""
        ((kind, key),) = argument.items()
        return partial(self._read, kind, key) if kind in ("tensor", "constant") else lambda: value

    def _input(self, key: int) -> Phi:
        import torch

        declared = self.network["inputs"][key]
        shape = list(declared["shape"])
        if declared.get("batched", True):
            shape[0] = self.n
        return Phi(torch.ones(shape, dtype=torch.float64))

    def _activation(self, row: Row, site: Mapping[str, Any] | None) -> Any:
        name = short(row)
        slope = site.get("slope") if site else 0.0
        passes = name in ("relu", "tanh", "relu6") or (name == "hardtanh" and _around_zero(row))
        if site is not None and site.get("kind") in ("path", "gate"):
            passes = slope is not None and abs(slope) <= 1
        if not passes:
            raise refusal(row, "is no activation with f(0) = 0 and slopes of at most 1")
        return self._value(row["args"][site.get("argument", 0) if site else 0])

    def is_learned(self, index: int) -> bool:
        """Whether a row's factor is made of parameters."""
        waiting, seen = [index], set()
        parameters = self.network.get("parameters") or ()
        while waiting:
            row = self.rows[waiting.pop()]
            for kind, key in () if short(row).startswith(SHAPE_ONLY) else references(row["args"]):
                if kind == "tensor" and key in parameters:
                    return True
                if kind == "row" and key not in seen and not isinstance(self.values.get(key), Lanes):
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
            self.maps.append(Affine(row["name"], line.weight, line.apply, line.inputs[1:], units, wide))
        return moderate(phi)


def entry_of(row: Row) -> Any:
    """What a row's operation means to us."""
    from tracer.ops import op

    return op(row["op"])


def operation(row: Row) -> Callable[..., Any]:
    """The function behind a row; MissingTraceError where an archive may not hold it."""
    from tracer.network.program import resolve
    from tracer.ops import ALLOWED

    if row["op"] not in ALLOWED:
        raise refusal(row, "is no operation that an archive may hold")
    return resolve(row["op"])


def fixed(argument: Any) -> Any:
    """An argument that refers to nothing, as the operation takes it."""
    import torch

    from tracer.network.table import decode

    return decode(argument, torch.device("cpu"))


def _around_zero(row: Row) -> bool:
    from tracer.network.structure import constant

    low, high = [constant(argument) for argument in row["args"][1:3]] + [-1.0, 1.0][len(row["args"]) - 1 :]
    return low is not None and high is not None and low <= 0 <= high
