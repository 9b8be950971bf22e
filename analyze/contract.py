"""The contract of a metric: a plain function of named arrays, and a card that says what it is."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from analyze.reference import Reference
from analyze.summary import Choice, declared
from tracer.errors import ArgumentError, did_you_mean

Scope = Literal["all", "probe", "train", "test"]
Function = Callable[..., dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class metric:
    """Give a function its card: `@metric(...)` returns the function itself.

    `reference` is the paper that defined it, or several; a metric of one's own has none.

    `reads` names the arrays the function takes, in the order of its parameters; `name.variable` is a result
    of another metric (parameter `name_variable`). Keyword parameters with a default are options except
    those in `optional`: arrays handed over where the archive has them, None where not; as a mapping to
    options, such as `{"gradients": {"per_tensor": True}}`, only where these are chosen. `variables` maps
    what the function returns to dimensions. `scope` says which probes: `all` joint, one `probe` at a time,
    or those of split `train` or `test`. `lag` compares snapshots in time; `whole` hands over all snapshots
    at once, and so does having no variable with a step; `combine="sum"` hands them over one by one and adds
    up what is returned, where NaN adds nothing; `each="site"` says that sites do not mix, so that they may be
    handed over in groups. Names in `integers`, and names that begin with `n_`, are counts (int64).
    `makes` has the dimensions of each float64 array that the function itself makes and that grows faster than
    what it reads, such as a kernel over pairs of examples: it counts as memory of a snapshot, and so bounds the work.
    Where nothing is declared, a metric that reads values of examples, and none of their pairs, is taken to make one
    such array over pairs; `makes=()` says that it makes none.
    `bands`: what it reads of pairs of examples, it takes in bands of rows too (`analyze.arrays.bands`), so that one
    snapshot of these need not fit in memory.
    `passes(options, snapshots)` says how many forward passes of all examples running the network at so many
    snapshots is worth (a backward pass counts as two), for one output of the network where it is `per_output`:
    what does not fit into the budget of an analysis is left out by it. `work` says of a metric that runs no network how
    many times as long as a mean over pairs it takes, for each number of the largest array that it reads: more than 1
    where matrices are decomposed. What takes long comes after the first report. `classes`: it needs one class for each
    example, as one that reads `labels` does, and is refused before its passes are paid for where targets are something
    else.
    `sketched` names the variables that may also be computed from sketches of gradients, for a metric that reads `gram`
    or `cosine`: where only these are recorded, each has its standard error beside it, `<variable>_sketch_error`.
    `summary` names the variables that tell the metric in a few numbers, or maps them to labels by dimension, such as
    `{"cosine": {"pair": "train-train"}}`: what is printed, tabled and compared across runs. See
    `analyze.summary.declared`. `beside` names a metric that says the same in other units, such as accuracy beside
    error: the report shows both in one section.

    >>> from analyze.reference import FORT_2019
    >>> @metric(reads=("losses",), variables={"worst": ("step",)}, title="Worst loss", reference=FORT_2019)
    ... def worst_loss(losses):
    ...     "Largest loss of any example."
    ...     return {"worst": losses.max(-1)}
    >>> worst_loss.card.meaning
    'Largest loss of any example.'
    """

    reads: Iterable[str]
    variables: Mapping[str, tuple[str, ...]]
    title: str
    reference: Reference | tuple[Reference, ...] = field(default=(), repr=False)
    scope: Scope = "all"
    optional: Iterable[str] | Mapping[str, Mapping[str, Any]] = ()
    lag: bool = False
    whole: bool = False
    combine: Literal["", "sum"] = ""
    each: Literal["", "site"] = ""
    bounds: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None
    units: str | Mapping[str, str] = "1"
    formula: str = ""
    cost: str = ""
    reading: str = ""
    needs: str = ""
    integers: Iterable[str] = ()
    bands: bool = False
    makes: Iterable[tuple[str, ...]] | None = None
    passes: Callable[[Mapping[str, Any], int], float] | None = field(default=None, repr=False)
    work: float = 1.0
    per_output: bool = False
    classes: bool = False
    sketched: Iterable[str] = ()
    summary: Iterable[str] | Mapping[str, Choice] | None = None
    beside: str = ""

    def __call__(self, function: Function) -> Function:
        """The function, whose attribute `card` is its `Metric` from now on."""
        card = Metric(**vars(self), function=function)
        _check_parameters(card)
        function.card = card  # type: ignore[attr-defined]
        return function


@dataclass(frozen=True, kw_only=True)
class Metric(metric):
    """Card of a metric: everything listings, figures, the engine and the tests need to know about it."""

    function: Function = field(repr=False)
    reads: tuple[str, ...]
    variables: dict[str, tuple[str, ...]]
    reference: tuple[Reference, ...] = field(default=(), repr=False)
    optional: dict[str, dict[str, Any]] = field(default_factory=dict)
    integers: tuple[str, ...] = ()
    makes: tuple[tuple[str, ...], ...] | None = None
    sketched: tuple[str, ...] = ()
    summary: dict[str, dict[str, tuple[str, ...]]] | None = None

    def __post_init__(self) -> None:
        optional = self.optional if isinstance(self.optional, Mapping) else {key: {} for key in self.optional}
        one = isinstance(self.reference, Reference)
        plain: dict[str, Any] = {
            "reads": tuple(self.reads),
            "variables": dict(self.variables),
            "reference": (self.reference,) if one else tuple(self.reference),
            "optional": {name: dict(options) for name, options in optional.items()},
            "integers": tuple(self.integers),
            "sketched": tuple(self.sketched),
            "makes": None if self.makes is None else tuple(self.makes),
        }
        if self.summary is not None:
            plain["summary"] = declared(self.name, plain["variables"], self.summary)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as the name of its function: another process has the card, and what is in it, itself.
        return attrgetter("card"), (self.function,)

    @cached_property
    def definition(self) -> str:
        """The function's docstring, dedented."""
        return inspect.getdoc(self.function) or ""

    @property
    def meaning(self) -> str:
        """First line of the docstring."""
        return self.definition.partition("\n")[0]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Keyword parameters a user may set, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        named = {p.name: p.default for p in parameters if p.default is not p.empty}
        arrays = {name.replace(".", "_") for name in self.optional}
        return {name: value for name, value in named.items() if name not in arrays}

    @cached_property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Values of each option that is declared as a Literal."""
        try:
            said = {k: v for k, v in self.function.__annotations__.items() if k in self.options}
            hints = get_type_hints(SimpleNamespace(__annotations__=said), self.function.__globals__)
        except NameError:  # imported for a type checker alone
            return {}
        return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}

    @property
    def module(self) -> str:
        """Dotted name of the module that defines the metric."""
        return self.function.__module__

    @property
    def plot(self) -> Callable[..., None] | None:
        """`plot_<name>(result, figure)` of the same module, if it has one."""
        return self.function.__globals__.get(f"plot_{self.name}")

    @property
    def source(self) -> str:
        """Digest of the module's source: results computed by another version of it are recomputed."""
        path = inspect.getsourcefile(self.function)
        text = Path(path).read_bytes() if path and Path(path).exists() else _code(self.function)
        return hashlib.sha256(text).hexdigest()[:16]

    def bounds_of(self, variable: str) -> tuple[float, float] | None:
        """Smallest and largest value a variable can take, None where there is no bound."""
        if isinstance(self.bounds, Mapping):
            return self.bounds.get(variable)
        return None if self.is_integer(variable) else self.bounds

    def units_of(self, variable: str) -> str:
        """Units of a variable, `1` where it has none."""
        return self.units.get(variable, "1") if isinstance(self.units, Mapping) else self.units

    def is_integer(self, variable: str) -> bool:
        """Whether a variable is a count (int64); every other one is float64."""
        return variable in self.integers or variable.startswith("n_")

    @property
    def in_time(self) -> bool:
        """Whether any variable has the dimension `step`."""
        return any("step" in dims for dims in self.variables.values())

    def with_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults updated by `options`.

        Errors: TypeError, with a hint, for one the metric does not have; ArgumentError for a value that is none of the
        choices of an option, of another kind than its default, or nothing where that is a sequence of something.
        """
        for name, value in options.items():
            if name not in self.options:
                hint = did_you_mean(name, self.options)
                raise TypeError(f"metric {self.name!r} has no option {name!r}; {hint}")
            choices = self.choices.get(name)
            if choices:
                expected = "" if value in choices else f"one of {', '.join(map(repr, choices))}"
            else:
                expected = _expected(
                    self.options[name], value, str(self.function.__annotations__.get(name, ""))
                )
            if expected:
                raise ArgumentError(
                    f"option {name!r} of metric {self.name!r} got {value!r}, expected {expected}"
                )
        return self.options | dict(options)


def _expected(default: Any, value: Any, hint: str) -> str:
    """What a value is to be by its default and annotation; nothing where it is that, or they do not tell."""
    if default is None or (value is None and "None" in hint):
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "a text"
    if isinstance(default, int | float):
        whole = "int" in hint and "float" not in hint
        holds = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
        return "" if holds else f"{'a whole' if whole else 'a'} number"
    if isinstance(default, tuple | list) and default:
        holds = isinstance(value, Sized) and not isinstance(value, str | bytes) and len(value) > 0
        return "" if holds else f"one value or more, such as {list(default)}"
    return ""


def _code(function: Callable[..., Any]) -> bytes:
    """What a function without a file does, such as one of a notebook: its code, and that of functions it names."""
    told, waiting, seen = list[str](), [function], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        codes = [one.__code__]
        for code in codes:  # grows: functions within are constants of their code
            inner = [item for item in code.co_consts if inspect.iscode(item)]
            plain = [item for item in code.co_consts if not inspect.iscode(item)]
            told.append(repr((code.co_code, plain, code.co_names, code.co_varnames)))
            codes += inner
            named = [one.__globals__.get(name) for name in code.co_names]
            waiting += [
                item for item in named if inspect.isfunction(item) and item.__module__ == one.__module__
            ]
        told.append(repr((one.__defaults__, one.__kwdefaults__)))
    return "\n".join(told).encode()


def _check_parameters(card: Metric) -> None:
    parameters = inspect.signature(card.function).parameters.values()
    positional = [p.name for p in parameters if p.default is p.empty]
    expected = [read.replace(".", "_") for read in card.reads]
    if positional != expected:
        raise TypeError(f"metric {card.name!r} reads {expected}, but its parameters are {positional}")
    known = {p.name for p in parameters}
    missing = [name for name in card.optional if name.replace(".", "_") not in known]
    if missing:
        raise TypeError(f"metric {card.name!r} has no parameter for the optional {missing}")
    lost = [
        name
        for name, dims in card.variables.items()
        if "step" in dims and not {"probe", "example"} & set(dims)
    ]
    if card.scope == "probe" and lost:
        raise TypeError(
            f"metric {card.name!r} is called for one probe after another, and {lost[0]!r} has no place for more than "
            f"one; write variables={{{lost[0]!r}: {(*card.variables[lost[0]], 'probe')}}}, or scope='train'"
        )
