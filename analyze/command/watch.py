"""`tracer watch`: a page that shows runs as they train."""

import errno

import click

from tracer.command.console import debug_option, examples, note
from tracer.command.parameters import Seconds


@click.command(
    "watch",
    epilog=examples(
        "tracer watch runs", "tracer watch runs/mlp.zarr --open", "tracer watch s3://bucket/runs --port 0"
    ),
)
@click.argument("place", metavar="[RUN|DIRECTORY]", default=".")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="Of the page; 0: any."
)
@click.option(
    "--every",
    type=Seconds(0.1, 86_400),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the directory is looked at.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@debug_option
def watch_command(place: str, port: int, every: float, show: bool) -> None:
    """Show runs as they train, on a page for this machine.

    Of each run of the directory (or URL): state, progress, loss, train and test error, their gap, and the quick
    metrics, as snapshots land; runs laid over one another by what was varied. Nothing is written there, the page
    is served on 127.0.0.1 alone, and it ends with Ctrl-C. From another machine: ssh -L 8600:127.0.0.1:8600 HOST.
    """
    import starlette  # noqa: F401  (what is missing is said before anything begins)
    import uvicorn  # noqa: F401

    from analyze.watch.app import serve
    from analyze.watch.survey import Survey

    def ready(address: str) -> None:
        click.echo(address)
        note("Ctrl-C ends it")
        if show:
            click.launch(address)

    try:
        serve(Survey(place, every), port, ready)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise click.ClickException(f"port {port} is taken; give another with --port, or 0 for any") from error


COMMANDS = (watch_command,)
