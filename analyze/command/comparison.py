"""`tracer compare`: which measures follow generalization across runs."""

from pathlib import Path
from typing import Any

import click

from analyze.command.parameters import Memory, scheduler_option
from tracer.command.console import Bar, debug_option, emit, examples, format_option, note, printable


@click.command(
    "compare",
    epilog=examples(
        "tracer compare runs/*.zarr -o comparison",
        "tracer compare runs/*.zarr -m stiffness --against gap_error --at early",
    ),
)
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write tables, figures and a page.",
)
@click.option(
    "-m", "--measure", "measures", multiple=True, help="Metric, METRIC.VARIABLE or label [all saved]."
)
@click.option(
    "--against", multiple=True, help="gap_error, gap_loss, test_error or test_loss; repeatable [all]."
)
@click.option("--at", default="final", show_default=True, help="final, best, early, mid or a step.")
@click.option("--axis", "axes", multiple=True, help="Attribute that was varied; repeatable [found].")
@click.option("--environments", help="Attribute whose values are environments [changes of one axis].")
@click.option(
    "--bootstrap", type=click.IntRange(0), default=1000, show_default=True, help="Resamples of runs."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the resamples.")
@click.option("--memory", type=Memory(), default="2GB", show_default=True, help="As for analyze.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Worker processes.")
@scheduler_option
@format_option
@debug_option
def compare_command(runs: tuple[str, ...], output: Path | None, at: str, form: str, **settings: Any) -> None:
    """Compare runs: which measures follow generalization across them.

    RUNS are archives or their analyses; what an analysis lacks is computed and saved beside its archive.
    Prints every measure with its correlations. With -o, also comparison.html. A run that cannot be read is left
    out and named on stderr, with exit code 1.
    """
    import analyze

    chosen = {name: value for name, value in settings.items() if value not in ((), None)}
    with Bar() as bar:
        comparison = analyze.compare(runs, at=_when(at), apart=True, progress=bar, **chosen)
    if form == "table":
        for line in (comparison.answer, *comparison.notes):
            if line not in comparison.unread:  # which come last, as errors
                click.echo(printable(line))
    emit(comparison.rows(), form)
    if output is not None:
        note(f"page: {comparison.save(output) / 'comparison.html'}")
    for line in comparison.unread:
        note(f"Error: {line}")
    if comparison.unread:
        raise click.exceptions.Exit(1)


def _when(at: str) -> str | int:
    try:
        return int(at)
    except ValueError:
        return at


COMMANDS = (compare_command,)
