"""tracer: watch a PyTorch training loop, write what happened to disk, explain it later."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracer.errors import missing_package

if TYPE_CHECKING:
    from tracer.archive import Archive, open
    from tracer.errors import (
        ArchiveError,
        ArgumentError,
        MissingPackageError,
        MissingTraceError,
        RecordError,
        TracerError,
    )
    from tracer.probe import Probe
    from tracer.recorder import Recorder, RecordWarning, record
    from tracer.recorder.neutrality import check
    from tracer.schedule import Schedule, at, epochs, every, log_spaced

    __version__: str

_HOME = {
    "record": "tracer.recorder",
    "Recorder": "tracer.recorder",
    "RecordWarning": "tracer.recorder",
    "check": "tracer.recorder.neutrality",
    "Probe": "tracer.probe",
    "open": "tracer.archive",
    "Archive": "tracer.archive",
    "every": "tracer.schedule",
    "at": "tracer.schedule",
    "epochs": "tracer.schedule",
    "log_spaced": "tracer.schedule",
    "Schedule": "tracer.schedule",
    "TracerError": "tracer.errors",
    "ArchiveError": "tracer.errors",
    "ArgumentError": "tracer.errors",
    "MissingPackageError": "tracer.errors",
    "MissingTraceError": "tracer.errors",
    "RecordError": "tracer.errors",
}

__all__ = [
    "Archive",
    "ArchiveError",
    "ArgumentError",
    "MissingPackageError",
    "MissingTraceError",
    "Probe",
    "RecordError",
    "RecordWarning",
    "Recorder",
    "Schedule",
    "TracerError",
    "at",
    "check",
    "epochs",
    "every",
    "log_spaced",
    "open",
    "record",
]


def __getattr__(name: str) -> Any:
    # Reading an archive must not import torch, so each name is loaded from its module at first use.
    if name in _HOME:
        try:
            return getattr(import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            raise missing_package(error) or error from None
    if name == "__version__":
        from tracer.spec.release import version

        return version()
    raise AttributeError(f"module 'tracer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
