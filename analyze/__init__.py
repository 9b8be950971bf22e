"""analyze: replay an archive and compute what explains its generalization."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyze.comparison import compare
    from analyze.contract import metric, metrics
    from analyze.engine import run
    from analyze.results import Results, load

_HOME = {
    "run": "analyze.engine",
    "compare": "analyze.compare",
    "metrics": "analyze.metric",
    "metric": "analyze.metric",
    "Results": "analyze.results",
    "load": "analyze.results",
}

__all__ = ["Results", "compare", "load", "metric", "metrics", "run"]


class _Package(ModuleType):
    """A package whose public functions keep their names although some submodules share them."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule binds it here; `analyze.metrics` has to stay the function of that name.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    # Listing metrics must stay quick, so what needs xarray is loaded at first use.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'analyze' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
