"""Part (f): figures of the gallery at the papers' size, several at once, the longest last."""

import base64
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.device.results import Results

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "examples" / "figures"
PLANE = ("walker_1_boundary", "walker_6_topology")  # make their data themselves


def scripts(data: Path | None) -> list[str]:
    """Names of the scripts that can run with this data, the quickest at gallery scale first."""
    left = ROOT / "docs" / "gallery" / "results"
    took = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["cpu_seconds"] for path in left.glob("*.json")
    }
    there = {} if data is None else {path.stem for path in data.glob("*.npz")}
    return sorted(
        (name for name in took if name in PLANE or {"mnist", "cifar10"} <= set(there)),
        key=lambda name: (took[name], name),
    )


def run(
    results: Results, device: str, scale: str, data: Path | None, jobs: int, names: list[str] | None = None
) -> None:
    """Run scripts until time is up; each leaves its numbers and its drawing."""
    names = scripts(data) if names is None else names
    with TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        tasks = {
            name: pool.submit(one, name, Path(folder), device, scale, data, results.deadline)
            for name in names
        }
        for name, task in tasks.items():
            with results.trying(name):
                results.add("scripts", **task.result())
    results.put(scale=scale)


def one(
    name: str, folder: Path, device: str, scale: str, data: Path | None, deadline: float
) -> dict[str, Any]:
    """One script in a process of its own; `numbers` and `drawing` (text, or base64 of a PNG) where it is done."""
    began = time.time()
    left = min(deadline, began + 3600) - began
    row: dict[str, Any] = {"script": name, "state": "left out", "seconds": 0.0}
    if left < 1:
        return row
    out = folder / name
    command = [sys.executable, str(FIGURES / f"{name}.py"), "--device", device, "--out", str(out)]
    command += [f"--{scale}"] if scale != "gallery" else []
    command += ["--data", str(data)] if data is not None else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=left, env=environment, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return row | {"state": "out of time", "seconds": round(time.time() - began, 1)}
    row |= {"seconds": round(time.time() - began, 1), "state": "done" if done.returncode == 0 else "failed"}
    if done.returncode:
        return row | {"error": done.stderr[-2000:]}
    row["numbers"] = json.loads((out / "numbers.json").read_text(encoding="utf-8"))
    drawing = out / row["numbers"]["figure"]
    plain = drawing.suffix == ".svg"
    row["drawing"] = drawing.read_text("utf-8") if plain else base64.b64encode(drawing.read_bytes()).decode()
    print(f"{name}: {row['seconds']} s, {row['numbers']['verdict']}", flush=True)
    return row
