"""Recording in trainers that own the loop: Lightning, Transformers, Accelerate. Each is imported when it is named."""

from importlib import import_module
from types import ModuleType

__all__ = ["accelerate", "lightning", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
