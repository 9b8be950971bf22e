"""The commands that hand an archive on; cli.py takes them in. Parse, call, print: nothing else."""

from itertools import starmap
from pathlib import Path
from typing import Any

import click

from tracer.command.console import Bar, debug_option, examples, note
from tracer.command.parameters import imported

_PATH = click.Path()  # as it was typed: a Path would take a slash of a URL away


class StepsType(click.ParamType):
    """Steps as START:STOP:STRIDE, each of which may be left out, or as a list with commas."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A slice or a list of steps."""
        if isinstance(value, slice | list):
            return value
        try:
            if ":" not in value:
                return [int(part) for part in value.split(",")]
            parts = [int(part) if part else None for part in value.split(":")]
            return slice(*parts) if len(parts) <= 3 else self.fail("", param, ctx)
        except (ValueError, click.UsageError):
            self.fail(f"{value!r} is not START:STOP:STRIDE or a list such as 0,100,200", param, ctx)


@click.command(
    "pack",
    epilog=examples(
        "tracer pack runs/mlp.zarr", "tracer pack runs/mlp.zarr --zip --no-gradients -o small.zip"
    ),
)
@click.argument("run")
@click.option("-o", "--output", type=_PATH, help="Write here instead of in place; must not exist.")
@click.option("--zip", "zipped", is_flag=True, help="Write one zip file, RUN.zip unless --output says else.")
@click.option("--probe", "probes", multiple=True, help="Keep this probe; repeatable [all].")
@click.option("--site", "sites", multiple=True, help="Keep this site; repeatable [all].")
@click.option("--steps", type=StepsType(), help="Keep snapshots at START:STOP:STRIDE, or at a list [all].")
@click.option("--no-gradients", is_flag=True, help="Leave per-example gradients out; their Grams stay.")
@debug_option
def pack_command(
    run: str,
    output: str | None,
    zipped: bool,
    probes: tuple[str, ...],
    sites: tuple[str, ...],
    steps: Any,
    no_gradients: bool,
) -> None:
    """Compress an archive along time, in place or to another place.

    Every array stays what it is, bit for bit; the result is compared with the original before it takes its
    place. A part of an archive needs --output; its card says what was left out.
    """
    from tracer.archive import open
    from tracer.share.packs import pack

    selection = {"probes": list(probes) or None, "sites": list(sites) or None, "steps": steps}
    with Bar() as bar:
        made = pack(run, output, zip=zipped, gradients=not no_gradients, progress=bar, **selection)
    click.echo(made)
    with open(made) as archive:
        left_out = archive.card["packed"]["left_out"]
    if left_out:
        note(f"left out: {'; '.join(starmap(_left_out, left_out.items()))}")


def _left_out(what: str, which: Any) -> str:
    """One kind of what a part of an archive lacks, in words."""
    if which is True:
        return what
    return f"{what} {', '.join(map(str, which))}" if isinstance(which, list) else f"{which:,} {what}"


@click.command("unpack", epilog=examples("tracer unpack mlp.zip -o runs/mlp.zarr"))
@click.argument("run")
@click.option("-o", "--output", type=_PATH, help="Write here instead of in place; must not exist.")
@debug_option
def unpack_command(run: str, output: str | None) -> None:
    """Write a packed or zipped archive as a directory again.

    It then has the form in which it was recorded. A zip file gets a directory .zarr beside it.
    """
    from tracer.share.packs import unpack

    with Bar() as bar:
        click.echo(unpack(run, output, progress=bar))


@click.command("export", epilog=examples("tracer export runs/mlp.zarr mlp.h5"))
@click.argument("run")
@click.argument("file", type=_PATH)
@click.option("--no-compression", is_flag=True, help="Store values as they are: larger, faster.")
@debug_option
def export_command(run: str, file: str, no_compression: bool) -> None:
    """Write an archive to one HDF5 file, with dimension scales."""
    from tracer.share.hdf5 import export_hdf5

    with Bar() as bar:
        click.echo(export_hdf5(run, file, compression=None if no_compression else "gzip", progress=bar))


@click.command(
    "import",
    epilog=examples(
        "tracer import mlp.h5 runs/mlp.zarr",
        "tracer import checkpoints runs/mlp.zarr --model train:model --probes train:probes",
    ),
)
@click.argument("source", type=_PATH)
@click.argument("output", type=_PATH)
@click.option("--model", metavar="MODULE:FUNCTION", help="Of a folder of weights: makes the model.")
@click.option(
    "--probes", metavar="MODULE:FUNCTION", help="Of a folder of weights: returns the probes by name."
)
@click.option("--loss", metavar="MODULE:FUNCTION", help="Of a folder of weights [cross entropy].")
@click.option("--pattern", metavar="GLOB", help="Files of weights in the folder [**/*.safetensors].")
@click.option(
    "--epochs/--steps", default=None, help="What the numbers in the names count [what the names say]."
)
@click.option("--entry", metavar="NAME", help="Of several states in a file, the one to read.")
@click.option("--revision", multiple=True, help="Of a model on the Hub; repeat it [all but main].")
@click.option("--load-pt", is_flag=True, help="Also read files of torch.save; only tensors are loaded.")
@debug_option
def import_command(
    source: str,
    output: str,
    model: str | None,
    probes: str | None,
    loss: str | None,
    pattern: str | None,
    epochs: bool | None,
    entry: str | None,
    revision: tuple[str, ...],
    load_pt: bool,
) -> None:
    """Make an archive of an HDF5 export, or of saved weights in a folder or on the Hub (hf://owner/name).

    A folder holds one state_dict a snapshot, with its step in the name of the file, and a model on the Hub one in
    each revision; --model and --probes name functions, found from the current directory, that make what recording
    would have been given.
    """
    from tracer.archive.listing import is_archive

    with Bar() as bar:
        if Path(source).is_dir() and is_archive(Path(source)):
            raise click.UsageError(f"{source!r} is an archive already; `tracer unpack` with -o copies one")
        if not Path(source).is_dir() and not source.startswith("hf:"):
            from tracer.share.hdf5 import import_hdf5

            click.echo(import_hdf5(source, output, progress=bar))
            return
        if model is None or probes is None:
            raise click.UsageError("a folder of weights needs --model and --probes")
        from torch.nn.functional import cross_entropy

        from tracer.recorder.checkpoints import import_checkpoints

        made = import_checkpoints(
            source,
            output,
            factory=imported(model),
            probes=imported(probes)(),
            loss=imported(loss) if loss else cross_entropy,
            pattern=pattern,
            epochs=epochs,
            load_pt=load_pt,
            entry=entry,
            revisions=revision or None,
            progress=bar,
        )
    click.echo(made)


@click.command(
    "push",
    epilog=examples(
        "tracer push runs/mlp.zarr s3://bucket/mlp.zarr",
        "tracer push runs/mlp.zarr hf://datasets/me/runs/mlp.zarr",
    ),
)
@click.argument("run")
@click.argument("url")
@click.option("--jobs", type=click.IntRange(1), default=8, show_default=True, help="Objects sent at a time.")
@click.option("--overwrite", is_flag=True, help="Replace another archive at the URL.")
@debug_option
def push_command(run: str, url: str, jobs: int, overwrite: bool) -> None:
    """Copy an archive to a URL; again, and it sends what is missing.

    URL is any that fsspec knows, such as s3://bucket/run.zarr, or hf://datasets/owner/name/run.zarr.
    """
    from tracer.share.remote import push

    with Bar() as bar:
        moved = push(run, url, jobs=jobs, overwrite=overwrite, progress=bar)
    note(f"sent {moved.sent} objects ({moved.nbytes:,} bytes), {moved.kept} were there")
    click.echo(url)


@click.command("pull", epilog=examples("tracer pull s3://bucket/mlp.zarr runs/mlp.zarr"))
@click.argument("url")
@click.argument("output", type=_PATH)
@click.option(
    "--jobs", type=click.IntRange(1), default=8, show_default=True, help="Objects fetched at a time."
)
@debug_option
def pull_command(url: str, output: str, jobs: int) -> None:
    """Copy an archive from a URL and check it on arrival.

    After a break the same command fetches only what is missing. To look at an archive or analyze it, no copy
    is needed: every command takes its URL.
    """
    from tracer.share.remote import pull

    with Bar() as bar:
        moved = pull(url, output, jobs=jobs, progress=bar)
    note(f"fetched {moved.sent} objects ({moved.nbytes:,} bytes), {moved.kept} were here")
    click.echo(output)


COMMANDS = (pack_command, unpack_command, export_command, import_command, push_command, pull_command)
