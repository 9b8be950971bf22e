"""analyze: replay an archive and compute what explains its generalization."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyze.catalogue import available_metrics
    from analyze.comparison import compare
    from analyze.comparison.curves import curves
    from analyze.contract import metric
    from analyze.engine import run
    from analyze.errors import AnalysisError
    from analyze.results import Results, load
    from analyze.watch.trackers import mirror_metrics

_HOME = {
    "run": "analyze.engine",
    "compare": "analyze.comparison",
    "curves": "analyze.comparison.curves",
    "available_metrics": "analyze.catalogue",
    "metric": "analyze.contract",
    "mirror_metrics": "analyze.watch.trackers",
    "Results": "analyze.results",
    "load": "analyze.results",
    "AnalysisError": "analyze.errors",
}

__all__ = [
    "AnalysisError",
    "Results",
    "available_metrics",
    "compare",
    "curves",
    "load",
    "metric",
    "mirror_metrics",
    "run",
]


def __getattr__(name: str) -> Any:
    # Listing metrics must stay quick, so what needs xarray is loaded at first use.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'analyze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
