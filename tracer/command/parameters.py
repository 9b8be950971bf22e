"""Values of options and arguments, as the command line reads them."""

import sys
from collections.abc import Callable
from importlib import import_module
from math import isnan
from pathlib import Path
from typing import Any

import click

from tracer.errors import RecordError


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


def imported(name: str) -> Callable[..., Any]:
    """The function that `module:function` names, looked for in the current directory first."""
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise RecordError(f"{name!r} does not name a function: write module:function, such as train:main.")
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise RecordError(
            f"There is no module {module!r} in {Path.cwd()} or among those installed."
        ) from None
    finally:
        sys.path[:] = before
    if not callable(found):
        raise RecordError(f"Module {module!r} has no function {function!r}.")
    return found
