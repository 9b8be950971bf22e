"""Write the reference pages that follow from the code: `python docs/generate.py`. A test compares them."""

import runpy
from pathlib import Path

import click

import analyze
import cli
from analyze.arrays import SOURCES
from analyze.engine import plan  # noqa: F401  (declares the arrays of the archive)
from analyze.summary import in_words

HERE = Path(__file__).parent
WIDTH = 100


COMPLETION = (
    "Commands, options and names of metrics complete with the Tab key after one line:",
    "",
    "| shell | in | line |",
    "|---|---|---|",
    '| bash | `~/.bashrc` | `eval "$(_TRACER_COMPLETE=bash_source tracer)"` |',
    '| zsh | `~/.zshrc` | `eval "$(_TRACER_COMPLETE=zsh_source tracer)"` |',
    "| fish | the prompt, once | `_TRACER_COMPLETE=fish_source tracer > ~/.config/fish/completions/tracer.fish` |",
    "",
    "Tables fit the terminal: text is shortened, numbers never; columns for which there is no room are named below,",
    "and where there is room for few of them each row takes several lines.",
    "What is not printed to a terminal is whole. Progress is a line on a terminal, in a file a line every ten seconds.",
)


def command_line() -> str:
    """Page of every command: what `--help` says."""
    parts = [
        "# Command line",
        "",
        "What `tracer COMMAND --help` says. Data goes to stdout, notes and progress to stderr;",
    ]
    parts += ["exit codes: 0 fine, 1 a finding or a refused input, 2 usage.", "", *COMPLETION, ""]
    parts += [_help(cli.main, "tracer")]
    for name, command in sorted(cli.main.commands.items()):
        parts += [f"## tracer {name}", "", _help(command, f"tracer {name}")]
    return "\n".join(parts)


def metrics() -> str:
    """Page of every metric: its card."""
    parts = ["# Metrics", "", "What `tracer metrics NAME` says in short. Shapes are (dimension, ...)."]
    for card in analyze.available_metrics().values():
        sources = "; ".join(f"[{r}]({r.link})" if r.link else str(r) for r in card.reference)
        variables = ", ".join(f"`{name}` ({', '.join(dims)})" for name, dims in card.variables.items())
        options = ", ".join(f"`{name}={value!r}`" for name, value in card.options.items())
        facts = {
            "Formula": f"`{card.formula}`" if card.formula else "",
            "Reads": ", ".join(f"`{name}`" for name in card.reads),
            "Returns": variables,
            "Told by": in_words(card.summary or {}),
            "Options": options,
            "Cost": card.cost,
            "Figure": card.reading,
            "Source": sources,
        }
        parts += ["", f"## `{card.name}`: {card.title}", "", card.meaning, ""]
        parts += [f"- {name}: {value}" for name, value in facts.items() if value]
    return "\n".join(parts) + "\n"


def inputs() -> str:
    """Page of every array a metric can read."""
    analyze.available_metrics()  # imports every module that declares one
    lines = [
        "# What a metric can read",
        "",
        "`other_metric.variable` names the result of another metric.",
        "",
    ]
    lines += ["| name | dimensions |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(made.dims) or '-'} |" for name, made in sorted(SOURCES.items())]
    return "\n".join(lines) + "\n"


ROOMS = runpy.run_path(str(HERE / "rooms.py"))
PAGES = {
    "command-line.md": command_line,
    "metrics.md": metrics,
    "inputs.md": inputs,
    "rooms.md": ROOMS["page"],
    "images/rooms.svg": ROOMS["picture"],
    **runpy.run_path(str(HERE / "pictures.py"))["PICTURES"],
}


def _help(command: click.Command, name: str) -> str:
    settings = {**cli.CONTEXT, "terminal_width": WIDTH, "max_content_width": WIDTH}
    with click.Context(command, info_name=name, **settings) as context:
        return f"```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    for page, write in PAGES.items():
        (HERE / page).write_text(write(), encoding="utf-8")
