"""A network's table as JSON."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer.network.copies import to_numpy
from tracer.network.table import plain, row_json

if TYPE_CHECKING:
    from tracer.network.network import Network

VERSION = 1


def write(network: "Network") -> dict[str, Any]:
    """The JSON object of a network."""
    return {
        "version": VERSION,
        "rows": [row_json(row) for row in network.rows],
        "output": list(network.output),
        "losses": None if network.losses is None else list(network.losses),
        **({} if network.correct is None else {"correct": list(network.correct)}),
        "inputs": network.inputs,
        "targets": network.targets,
        "constants": [constant_entry(name, value) for name, value in network.constants.items()],
        "parameters": network.parameters,
        "buffers": network.buffers,
        "sites": [plain(site) for site in network.sites],
        "calls": [plain(call) for call in network.calls],
        "layers": [plain(layer) for layer in network.layers],
        "batch": network.batch,
    }


def constant_entry(name: str, value: Tensor) -> dict[str, Any]:
    """What a table says of a constant: name, shape, dtype, digest of its values."""
    data = value.detach().cpu().contiguous()
    raw = to_numpy(data.reshape(-1).view(torch.uint8)).tobytes() if data.numel() else b""
    return {
        "name": name,
        "shape": list(data.shape),
        "dtype": str(data.dtype).removeprefix("torch."),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def stored(
    network: "Network", version: int
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]], dict[str, Any]]:
    """A version of a network in an archive: arrays, their dimensions, and what the list of versions says of it."""
    arrays = {f"table_{version}": np.frombuffer(network.to_json(), np.uint8)}
    dims: dict[str, tuple[str, ...]] = {f"table_{version}": (f"byte_{version}",)}
    constants = {}
    for i, (name, value) in enumerate(network.constants.items()):
        key = constants[name] = f"constant_{version}_{i}"
        arrays[key] = to_numpy(value)
        dims[key] = tuple(f"{key}_{axis}" for axis in range(value.ndim))
    return arrays, dims, {"digest": network.digest, "constants": constants}
