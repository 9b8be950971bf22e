"""Values of options, as the command line reads them."""

from typing import Any

import click


class Jobs(click.ParamType):
    """A number of processes, or `auto`."""

    name = "n|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        if str(value) == "auto" or (str(value).isdigit() and int(value) > 0):
            return str(value) if str(value) == "auto" else int(value)
        return self.fail(f"{value!r} is neither a number of processes nor auto", param, ctx)


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
