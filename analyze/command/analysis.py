"""`tracer analyze`: compute metrics of archives and write reports."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyze.command.parameters import METRIC, SETTING, Memory, scheduler_option
from tracer.command.console import Bar, debug_option, emit, examples, format_option, note, sentence
from tracer.command.parameters import Jobs, Seconds, Steps, imported
from tracer.store.store import is_remote, local_path

if TYPE_CHECKING:
    from analyze.results import Results


@click.command(
    "analyze",
    epilog=examples(
        "tracer analyze runs/mlp.zarr",
        "tracer analyze runs/*.zarr -m stiffness -m cna",
        "tracer analyze runs/mlp.zarr -m ./my_metric.py --set my_metric.k=5",
        "tracer analyze runs/mlp.zarr --to tensorboard logs",
    ),
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the results, of one run [RUN.analysis].",
)
@click.option(
    "-m",
    "--metric",
    "names",
    type=METRIC,
    multiple=True,
    is_eager=True,
    metavar="NAME|FILE.py",
    help="Compute this metric, or those of a file of yours, whose code is run; repeatable [all].",
)
@click.option(
    "--memory", type=Memory(), default="2GB", show_default=True, help="Most that arrays may take at a time."
)
@click.option(
    "--jobs",
    type=Jobs(),
    default="auto",
    show_default=True,
    help="Worker processes; auto: a core each, for long work.",
)
@scheduler_option
@click.option(
    "--snapshots",
    type=Steps(),
    default="few",
    show_default=True,
    metavar="few|all|STEP,...",
    help="Where the network is run again; few: first, last and three between.",
)
@click.option(
    "--patience",
    type=Seconds(0),
    metavar="SECONDS",
    help="Of running the network again, in all, by operations counted [300 passes of 256 examples, or half of what "
    "stored arrays take; 1 to 60].",
)
@click.option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    help="Set an option of a metric; repeatable.",
    metavar="METRIC.OPTION=VALUE",
)
@click.option(
    "--model",
    metavar="MODULE:FACTORY",
    help="Returns the network, where the archive holds none; its code is run.",
)
@click.option(
    "--data", metavar="MODULE:FACTORY", help="Returns the training set, where the archive holds no inputs."
)
@click.option("--device", help="Where networks are run again, for example cuda [cpu].")
@click.option(
    "--to",
    "trackers",
    type=(click.Choice(["tensorboard", "wandb", "mlflow"]), str),
    multiple=True,
    metavar="TRACKER PLACE",
    help="Also send the numbers to tensorboard LOGDIR, wandb PROJECT or mlflow URI; repeatable.",
)
@click.option("--force", is_flag=True, help="Compute again what the output already holds.")
@format_option
@debug_option
def analyze_command(
    runs: tuple[str, ...],
    output: Path | None,
    names: tuple[list[Any], ...],
    settings: tuple[tuple[str, str, Any], ...],
    model: str | None,
    data: str | None,
    device: str | None,
    trackers: tuple[tuple[str, str], ...],
    force: bool,
    form: str,
    **how: Any,
) -> None:
    """Compute metrics of archives and write reports.

    RUN is a directory, a .zip file or a URL; a pattern or a directory of archives names several. Results, tables,
    figures and report.html go to RUN.analysis, first of what is stored; what runs the network again follows, and
    the report is written again as they come. What the archive cannot support is skipped, with its reason on stderr,
    and so is what does not fit into --patience. A metric named with -m is computed however long it takes, or is
    an error. What was computed before is kept, snapshot by snapshot.
    """
    from analyze.comparison.patterns import paths_of
    from analyze.report.listing import result_rows
    from analyze.watch.trackers import check, mirror_metrics, tracker

    replay: dict[str, Any] = {"device": device}
    if model or data:
        replay |= {"model": imported(model) if model else None, "data": imported(data) if data else None}
    options: dict[str, dict[str, Any]] = {}
    for metric, option, value in settings:
        options.setdefault(metric, {})[option] = value
    wanted = list({card.name: card for cards in names for card in cards}.values()) or None
    for kind, where in trackers:
        check(kind, where)
    places, passed = paths_of(runs)
    for line in passed:
        note(line)
    targets = targets_of(places, output)
    asked = {"metrics": wanted, "options": options, "replay": replay, **how}
    rows: list[dict[str, Any]] = []
    failed = 0
    for place, target in targets.items():
        try:
            results = analyze_one(place, target, force, **asked)
        except Exception as error:
            if len(targets) == 1:
                raise
            failed += 1  # of many runs, the others are still wanted
            note(f"Error: {place}: {sentence(error)}")
            continue
        named = {"run": target.name.removesuffix(".analysis")} if len(targets) > 1 else {}
        rows += [{**named, **row} for row in result_rows(results)]
        for finding in results.findings if form == "table" and len(targets) == 1 else ():
            click.echo(f"- {finding.sentence}")
        note(f"report: {target / 'report.html'}")
        for kind, where in trackers:
            with tracker(kind, where, target.name.removesuffix(".analysis")) as one:
                count = mirror_metrics(results, one)
            note(f"sent {count} values to {kind} {where}")
    emit(rows, form)
    if failed:
        raise click.exceptions.Exit(1)


def targets_of(runs: Sequence[str], output: Path | None) -> dict[str, Path]:
    """Each run once, however often and by whatever path it was named, and the directory of its results.

    Errors: UsageError for two runs of one directory.
    """
    once: dict[str | Path, str] = {}
    for run in runs:
        once.setdefault(run if is_remote(run) else local_path(run).resolve(), run)
    if output is not None and len(once) > 1:
        raise click.UsageError(f"--output is for one run, and these are {len(once)}")
    targets = {run: output or beside(run) for run in once.values()}
    taken: dict[Path, str] = {}
    for run, target in targets.items():
        if (other := taken.setdefault(target.resolve(), run)) != run:
            raise click.UsageError(
                f"results of {other} and of {run} would both go to {target}; give one of them here, and the other "
                "by itself with --output"
            )
    return targets


def beside(run: str) -> Path:
    """RUN.analysis beside a local archive; in this directory for a URL."""
    from analyze.comparison.runs import analysis_of

    return analysis_of(run.rstrip("/"))


def analyze_one(
    run: str, target: Path, force: bool = False, apart: bool = True, **settings: Any
) -> "Results":
    """Compute and write under `target`, first what is quick; what is there already is kept unless `force`.

    apart: the network of an archive runs in a process of its own, for who knows where the archive is from.
    """
    import analyze
    from analyze.findings import findings
    from analyze.report.save import FEW, Pages
    from analyze.saved.store import ResultStore
    from tracer.store.files import claimed

    first: list[int] = []

    def arrived(results: Any) -> None:
        left = len(results.coming)
        if not first and left:  # what was found is told before its figures are drawn
            for finding in findings(results):
                note(f"- {finding.sentence}")
        if not left and (first or len(results) <= FEW):
            return  # the whole page follows at once
        if first and not pages.due:
            return
        pages.write(results, whole=False)
        if first and left:
            note(f"{first[0] - left} of {first[0]} are in the report")
        elif left:
            coming = ", ".join(results.coming)
            note(f"report: {target / 'report.html'}; to come, in order of cost: {coming}")
        first.append(left)

    named = settings.get("metrics")
    beside = settings.get("jobs") != 1 and (named is None or len(named) >= FEW)
    with claimed(target), Pages(target, workers=beside) as pages, Bar() as bar:
        kept = None if force else target
        calls: dict[str, Any] = {"progress": bar, "arrived": arrived, "finished": pages.add}
        results = analyze.run(run, output=kept, apart=apart, **calls, **settings)
        pages.write(results)
        if force and results.archive is not None:  # of another run, nothing was let go of yet
            ResultStore(target, str(results.archive.run_id)).consolidate()
    for name, reason in results.skipped.items():
        note(f"skipped {name}: {reason}")
    return results


COMMANDS = (analyze_command,)
