"""Values of options that name metrics, their options, and sizes."""

from typing import Any

import click
from click.shell_completion import CompletionItem

from tracer.command.parameters import theirs

_OWN: dict[str, Any] = {}  # cards of the files that -m names, by name


class MetricName(click.ParamType):
    """The name of a metric: completed with its title, and corrected when misspelt; or a file that defines some."""

    name = "metric"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that begin like what was typed, each with its title."""
        import analyze

        if "/" in incomplete or incomplete.startswith("."):
            return [CompletionItem(incomplete, type="file")]
        cards = analyze.available_metrics().items()
        return [CompletionItem(name, help=card.title) for name, card in cards if name.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        """Cards of the metrics, or a usage error that offers the closest one."""
        import analyze
        from analyze.catalogue import metrics_of_file
        from tracer.errors import TracerError, did_you_mean

        if isinstance(value, list):
            return value
        if str(value).endswith(".py"):
            try:
                with theirs(f"running {value!r}"):
                    cards = metrics_of_file(value)
            except TracerError as error:
                self.fail(str(error), param, ctx)
            _OWN.update({card.name: card for card in cards})
            return list(cards)
        known = analyze.available_metrics()
        if value not in known:
            self.fail(f"no metric is called {value!r}; {did_you_mean(value, known)}", param, ctx)
        return [known[value]]


class Setting(click.ParamType):
    """`metric.option=value`: all three are checked, the value is read as JSON, else as text."""

    name = "setting"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str, Any]:
        """The metric, the option and its value."""
        import json

        from tracer.errors import ArgumentError

        path, equals, text = str(value).partition("=")
        metric, dot, option = path.partition(".")
        if not equals or not dot:
            self.fail(f"{value!r} is not METRIC.OPTION=VALUE, for example margin.epsilon=0.1", param, ctx)
        card = _OWN[metric] if metric in _OWN else METRIC.convert(metric, param, ctx)[0]
        try:
            setting = json.loads(text)
        except json.JSONDecodeError:
            setting = text
        try:
            card.with_options({option: setting})
        except (TypeError, ArgumentError) as error:
            self.fail(str(error), param, ctx)
        return metric, option, setting


class Memory(click.ParamType):
    """A size such as 2GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        from tracer.errors import parse_memory

        try:
            return parse_memory(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


METRIC, SETTING = MetricName(), Setting()
scheduler_option = click.option(
    "--scheduler", metavar="ADDRESS", help="Compute on the Dask cluster of this scheduler instead."
)
