"""What can be said of an operation: the record that every other part of the code asks."""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Argument:
    """Where a number stands among an operation's positional arguments, and what it is where it is left out."""

    position: int
    default: float | None = None

    def among(self, args: Sequence[Any]) -> Any:
        """The argument, as it is written or computed."""
        return args[self.position] if self.position < len(args) else self.default


@dataclass(frozen=True)
class Activation:
    """A nonlinearity applied coordinate by coordinate.

    mask: what a stored bit means. "path": on = slope 1, off = 0 (ReLU). "gate": off has another slope (leaky
    ReLU). "convention": pre-activation > 0 by declaration only, the function is not piecewise linear (GELU).
    None: no mask (tanh).
    slope: the slope where off: a number, the argument that holds it, or the two whose mean it is; None where it is
    a tensor, at position `slopes`, or the function not linear there.
    zero: positions of arguments that must be 0 for the operation to be an activation at all (`clamp(min=0)`).
    either: any of the first two arguments is the pre-activation, the other one being 0 (`maximum`).
    low, high: the ends beyond which it is constant.
    contracts: f(0) = 0 and no slope is above 1, where 0 lies between the ends.
    keywords: names in Python of the arguments after the first.
    """

    mask: str | None
    slope: "float | Argument | tuple[Argument, Argument] | None" = None
    slopes: int | None = None
    zero: tuple[int, ...] = ()
    either: bool = False
    low: float | Argument | None = None
    high: float | Argument | None = None
    contracts: bool = False
    keywords: tuple[str, ...] = ()

    def ends(self, args: Sequence[Any]) -> tuple[Any, Any]:
        """Both ends, as written among the arguments; None where there is none."""
        low, high = (x.among(args) if isinstance(x, Argument) else x for x in (self.low, self.high))
        return low, high


@dataclass(frozen=True)
class Convolution:
    """Positions of a convolution's options; `transposed` is one, or says it of the operation itself."""

    dilation: int = 5
    groups: int = 6
    transposed: Argument | bool = False
    stride: int = 3
    padding: int = 4


@dataclass(frozen=True)
class Rule:
    """Which arguments are input, weight and bias; `name` is the form of the per-example gradient.

    call: whether it is what a module named Linear or Conv executes ("product": only where its weight is a parameter).
    """

    name: str
    input: int
    weight: int
    bias: int | None = None
    call: Literal[True, False, "product"] = False
    convolution: Convolution | None = None


@dataclass(frozen=True)
class Operand:
    """The gradient of a parameter that is an operand, broadcast to the output: `name` is its form.

    sign: of the second operand.
    """

    name: str
    sign: float = 1.0


@dataclass(frozen=True)
class Normalisation:
    """How an operation normalises, and the positions of what it needs.

    over: "batch" (running statistics), "instance", "group", "layer" or "rms". size: the normalised shape, or the
    number of groups. mean, variance, training: running statistics, and whether those of the batch are used instead.
    results: how many tensors it returns.
    """

    over: str
    eps: Argument
    size: int | None = None
    mean: int = 3
    variance: int = 4
    training: int | None = None
    results: int = 1


@dataclass(frozen=True)
class Pool:
    """A pooling over `dims` dimensions: kernel, stride, padding, dilation are arguments 1 to 4.

    adaptive: its argument is the output's size instead. whole: it reduces whole axes, as `mean` does.
    """

    kind: Literal["max", "average"]
    dims: int = 0
    adaptive: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Op:
    """All that is known of one operation; having a record is the permission to run it from an archive.

    name: of the overload. activation, rule, operand, normalises, pool: as their classes say, None for what it is not.
    path: its form in sums over paths (`analyze`), None where it has none. affine: affine in "all" of its tensors
    together, in any "one", or in the "first" alone, the others being fixed. random: positions of the arguments that
    make it random when all are true or above zero (dropout's `train`). python: the function of Python that it is.

    weighed: of an addition, the position of the term that `alpha` multiplies. pads: puts a number around its tensor.
    copies: gives the numbers it is given. reorders: False for a view that keeps the order of elements. shape_only:
    looks at the shape of its tensor, not its values. fills: the number that fills its result. fresh: its result is
    a tensor of its own that may be overwritten. in_place: the same, written into the first argument. instead: another
    operation with the same result that runs wherever this one does not (a view that may copy). by_value: the size
    of its result depends on values. vmap: whether `torch.vmap` has a rule for it.
    """

    name: str
    activation: Activation | None = None
    rule: Rule | None = None
    operand: Operand | None = None
    normalises: Normalisation | None = None
    pool: Pool | None = None
    path: str | None = None
    affine: Literal["all", "one", "first"] | None = None
    random: tuple[int, ...] | None = None
    python: Callable[..., Any] | None = None
    weighed: int | None = None
    pads: bool = False
    copies: bool = False
    reorders: bool = True
    shape_only: bool = False
    fills: float | Argument | None = None
    fresh: bool = False
    in_place: str | None = None
    instead: str | None = None
    by_value: bool = False
    vmap: bool = True

    @property
    def short(self) -> str:
        """The operation's own name."""
        return short(self.name)

    @property
    def is_number(self) -> bool:
        """Whether it computes sizes, not tensors."""
        return self.python is not None and self.python is not operator.getitem

    @property
    def may_be_view(self) -> bool:
        """Whether its result may lie in the memory of its argument."""
        return self.path == "reshape"


def short(name: str) -> str:
    """The operation's own name.

    >>> short("aten.relu.default"), short("getitem")
    ('relu', 'getitem')
    """
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else name


def named(names: str, **facts: Any) -> list[Op]:
    """Records of operations that differ in nothing but their names, one a line."""
    return [Op(name, **facts) for name in names.split()]


def revised(records: Iterable[Op], **facts: Any) -> list[Op]:
    """The same records with further facts."""
    return [replace(record, **facts) for record in records]
