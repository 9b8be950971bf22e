"""How the command line prints data, counts progress and refuses: shared by every subcommand."""

import csv
import json
import math
import shutil
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from textwrap import wrap
from typing import Any, Self, TextIO, TypeVar

import click

from tracer.errors import missing_package

F = TypeVar("F", bound=Callable[..., Any])


def printable(text: str) -> str:
    r"""Text whose control characters are shown, not obeyed: names in an archive may come from anywhere.

    >>> printable("a\x1b[2Jb\u202ec\nd") == "a\\x1b[2Jb\\u202ec\nd"
    True
    """
    whitespace = "\n\t"
    return "".join(
        char if char in whitespace or not unicodedata.category(char).startswith("C") else ascii(char)[1:-1]
        for char in text
    )


def note(text: str) -> None:
    """Print one line of progress or explanation on stderr."""
    click.echo(printable(text), err=True)


def sentence(error: BaseException) -> str:
    """One line for an exception: its message and notes; the type too where nobody foresaw it.

    >>> from tracer.errors import ArchiveError
    >>> sentence(ArchiveError("run.zarr is not an archive"))
    'run.zarr is not an archive'
    >>> sentence(KeyError("bias"))
    "unexpected KeyError: 'bias'; run again with --debug to see where"
    """
    if isinstance(error, ModuleNotFoundError):
        error = missing_package(error) or error
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", [])]).split())
    text = printable(text)
    if _ours(type(error).__module__) or isinstance(error, OSError):
        return text
    return f"unexpected {type(error).__name__}: {text}; run again with --debug to see where"


def _ours(module: str) -> bool:
    return module.partition(".")[0] in ("tracer", "analyze")


EVERY = 10.0  # seconds between lines of progress where there is no terminal


class Bar:
    """Progress on stderr: one line that rewrites itself on a terminal, else a line every ten seconds."""

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        return self

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show that `done` of `total` pieces are finished, and which one is."""
        if _is_terminal(sys.stderr):
            room = shutil.get_terminal_size().columns - 1
            click.echo("\r\x1b[K" + f"  {done}/{total}  {printable(text)}"[:room], err=True, nl=False)
        elif time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            note(f"  {done}/{total}  {text}")

    def __exit__(self, *exception: object) -> None:
        if _is_terminal(sys.stderr):
            click.echo("\r\x1b[K", err=True, nl=False)


class Commands(click.Group):
    """A group whose commands fail with one sentence and exit code 1, or a traceback under --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what it raises or warns of becomes a sentence, except what click words itself."""
        usual, warnings.formatwarning = warnings.formatwarning, _worded(set())
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                raise
            raise click.ClickException(sentence(error)) from error
        finally:
            warnings.formatwarning = usual


def _worded(said: set[str]) -> Callable[..., str]:
    """Warnings as a line each, without the place in the code that warns, and once."""

    def line(message: Warning | str, *_: Any, **__: Any) -> str:
        text = f"Warning: {message}\n"
        again = text in said
        said.add(text)
        return "" if again else text

    return line


def _remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = ctx.meta.get("debug", False) or value


def debug_option(command: F) -> F:
    """Add --debug; accepted before and after the name of the subcommand."""
    text = "Show the traceback of an error."
    return click.option(
        "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_remember, help=text
    )(command)


def format_option(command: F) -> F:
    """Add --format, which every command that prints data takes."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json", "csv"]),
        default="table",
        show_default=True,
        help="How the data on stdout is written.",
    )(command)


def plain(value: Any) -> Any:
    """Turn numbers and containers into what JSON can hold; undefined numbers become null.

    >>> plain({"loss": float("nan"), "steps": (0, 100)})
    {'loss': None, 'steps': [0, 100]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def emit(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Print rows of equal keys on stdout as an aligned table, JSON or CSV."""
    if form == "json":
        click.echo(json.dumps(plain(rows), indent=2))
    elif form == "csv":
        from tracer.store.documents import to_cell

        text = StringIO()
        write = csv.writer(text, lineterminator="\n")
        write.writerow(map(to_cell, rows[0] if rows else []))
        write.writerows([to_cell(_cell(value, None)) for value in row.values()] for row in rows)
        click.echo(text.getvalue(), nl=False)
    else:
        click.echo(table(rows))


def emit_tree(tree: Mapping[str, Any], form: str, text: Callable[[], str]) -> None:
    """Print nested data on stdout: JSON as it is, CSV as (field, value) rows, else the given text."""
    if form == "json":
        click.echo(json.dumps(plain(tree), indent=2))
    elif form == "csv":
        emit([{"field": key, "value": value} for key, value in _leaves(plain(tree))], "csv")
    else:
        click.echo(printable(text()))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Align rows under their keys, fitted to the terminal where there is one: numbers are never cut.

    Where there is room for few of them, each row takes several lines.

    >>> print(table([{"metric": "cna", "value": 0.25}, {"metric": "stiffness", "value": None}]))
    metric     value
    cna         0.25
    stiffness      -
    """
    if not rows:
        return "nothing"
    keys = list(rows[0])
    right = [all(_is_number(row[key]) for row in rows) for key in keys]
    cells = [keys, *([_cell(row[key]) for key in keys] for row in rows)]
    limit = columns()
    widths = fit([max(len(line[i]) for line in cells) for i in range(len(keys))], limit, right)
    if limit is not None and _few(len(widths), right):
        return "\n".join(line for cell in cells[1:] for line in _stacked(keys, cell, limit))
    lines = [
        "  ".join(
            _cut(cell, width).rjust(width) if flush else _cut(cell, width).ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=False)
        ).rstrip()
        for line in cells
    ]
    if len(widths) < len(keys):
        lines.append(f"no room for {', '.join(keys[len(widths) :])}; --format json or csv shows all")
    return "\n".join(lines)


def columns() -> int | None:
    """Characters in a line of the terminal that stdout is, None where it is none."""
    return shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at a stream; of a process started without one, as by `>&-`, nobody does."""
    return stream is not None and stream.isatty()


def _few(count: int, right: Sequence[bool]) -> bool:
    """Whether the first `count` columns are less than half of all, or hold less than half of the numbers."""
    return 2 * count < len(right) or 2 * sum(right[:count]) < sum(right)


def _stacked(keys: Sequence[str], cells: Sequence[str], limit: int) -> list[str]:
    """A row over several lines: what it is, and below it all else with its key.

    >>> _stacked(["metric", "first", "last"], ["cna", "0.25", "-0.5"], 20)
    ['cna', '  first 0.25', '  last -0.5']
    """
    lines = [cells[0]]
    for key, cell in zip(keys[1:], cells[1:], strict=True):
        pieces = wrap(f"{key} {cell}", max(limit - 2, 10), break_long_words=False, break_on_hyphens=False)
        if len(lines) > 1 and len(pieces) == 1 and len(lines[-1]) + 2 + len(pieces[0]) <= limit:
            lines[-1] += f"  {pieces[0]}"
        else:
            lines += [f"  {piece}" for piece in pieces]
    return lines


def fit(widths: list[int], limit: int | None, fixed: Sequence[bool] = (), smallest: int = 12) -> list[int]:
    """Widths of the columns that fit into a line of `limit` characters, two apart: of the first so many.

    Columns of text are narrowed first, the widest of them most, down to `smallest`. The first, and those that are
    `fixed`, such as numbers, keep their width; where that is not enough, columns are left out from the last on.

    >>> fit([10, 40, 60], 80), fit([10, 8, 30, 8], 40, [False, True, False, True])
    ([10, 33, 33], [10, 8, 18])
    """
    if limit is None:
        return list(widths)
    flags = [True, *(list(fixed) or [False] * len(widths))[1:]]
    for count in range(len(widths), 0, -1):
        chosen = widths[:count]
        room = limit - 2 * (count - 1)
        while sum(chosen) > room:
            free = [i for i in range(count) if not flags[i] and chosen[i] > smallest]
            if not free:
                break
            # The last of the widest: what stands further left is read first.
            chosen[max(free, key=lambda i: (chosen[i], i))] -= 1
        if sum(chosen) <= room:
            return chosen
    return widths[:1]


def examples(*lines: str) -> str:
    r"""The end of a command's help: what one may type.

    >>> examples("tracer list runs")
    '\x08\nExample:\n  tracer list runs'
    """
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def pairs(items: Mapping[str, Any], indent: str = "  ") -> str:
    """Write names and values in two columns.

    >>> print(pairs({"state": "complete", "updates": 400}))
      state    complete
      updates  400
    """
    width = max((len(key) for key in items), default=0)
    return "\n".join(f"{indent}{key.ljust(width)}  {_cell(value)}" for key, value in items.items())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any, digits: int | None = 4) -> str:
    """Text of one value; `digits=None` keeps every digit and leaves what is absent empty."""
    if value is None:
        return "-" if digits else ""
    if isinstance(value, float):
        return f"{value + 0.0:.{digits}g}" if digits else repr(value)  # and no minus before 0
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item, digits) for item in value)
    return " ".join(printable(str(value)).split("\n"))


def _leaves(tree: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None or not tree:
        yield prefix, "" if items is not None else tree
        return
    for key, item in items:
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
