"""What a part of the device benchmark leaves behind: one JSON file, whole at any moment."""

import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "numkong", "scipy", "xarray", "triton")
RUNNING, DONE, FAILED, LATE = "running", "done", "failed", "out of time"


class Results:
    """Results of one part, written anew at every change, so that a part that is ended leaves what it had.

    deadline: seconds since the epoch by which the part should have come to its end.
    """

    def __init__(self, path: Path, device: str, deadline: float = float("inf")) -> None:
        self.path, self.deadline = path, deadline
        self._began = time.time()
        self.content: dict[str, Any] = {"part": path.stem, "state": RUNNING, "machine": machine(device)}
        self.content["results"] = {}
        self.write()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def put(self, **values: Any) -> None:
        """Enter results."""
        self.content["results"] |= values
        self.write()

    def add(self, name: str, **row: Any) -> None:
        """Append a row to a table of results."""
        self.content["results"].setdefault(name, []).append(row)
        self.write()

    def write(self) -> None:
        """Write the file anew."""
        self.content["seconds"] = round(time.time() - self._began, 2)
        replace(self.path, self.content)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Go on after an error; it is a result, too, and what failed is named."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add("errors", where=name, error=f"{type(error).__name__}: {error}"[:1000])

    def finish(self) -> None:
        """All was done, or failed, that there was to do."""
        self.content["state"] = FAILED if self.content["results"].get("errors") else DONE
        self.write()


def replace(path: Path, content: Any) -> None:
    """Write JSON in one step."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=float) + "\n", encoding="utf-8")
    new.replace(path)


def read(path: Path) -> dict[str, Any]:
    """What is in such a file; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def machine(device: str) -> dict[str, Any]:
    """Card, driver, processor and versions."""
    return {
        "device": device,
        "card": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "driver": _driver() if device.startswith("cuda") else "",
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() if device.startswith("cuda") else 0,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    return f"{platform.machine()} processor"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.strip().partition("\n")[0]


def _version(name: str) -> str:
    try:
        return torch.__version__ if name == "torch" else version(name)
    except PackageNotFoundError:
        return ""
