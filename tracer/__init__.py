"""tracer: watch a PyTorch training loop, write what happened to disk, explain it later."""

from importlib import import_module
from typing import Any

from tracer.errors import missing_package

__version__ = "0.1.0"

_HOME = {
    "record": "tracer.recorder",
    "check": "tracer.recorder.neutrality",
    "Probe": "tracer.probe",
    "open": "tracer.archive",
    "every": "tracer.schedule",
    "at": "tracer.schedule",
    "epochs": "tracer.schedule",
    "log_spaced": "tracer.schedule",
}

__all__ = ["Probe", "at", "check", "epochs", "every", "log_spaced", "open", "record"]


def __getattr__(name: str) -> Any:
    # Reading an archive must not import torch, so each name is loaded from its module at first use.
    if name in _HOME:
        try:
            return getattr(import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            raise missing_package(error) or error from None
    raise AttributeError(f"module 'tracer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
