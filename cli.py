"""The `tracer` command: parse, call, print. Nothing else.

Everything that takes time to import is imported inside the command that needs it.
"""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from tracer.command import archive as commands
from tracer.command.console import Bar, Commands, debug_option, emit, emit_tree, format_option, note
from tracer.command.parameters import Jobs, Steps
from tracer.command.share import COMMANDS, Assignment

__owner__ = "tracer-nn"  # tracer.__main__ refuses any other module called cli

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class MetricName(click.ParamType):
    """The name of a metric: completed with its title, and corrected when misspelt."""

    name = "metric"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that begin like what was typed, each with its title."""
        import analyze

        cards = analyze.available_metrics().items()
        return [CompletionItem(name, help=card.title) for name, card in cards if name.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself, or a usage error that offers the closest one."""
        import analyze
        from tracer.errors import did_you_mean

        known = analyze.available_metrics()
        if value not in known:
            self.fail(f"no metric is called {value!r}; {did_you_mean(value, known)}", param, ctx)
        return str(value)


class Setting(click.ParamType):
    """`metric.option=value`: both names are checked, the value is read as JSON, else as text."""

    name = "setting"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str, Any]:
        """The metric, the option and its value."""
        import json

        import analyze
        from tracer.errors import did_you_mean

        path, equals, text = str(value).partition("=")
        metric, dot, option = path.partition(".")
        if not equals or not dot:
            self.fail(f"{value!r} is not METRIC.OPTION=VALUE, for example margin.epsilon=0.1", param, ctx)
        options = analyze.available_metrics()[METRIC.convert(metric, param, ctx)].options
        if option not in options:
            self.fail(f"{metric} has no option {option!r}; {did_you_mean(option, options)}", param, ctx)
        try:
            return metric, option, json.loads(text)
        except json.JSONDecodeError:
            return metric, option, text


METRIC, SETTING = MetricName(), Setting()
scheduler_option = click.option(
    "--scheduler", metavar="ADDRESS", help="Compute on the Dask cluster of this scheduler instead."
)


class Memory(click.ParamType):
    """A size such as 2GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        from analyze.engine import parse_memory

        try:
            return parse_memory(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        import tracer

        click.echo(f"tracer, version {tracer.__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings=CONTEXT)
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


for _command in (*COMMANDS, *commands.COMMANDS):
    main.add_command(_command)


@main.command()
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

    Says in words what was found. Takes under a minute on two cores, and leaves digits.zarr and
    digits.analysis/report.html in the directory.
    """
    archive, analysis = out / "digits.zarr", out / "digits.analysis"
    note(f"Training on 1,297 handwritten digits{' with shuffled labels' if shuffle_labels else ''} ...")
    from tracer.command.demo import one_thread, train

    def progress(epoch: int, loss: float) -> None:
        if epoch == epochs or epoch % max(1, epochs // 8) == 0:
            note(f"  epoch {epoch:>3} of {epochs}  training loss {loss:.4f}")

    out.mkdir(parents=True, exist_ok=True)
    with one_thread():
        train(archive, epochs=epochs, shuffle_labels=shuffle_labels, seed=seed, progress=progress)
        note("Analyzing ...")
        results = _analyze(str(archive), analysis)
    click.echo(f"archive  {archive}\nreport   {analysis / 'report.html'}\n")
    for finding in results.findings:
        click.echo(f"- {finding.sentence}")


@main.command()
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
def info(run: str, settings: tuple[tuple[str, str | None], ...], form: str) -> None:
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


@main.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@format_option
@debug_option
def check(function: str, form: str) -> None:
    """Prove that recording leaves a training function unchanged.

    MODULE:FUNCTION is found from the current directory and takes `record`, which it uses as it would use
    tracer.record. It runs twice without recording and once with it. Exit code 1 unless nothing changed.
    """
    import tracer
    from tracer.recorder.neutrality import imported

    verdict = tracer.check(imported(function))
    emit([{"quantity": name, "outcome": outcome} for name, outcome in verdict.table.items()], form)
    note(verdict.summary)
    if not verdict:
        raise click.exceptions.Exit(1)


@main.command("analyze")
@click.argument("run")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the results [RUN.analysis].",
)
@click.option(
    "-m", "--metric", "names", type=METRIC, multiple=True, help="Compute this metric; repeatable [all]."
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
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Of running the network again, in all, by operations counted.",
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
@click.option("--force", is_flag=True, help="Compute again what the output already holds.")
@format_option
@debug_option
def analyze_run(
    run: str,
    output: Path | None,
    names: tuple[str, ...],
    memory: int,
    jobs: Any,
    scheduler: str | None,
    snapshots: Any,
    patience: float,
    settings: tuple[tuple[str, str, Any], ...],
    model: str | None,
    data: str | None,
    device: str | None,
    force: bool,
    form: str,
) -> None:
    """Compute metrics of an archive and write a report.

    RUN is a directory, a .zip file or a URL. Results, tables, figures and report.html go to RUN.analysis,
    first of what is stored; what runs the network again follows, and the report is written again with each.
    What the archive cannot support is skipped, with its reason on stderr, and so is what does not fit into
    --patience. A metric named with -m is computed however long it takes, or is an error. What was computed
    before is kept, snapshot by snapshot.
    """
    from analyze.report.listing import result_rows

    replay: dict[str, Any] = {"device": device}
    if model or data:
        from tracer.recorder.neutrality import imported

        replay |= {"model": imported(model) if model else None, "data": imported(data) if data else None}

    options: dict[str, dict[str, Any]] = {}
    for metric, option, value in settings:
        options.setdefault(metric, {})[option] = value
    target = output or _beside(run)
    wanted = list(dict.fromkeys(names)) or None
    asked = {"metrics": wanted, "memory": memory, "options": options, "replay": replay}
    where = {"jobs": jobs, "scheduler": scheduler, "snapshots": snapshots, "patience": patience}
    results = _analyze(run, target, force, **asked, **where)
    for finding in results.findings if form == "table" else ():
        click.echo(f"- {finding.sentence}")
    emit(result_rows(results), form)
    note(f"report: {target / 'report.html'}")


@main.command("compare")
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
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resamples.")
@click.option("--memory", type=Memory(), default="2GB", show_default=True, help="As for analyze.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Worker processes.")
@scheduler_option
@format_option
@debug_option
def compare_runs(runs: tuple[str, ...], output: Path | None, at: str, form: str, **settings: Any) -> None:
    """Compare runs: which measures follow generalization across them.

    RUNS are archives or their analyses; what an analysis lacks is computed and saved beside its archive.
    Prints every measure with its correlations. With -o, also comparison.html.
    """
    import analyze

    chosen = {name: value for name, value in settings.items() if value not in ((), None)}
    when = int(at) if at.removeprefix("-").isdigit() else at
    with Bar() as bar:
        comparison = analyze.compare(runs, at=when, progress=bar, **chosen)
    emit(comparison.rows(), form)
    if output is not None:
        note(f"page: {comparison.save(output) / 'comparison.html'}")


@main.command("metrics")
@click.argument("names", metavar="[NAME]...", type=METRIC, nargs=-1)
@click.option("--bibtex", is_flag=True, help="Print the references as BibTeX.")
@format_option
@debug_option
def list_metrics(names: tuple[str, ...], bibtex: bool, form: str) -> None:
    """List what can be computed, from what, and who defined it.

    With NAME, the whole card of that metric.
    """
    import analyze
    from analyze.report.listing import card_row, card_text

    cards = [card for name, card in analyze.available_metrics().items() if not names or name in names]
    if bibtex:
        entries = {reference.key: reference.bibtex() for card in cards for reference in card.reference}
        click.echo("\n\n".join(entries.values()))
    elif names and form == "table":
        click.echo("\n\n".join(card_text(card) for card in cards))
    else:
        emit([card_row(card) for card in cards], form)


def _beside(run: str) -> Path:
    """RUN.analysis beside a local archive; in this directory for a URL."""
    place = run.rstrip("/").rpartition("/")[2] if "://" in run else run
    return (
        Path(place).with_suffix(".analysis")
        if Path(place).suffix in (".zarr", ".zip")
        else Path(f"{place}.analysis")
    )


def _analyze(run: str, target: Path, force: bool = False, **settings: Any) -> Any:
    """Compute and write under `target`, first what is quick; what is there already is kept unless `force`."""
    import analyze
    from analyze.findings import findings
    from analyze.report.save import Pages
    from tracer.store.files import claimed

    seen: list[Any] = []

    def arrived(results: Any) -> None:
        pages.write(results)
        for finding in findings(results) if results.coming and not seen else ():
            note(f"- {finding.sentence}")
        report = "" if seen else f"report: {target / 'report.html'}; "
        if results.coming:
            note(f"{report}still computing {', '.join(results.coming)}")
        seen.append(results)

    with claimed(target), Pages(target, workers=settings.get("jobs") != 1) as pages, Bar() as bar:
        kept = None if force else target
        calls: dict[str, Any] = {"progress": bar, "arrived": arrived, "finished": pages.add}
        results = analyze.run(run, output=kept, apart=True, **calls, **settings)
        pages.write(results)
    for name, reason in results.skipped.items():
        note(f"skipped {name}: {reason}")
    return results
