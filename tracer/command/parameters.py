"""Values of options and arguments, as the command line reads them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from math import isnan
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from tracer.errors import RecordError, TracerError, first_line, how_many


class Jobs(click.ParamType):
    """A number of processes, or `auto`."""

    name = "n|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        if str(value) == "auto" or (str(value).isdigit() and int(value) > 0):
            return str(value) if str(value) == "auto" else int(value)
        return self.fail(f"{value!r} is neither a number of processes nor auto", param, ctx)


class Seconds(click.FloatRange):
    """A length of time within bounds, which NaN is not: it is neither below nor above them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        seconds: float = super().convert(value, param, ctx)
        return self.fail(f"{value!r} is not a number of seconds", param, ctx) if isnan(seconds) else seconds


class Steps(click.ParamType):
    """`few`, `all`, or steps with commas between."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word, or a list of numbers."""
        if value in ("few", "all"):
            return value
        try:
            return [int(part) for part in str(value).split(",")]
        except ValueError:
            return self.fail(f"{value!r} is not few, all, or steps such as 0,100,1000", param, ctx)


class Assignment(click.ParamType):
    """NAME=VALUE: the value is text; NAME= alone removes what was set."""

    name = "assignment"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        """The name and the value."""
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not NAME=VALUE, for example licence=CC0-1.0", param, ctx)
        return name, text or None


@contextmanager
def theirs(what: str) -> Iterator[None]:
    """Run code of the user's: what it raises, or that it ends the program, is told as a failure of `what`."""
    try:
        yield
    except (TracerError, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        raise RecordError(
            f"{what} failed ({first_line(error)}); run again with --debug to see where."
        ) from error


class Imported:
    """A function that the user named, called with what it is called with."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Sent to a worker process by its name: its module is of the current directory, which is on no path there."""
        return imported, (self.name,)

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What it returns. Errors: RecordError in a sentence, but those of tracer itself as they are."""
        try:
            signature(self.function).bind(*given, **named)
        except TypeError as error:
            told = how_many(len(given) + len(named), "argument")
            raise RecordError(
                f"{self.name} cannot be called with {told} ({error}); --help says what it is given."
            ) from None
        except ValueError:  # of some built-in ones nothing is known
            pass
        with theirs(self.name):
            return self.function(*given, **named)


def imported(name: str) -> Imported:
    """The function that `module:function` names, looked for in the current directory first."""
    module, colon, function = name.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise RecordError(f"{name!r} does not name a function: write module:function, such as train:main.")
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        with theirs(f"importing {module!r}"):
            found = getattr(_module(module), function, None)
    finally:
        sys.path[:] = before
    if not callable(found):
        raise RecordError(f"Module {module!r} has no function {function!r}.")
    return Imported(name, found)


def _module(name: str) -> ModuleType:
    """A module; RecordError where there is none, or it is named as a file is."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (name, name.partition(".")[0]):
            raise
        hint = f"; write {name[:-3]!r} without .py" if name.endswith(".py") else ""
        raise RecordError(
            f"There is no module {name!r} in {Path.cwd()} or among those installed{hint}."
        ) from None
