"""Handing an archive on: packed, as one file, as HDF5, to an object store; and taking published runs in."""

from importlib import import_module
from typing import Any

_HOME = {
    "pack": "tracer.share.packs",
    "unpack": "tracer.share.packs",
    "export_hdf5": "tracer.share.hdf5",
    "import_hdf5": "tracer.share.hdf5",
    "push": "tracer.share.remote",
    "pull": "tracer.share.remote",
    "import_checkpoints": "tracer.recorder.checkpoints",
    "set_attributes": "tracer.share.attributes",
}

__all__ = [
    "export_hdf5",
    "import_checkpoints",
    "import_hdf5",
    "pack",
    "pull",
    "push",
    "set_attributes",
    "unpack",
]


def __getattr__(name: str) -> Any:
    # h5py, torch and fsspec are each needed by one of these alone.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tracer.share' has no attribute {name!r}")
