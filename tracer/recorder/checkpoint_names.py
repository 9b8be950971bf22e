"""The steps of saved weights, from the names of their files: numbers that are steps told apart from others."""

import re
from collections import defaultdict
from collections.abc import Sequence

# The words before a number that say what it counts, the surest first.
_LABELS = (
    ("steps", r"(?:global_?)?steps?|iter(?:ation)?s?|updates?"),
    ("steps", r"checkpoints?|ckpt"),
    ("epochs", r"epochs?|ep"),
)
_LABELLED = [
    (counts, re.compile(rf"(?:^|[^a-z])(?:{words})[-_= ]*(\d+)(?!\d|\.\d)", re.IGNORECASE))
    for counts, words in _LABELS
]
# A whole number: no part of a decimal, of a version such as v2, or of a measure such as loss=25.
_NUMBER = re.compile(r"(?<![\d.])(?<!\bv)(?<!-v)(?<!_v)(?<!=)\d+(?!\d|\.\d)")


def steps_of(names: Sequence[str]) -> tuple[dict[str, int | None], bool]:
    """The step of each name (None: it has no number that could be one), and whether all these count epochs.

    names: paths within a folder, without suffixes. A number that a word calls a step counts first, then one of a
    checkpoint, then one of an epoch; else the last number of the name, or of its folder, that is not the same in
    all names that begin alike (`resnet50-100`, `resnet50-200`).

    >>> steps_of(["resnet50-100", "resnet50-200", "best"])
    ({'resnet50-100': 100, 'resnet50-200': 200, 'best': None}, False)
    >>> steps_of(["epoch=3-val_loss=0.25", "epoch=4-val_loss=0.21"])
    ({'epoch=3-val_loss=0.25': 3, 'epoch=4-val_loss=0.21': 4}, True)
    >>> steps_of(["checkpoint-500/model", "checkpoint-1000/model", "model"])[0]["checkpoint-1000/model"]
    1000
    """
    for counts, pattern in _LABELLED:
        labelled = {name: _deepest(name, pattern) for name in names}
        if any(step is not None for step in labelled.values()):
            return labelled, counts == "epochs"
    values: dict[str, set[str]] = defaultdict(set)
    many: dict[str, int] = defaultdict(int)
    for name in names:
        for match in _NUMBER.finditer(name):
            values[_before(name, match)].add(match[0])
            many[_before(name, match)] += 1
    fixed = {before for before, seen in values.items() if len(seen) == 1 and many[before] > 1}
    return {name: _last(name, fixed) for name in names}, False


def _deepest(name: str, pattern: re.Pattern[str]) -> int | None:
    """The last number that a pattern finds in the file's own name, or else in that of the nearest folder."""
    for part in reversed(name.split("/")):
        numbers = pattern.findall(part)
        if numbers:
            return int(numbers[-1])
    return None


def _before(name: str, match: re.Match[str]) -> str:
    return re.sub(r"\d+", "#", name[: match.start()])


def _last(name: str, fixed: set[str]) -> int | None:
    numbers = [match for match in _NUMBER.finditer(name) if _before(name, match) not in fixed]
    if not numbers:
        return None
    start = name.rfind("/", 0, numbers[-1].start()) + 1
    return int([match for match in numbers if match.start() >= start][-1][0])
