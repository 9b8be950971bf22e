"""The `tracer` command: its name, its group, and what all its commands share.

Everything that takes time to import is imported inside the command that needs it.
"""

from pathlib import Path

import click

from analyze.command import analysis, comparison, metrics, watch
from tracer.command import archive as archives
from tracer.command import share
from tracer.command.console import Commands, debug_option, examples, note

__owner__ = "tracer-nn"  # tracer.__main__ refuses any other module called cli

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        import tracer

        click.echo(f"tracer, version {tracer.__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings=CONTEXT,
    epilog=examples("tracer demo", "tracer list runs", "tracer watch runs", "tracer analyze runs/mlp.zarr"),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@debug_option
def main() -> None:
    """Record what a PyTorch training run does; compute every generalization metric offline."""


for _room in (analysis, comparison, metrics, watch, archives, share):
    for _command in _room.COMMANDS:
        main.add_command(_command)


@main.command(epilog=examples("tracer demo", "tracer demo --shuffle-labels --out by-heart"))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("tracer-demo"),
    show_default=True,
    help="Directory for the archive and the report.",
)
@click.option("--shuffle-labels", is_flag=True, help="Permute the training labels: learning by heart.")
@click.option("--epochs", type=click.IntRange(1), default=40, show_default=True, help="Passes over the data.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the weights and the batches.")
@debug_option
def demo(out: Path, shuffle_labels: bool, epochs: int, seed: int) -> None:
    """Train on handwritten digits with recording on, and analyze it.

    Says in words what was found. Takes less than a minute on two cores, and leaves digits.zarr and
    digits.analysis/report.html in the directory.
    """
    archive, analysis = out / "digits.zarr", out / "digits.analysis"
    if archive.exists():
        raise click.ClickException(
            f"{archive} is there from an earlier demo: give another --out, or remove it"
        )
    note(f"Training on 1,297 handwritten digits{' with shuffled labels' if shuffle_labels else ''} ...")
    from analyze.command.analysis import analyze_one
    from tracer.command.demo import one_thread, train

    def progress(epoch: int, loss: float) -> None:
        if epoch == epochs or epoch % max(1, epochs // 8) == 0:
            note(f"  epoch {epoch:>3} of {epochs}  training loss {loss:.4f}")

    with one_thread():
        train(archive, epochs=epochs, shuffle_labels=shuffle_labels, seed=seed, progress=progress)
        note("Analyzing ...")
        results = analyze_one(str(archive), analysis, apart=False)  # it is this process's own
    click.echo(f"archive  {archive}\nreport   {analysis / 'report.html'}\n")
    for finding in results.findings:
        click.echo(f"- {finding.sentence}")
