"""`tracer metrics`: what can be computed."""

from typing import Any

import click

from analyze.command.parameters import METRIC
from tracer.command.console import columns, debug_option, emit, examples, format_option


@click.command(
    "metrics",
    epilog=examples("tracer metrics", "tracer metrics stiffness", "tracer metrics stiffness --bibtex"),
)
@click.argument("names", metavar="[NAME]...", type=METRIC, nargs=-1)
@click.option("--bibtex", is_flag=True, help="Print the references as BibTeX.")
@format_option
@debug_option
def metrics_command(names: tuple[list[Any], ...], bibtex: bool, form: str) -> None:
    """List what can be computed: name, title and a line.

    With NAME, the whole card: definition, formula, what it reads, options, cost, who defined it. NAME may be a file
    that defines metrics, too. json and csv hold all cards.
    """
    import analyze
    from analyze.report.listing import card_row, card_text

    chosen = list({card.name: card for cards in names for card in cards}.values())
    cards = chosen or list(analyze.available_metrics().values())
    if bibtex:
        entries = {reference.key: reference.bibtex() for card in cards for reference in card.reference}
        click.echo("\n\n".join(entries.values()))
    elif chosen and form == "table":
        click.echo("\n\n".join(card_text(card, columns()) for card in cards))
    elif form == "table":
        emit([{"metric": card.name, "title": card.title, "what it is": card.meaning} for card in cards], form)
    else:
        emit([card_row(card) for card in cards], form)


COMMANDS = (metrics_command,)
