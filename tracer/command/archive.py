"""The commands that look after an archive; cli.py takes them in. Parse, call, print: nothing else."""

from typing import Any

import click

from tracer.command.console import (
    Bar,
    debug_option,
    emit,
    emit_tree,
    examples,
    format_option,
    note,
)
from tracer.command.parameters import Assignment, imported
from tracer.spec import PROBE_STREAMS


@click.command(
    "list", epilog=examples("tracer list", "tracer list runs --format csv", "tracer list s3://bucket/runs")
)
@click.argument("place", metavar="[DIRECTORY]", default=".")
@format_option
@debug_option
def list_command(place: str, form: str) -> None:
    """List the archives of a directory.

    DIRECTORY is searched with its folders, four deep; a URL may be given too. An archive that cannot be read is
    listed with the reason.
    """
    from tracer.archive.listing import archives_and_links

    paths, links = archives_and_links(place)
    rows = [_listed(path) for path in paths]
    emit(rows, form)
    if not rows:
        note(f"no archives in {place}")
    if links:
        note(links)


def _listed(path: str) -> dict[str, Any]:
    from tracer.archive import open
    from tracer.archive.summary import duration, progress_of
    from tracer.errors import said

    facts: dict[str, Any] = dict.fromkeys(("updates", "epochs", "loss", "snapshots", "time", "model"))
    try:
        with open(path) as archive:
            facts |= progress_of(archive)
            state = archive.state
    except Exception as error:  # what is wrong with one archive is told beside it
        state = said(error)
    seconds = facts.pop("seconds", None)
    facts["time"] = None if seconds is None else duration(seconds)
    return {"archive": path, **facts, "state": state}


@click.command(
    "info", epilog=examples("tracer info runs/mlp.zarr", 'tracer info runs/mlp.zarr --set title="My run"')
)
@click.argument("run")
@click.option(
    "--set",
    "settings",
    type=Assignment(),
    multiple=True,
    help="First set title, licence, notes or anything else; repeatable.",
    metavar="NAME=VALUE",
)
@format_option
@debug_option
def info_command(run: str, settings: tuple[tuple[str, str | None], ...], form: str) -> None:
    """Show what an archive holds.

    RUN is a directory, a .zip file or a URL. Prints what was trained and what was recorded of it.
    """
    import tracer
    from tracer.archive.summary import summarize
    from tracer.command.summary import describe

    if settings:
        from tracer.share.attributes import set_attributes

        set_attributes(run, dict(settings))
    with tracer.open(run) as archive:
        summary = summarize(archive)
    emit_tree(summary, form, lambda: describe(summary))


@click.command("check", epilog=examples("tracer check train:main"))
@click.argument("function", metavar="MODULE:FUNCTION")
@format_option
@debug_option
def check_command(function: str, form: str) -> None:
    """Prove that recording leaves a training function unchanged.

    MODULE:FUNCTION is found from the current directory and takes `record`, which it uses as it would use
    tracer.record. It runs twice without recording and once with it. Exit code 1 unless nothing changed.
    """
    import tracer

    verdict = tracer.check(imported(function))
    emit([{"quantity": name, "outcome": outcome} for name, outcome in verdict.table.items()], form)
    note(verdict.summary)
    if not verdict:
        raise click.exceptions.Exit(1)


@click.command(
    "verify", epilog=examples("tracer verify runs/mlp.zarr", "tracer verify runs/mlp.zarr --full --replay")
)
@click.argument("run")
@click.option("--full", is_flag=True, help="Also every checksum, and every compressed array decoded.")
@click.option(
    "--replay", is_flag=True, help="Also recompute from the weights what was recorded, and compare."
)
@click.option(
    "--repair", is_flag=True, help="Cut back to the last sound step; what is cut is kept beside it."
)
@click.option("--device", default="cpu", show_default=True, help="Where --replay runs the network.")
@format_option
@debug_option
def verify_command(run: str, full: bool, replay: bool, repair: bool, device: str, form: str) -> None:
    """Check that an archive is whole and unchanged.

    RUN is a directory, a .zip file or a URL. Findings go to stdout; exit code 0 if there are none, else 1.
    """
    from tracer.apart import WorkerDiedError, shared
    from tracer.verify import verify
    from tracer.verify.report import Report

    if repair:
        from tracer.recovery.repair import repair as mend

        note(str(mend(run)))
    asked: dict[str, Any] = {"full": full, "replay": replay, "device": device}
    try:
        report = Report.of(shared().call(verify, run, **asked)) if replay else verify(run, **asked)
    except WorkerDiedError as error:
        report = verify(run, full=full)
        report.add("replay", "network", str(error))
    emit([{"where": finding.where, "finding": finding.text} for finding in report.findings], form)
    note(str(report).partition("\n")[0])
    for text in report.notes:
        note(text)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _streams(command: Any) -> Any:
    """One option a stream: how many of the first examples of each probe, or `all`."""
    for name in reversed(PROBE_STREAMS):
        text = f"Fill in {name}: of so many examples of each probe, or `all`."
        command = click.option(f"--{name}", metavar="N|all", callback=_take, help=text)(command)
    return command


def _take(context: click.Context, option: click.Parameter, value: str | None) -> int | bool | None:
    if value is None or value == "all":
        return None if value is None else True
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number of examples, nor `all`") from None


@click.command(
    "materialize",
    epilog=examples(
        "tracer materialize runs/mlp.zarr",
        "tracer materialize runs/mlp.zarr --gradients 256 --masks all -o runs/more.zarr",
    ),
)
@click.argument("run")
@_streams
@click.option("--probe", metavar="NAME", help="Add this probe; --data says of what.")
@click.option("--data", metavar="MODULE:FACTORY", help="Returns what tracer.record takes as a probe.")
@click.option(
    "--model", metavar="MODULE:FACTORY", help="Returns the module, or (module, loss); its code is run."
)
@click.option("--device", default="cpu", show_default=True, help="Where the network is run.")
@click.option("-o", "--output", type=click.Path(), help="Write here instead of in place.")
@debug_option
def materialize_command(
    run: str,
    probe: str | None,
    data: str | None,
    model: str | None,
    device: str,
    output: str | None,
    **streams: int | bool | None,
) -> None:
    """Fill in from recorded weights what was not recorded.

    Without options, every stream the recording was told to capture. The result equals what recording would
    have stored.
    """
    from tracer.apart import shared
    from tracer.materialize import Materialized, materialize

    if (probe is None) != (data is None):
        raise click.UsageError("--probe NAME and --data MODULE:FACTORY go together")
    added = None if probe is None or data is None else {probe: imported(data)()}
    asked: dict[str, Any] = {**streams, "probes": added, "device": device, "output": output}
    with Bar() as bar:
        if model is None and added is None:  # what the caller gives is run here
            done = Materialized(**shared().call(materialize, run, **asked, progress=bar))
        else:
            done = materialize(run, **asked, model=None if model is None else imported(model), progress=bar)
    click.echo(f"added {', '.join(map(str, done.added)) or 'nothing'} to {done.path}")
    for text in done.notes:
        note(text)


COMMANDS = (list_command, info_command, check_command, verify_command, materialize_command)
