"""Every metric there is, by name."""

import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from analyze.contract import Metric
from tracer.errors import ArgumentError, MissingTraceError, did_you_mean

ENTRY_POINTS = "tracer.metrics"


def available_metrics() -> dict[str, Metric]:
    """Cards of every metric there is: the files of `analyze/metrics` and entry points of group `tracer.metrics`.

    Raises ArgumentError where two modules define one name, with both modules.

    >>> available_metrics()["stiffness"].variables["cosine"]
    ('step', 'pair', 'layer')
    """
    metrics: dict[str, Metric] = {}
    (home,) = map(Path, import_module("analyze.metrics").__path__)
    for name in _modules(home, _stamps([home, *home.iterdir()])):
        _add(metrics, cards_of(import_module(name)))
    for entry in _foreign(entry_points, _stamps(sys.path)):
        loaded = entry.load()
        _add(metrics, cards_of(loaded) if isinstance(loaded, ModuleType) else [card_of(loaded)])
    return dict(sorted(metrics.items()))


def _stamps(places: Iterable[str | Path]) -> tuple[tuple[str, int], ...]:
    """When something last came into these folders or left them: looking into all of them takes longer than a metric."""
    found = []
    for place in map(Path, places):
        with suppress(OSError):
            found.append((str(place), place.stat().st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=1)
def _modules(home: Path, stamps: object) -> list[str]:
    """Names of the modules of `analyze/metrics`."""
    modules = pkgutil.walk_packages([str(home)], prefix="analyze.metrics.")
    return sorted(info.name for info in modules if not info.ispkg)


@lru_cache(maxsize=1)
def _foreign(entries: Callable[..., Iterable[Any]], stamps: object) -> list[Any]:
    """Entry points of the packages that are installed, by name."""
    return sorted(entries(group=ENTRY_POINTS), key=lambda entry: entry.name)


def cards_of(module: ModuleType) -> list[Metric]:
    """Cards of the metrics a module defines itself (not those it imports)."""
    # Of what can be called alone: to ask a library for an attribute it lacks takes long.
    held = (getattr(value, "card", None) for value in vars(module).values() if callable(value))
    cards = [card for card in held if isinstance(card, Metric)]
    return [card for card in cards if card.module == module.__name__]


def metrics_of_file(path: str | Path) -> list[Metric]:
    """Cards of the metrics that a file of the user's defines; its code is run.

    The file becomes a module named as it is, found after all others, so that worker processes find it too. Raises
    MissingTraceError where there is no such file or it defines none, ArgumentError for a name that is taken.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise MissingTraceError(
            f"there is no file {str(path)!r}; -m takes a metric's name or a file that defines some"
        )
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = import_module(file.stem)
    if Path(module.__file__ or "").resolve() != file:
        raise ArgumentError(
            f"{str(path)!r} is called like another module, {module.__file__}; rename the file"
        )
    cards = cards_of(module)
    if not cards:
        raise MissingTraceError(f"{str(path)!r} defines no metric; decorate a function with @analyze.metric")
    known = dict(available_metrics())
    _add(known, cards)
    return cards


def card_of(item: "str | Metric | Callable[..., Any]", known: Mapping[str, Metric] | None = None) -> Metric:
    """Card of a metric given by name, card or decorated function."""
    if isinstance(item, Metric):
        return item
    if isinstance(item, str):
        known = available_metrics() if known is None else known
        if item not in known:
            raise MissingTraceError(f"no metric is called {item!r}; {did_you_mean(item, known)}")
        return known[item]
    card = getattr(item, "card", None)
    if not isinstance(card, Metric):
        raise TypeError(f"expected a metric's name or a function decorated with @metric, got {item!r}")
    return card


def _add(metrics: dict[str, Metric], cards: Iterable[Metric]) -> None:
    for card in cards:
        other = metrics.get(card.name)
        if other is not None and other.function is not card.function:
            raise ArgumentError(
                f"two metrics are called {card.name!r}: in {other.module} and in {card.module}; rename one"
            )
        metrics[card.name] = card
