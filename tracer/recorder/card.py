"""The card of a run: what was trained, how it is recorded, and with which software and hardware."""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tracer.network.copies import unwrap


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Class, size, device and dtypes of a model."""
    inner = unwrap(model)
    parameters = list(inner.parameters())
    return {
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "n_parameters": sum(p.numel() for p in parameters),
        "n_trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "devices": sorted({str(p.device) for p in parameters}),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
    }


def describe_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any] | None:
    """Class and hyper-parameters of each group of the optimizers at the start; classes are joined by " + "."""
    if not optimizers:
        return None
    return {
        "class": " + ".join(f"{type(one).__module__}.{type(one).__qualname__}" for one in optimizers),
        "groups": [
            {key: plain(value) for key, value in group.items() if key != "params"}
            for one in optimizers
            for group in one.param_groups
        ],
    }


def describe_environment(command: bool = True) -> dict[str, Any]:
    """Versions, hardware, the git commit of the user's code and the command line."""
    card: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("torch", "numpy", "zarr")},
        "cpu": _cpu(),
        "memory": _memory(),
        **_git(),
    }
    if torch.cuda.is_initialized():
        card["cuda_device"] = torch.cuda.get_device_name()
    if command:
        card["command"] = list(sys.argv)
    return card


def name_of(function: Any) -> str | None:
    """How the card calls a loss: its qualified name, or the text of a configured module."""
    if function is None:
        return None
    if isinstance(function, nn.Module):
        return str(function)
    return getattr(function, "__qualname__", None) or str(function)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers, text, lists and mappings of those, arrays as lists; else its text.

    >>> plain({"rate": np.float32(0.5), "sizes": np.arange(2), "where": Path("data")})
    {'rate': 0.5, 'sizes': [0, 1], 'where': 'data'}
    """
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    return str(value)


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _cpu() -> str | None:
    """Model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or None


def _memory() -> int | None:
    """Bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _git() -> dict[str, Any]:
    """Commit of the user's code (of the script, else of the working directory), and whether it was changed since."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    for folder in dict.fromkeys([Path(script).resolve().parent if script else Path.cwd(), Path.cwd()]):
        commit = _git_says(folder, "rev-parse", "HEAD")
        if commit:
            changed = _git_says(folder, "status", "--porcelain", "--untracked-files=no")
            return {"git_commit": commit, "git_dirty": None if changed is None else bool(changed)}
    return {"git_commit": None}


def _git_says(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
