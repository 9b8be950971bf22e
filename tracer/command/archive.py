"""The commands that look after an archive; cli.py takes them in. Parse, call, print: nothing else."""

from pathlib import Path
from typing import Any

import click

from tracer.command.console import Bar, debug_option, emit, format_option, note
from tracer.spec import PROBE_STREAMS


@click.command("verify")
@click.argument("run")
@click.option("--full", is_flag=True, help="Also every checksum, and every array decoded.")
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


@click.command("materialize")
@click.argument("run")
@_streams
@click.option("--probe", metavar="NAME", help="Add this probe; --data says of what.")
@click.option("--data", metavar="MODULE:FACTORY", help="Returns what tracer.record takes as a probe.")
@click.option(
    "--model", metavar="MODULE:FACTORY", help="Returns the module, or (module, loss); its code is run."
)
@click.option("--device", default="cpu", show_default=True, help="Where the network is run.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of in place.")
@debug_option
def materialize_command(
    run: str,
    probe: str | None,
    data: str | None,
    model: str | None,
    device: str,
    output: Path | None,
    **streams: int | bool | None,
) -> None:
    """Fill in from recorded weights what was not recorded.

    Without options, every stream the recording was told to capture. The result equals what recording would
    have stored.
    """
    from tracer.apart import shared
    from tracer.materialize import Materialized, materialize
    from tracer.recorder.neutrality import imported

    if (probe is None) != (data is None):
        raise click.UsageError("--probe NAME and --data MODULE:FACTORY go together")
    added = {probe: imported(data)()} if probe and data else None
    asked: dict[str, Any] = {**streams, "probes": added, "device": device, "output": output}
    with Bar() as bar:
        if model is None and added is None:  # what the caller gives is run here
            done = Materialized(**shared().call(materialize, run, **asked, progress=bar))
        else:
            done = materialize(run, **asked, model=None if model is None else imported(model), progress=bar)
    click.echo(f"added {', '.join(map(str, done.added)) or 'nothing'} to {done.path}")
    for text in done.notes:
        note(text)


COMMANDS = (verify_command, materialize_command)
