"""Which measures may compete for a target: those that do not read what the target is made of."""

from __future__ import annotations

from collections.abc import Mapping

from analyze.arrays import SOURCES
from analyze.contract import Metric

# What each target is made of: an array, that of single tokens beside it, and of which splits.
_ERRORS, _LOSSES = {"correct", "token_correct"}, {"losses", "token_losses", "token_log_probs"}
MADE_OF = {
    "gap_error": (_ERRORS, ("train", "test")),
    "gap_loss": (_LOSSES, ("train", "test")),
    "test_error": (_ERRORS, ("test",)),
    "test_loss": (_LOSSES, ("test",)),
}
# Streams that know the labels of their examples: of test examples, whoever reads these reads the answer.
LABELLED = {"outputs", "tokens", "gradients", "gram"}
# A replayed network gives anything of the examples it is handed.
REPLAYED = {"states", "snapshots", "networks"}


def reason(label: str, target: str, cards: Mapping[str, Metric]) -> str:
    """Why a measure does not compete for a target, in a few words; empty where it does.

    By rule: it reads, of the test examples, anything that knows their labels (outputs, losses, gradients, or the
    network with them as inputs); or, of training examples that the target counts, the very array it is made of. What an
    unknown metric reads is not known, so that it does not compete.
    """
    metric = label.partition(".")[0]
    card = cards.get(metric)
    if card is None:
        return "not known what it reads"
    made_of, counted = MADE_OF[target]
    splits, arrays = splits_of(label, card), arrays_of(card, cards)
    if "test" in splits:
        known = sorted(name for name in arrays if name in REPLAYED or _streams(name) & LABELLED)
        if known:
            return f"reads {known[0]} of test examples"
    halves = sorted(made_of & arrays)
    if "train" in splits and "train" in counted and halves:
        return f"reads {halves[0]} of training examples, which is half of the {target.partition('_')[0]}"
    return ""


def of_network(label: str, cards: Mapping[str, Metric]) -> bool:
    """Whether a measure tells of the network and not of the data alone; False where it is not known what it reads."""
    card = cards.get(label.partition(".")[0])
    arrays = set[str]() if card is None else arrays_of(card, cards)
    return any(name in REPLAYED or any(_streams(name)) for name in arrays)


def splits_of(label: str, card: Metric) -> set[str]:
    """Splits whose examples a measure is made of: named in its label, or by its metric's scope; else all.

    >>> from analyze.catalogue import card_of
    >>> sorted(splits_of("stiffness.cosine[train-test, all]", card_of("stiffness")))
    ['test', 'train']
    >>> splits_of("margin.gamma[train]", card_of("margin")), splits_of("sharpness.keskar", card_of("sharpness"))
    ({'train'}, {'train'})
    """
    words = label.partition("[")[2].removesuffix("]").split(", ")[0].split("-")
    if card.scope in ("train", "test"):
        return {card.scope}
    if any({"probe", "pair"} & set(dims) for dims in card.variables.values()) and words != [""]:
        return set(words)
    # Whatever has examples takes those of every split; weights alone have none.
    return {"train", "test"}


def arrays_of(card: Metric, cards: Mapping[str, Metric], above: frozenset[str] = frozenset()) -> set[str]:
    """Every array a metric is made of, through the results of others and what these arrays are made of.

    Optional results of other metrics are left out: a metric only shows these beside its own.
    """
    arrays: set[str] = set()
    for read in (*card.reads, *(name for name in card.optional if "." not in name)):
        other = read.partition(".")[0] if "." in read else ""
        if other in cards and other not in above:
            arrays |= arrays_of(cards[other], cards, above | {card.name})
        elif not other:
            arrays |= _closure(read)
    return arrays


def _closure(name: str) -> set[str]:
    made = {name}
    for part in SOURCES[name].needs if name in SOURCES else ():
        made |= _closure(part)
    return made


def _streams(name: str) -> set[str]:
    return {SOURCES[part].stream for part in _closure(name) if part in SOURCES}
