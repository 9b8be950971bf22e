"""How much memory a recording or an analysis takes at most, measured in a process of its own.

    python -m tests.memory_worker record MEBIBYTES EXAMPLES FOLDER
    python -m tests.memory_worker analyze MEBIBYTES EXAMPLES FOLDER

Prints the bytes above those that the same work took on a few examples: imports, pools and the model are in both.
"""

import ctypes
import gc
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import analyze
import tracer
from tests.synthetic import write_archive

LAGGED = ["path_self_similarity", "path_cross_similarity", "path_neighbours", "activation_cross_similarity"]


def status(name: str) -> int:
    """Bytes of a line of the kernel's account of this process."""
    text = Path("/proc/self/status").read_text().split(f"{name}:")[1]
    return int(text.split()[0]) << 10


def fresh() -> int:
    """Forget the highest use so far, and say what is used now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def record(path: Path, memory: int, n: int) -> None:
    """Three probes with all streams, at every update."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    probes = {}
    for name, count in {"train": n, "test": n // 2, "other": n // 4}.items():
        inputs, targets = torch.randn(count, 256), torch.arange(count) % 10
        capture = {"masks": None, "gradients": count // 2, "activations": count // 2}
        probes[name] = tracer.Probe(inputs, targets, split=name, capture=capture)
    x, y = torch.randn(16, 256), torch.arange(16) % 10
    run = tracer.record(
        path,
        model,
        optimizer,
        loss=F.cross_entropy,
        probes=probes,
        snapshots=tracer.every(1),
        gradients="exact",
        memory=memory,
    )
    with run:
        for _ in range(4):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()


def analysis(path: Path, memory: int, n: int) -> None:
    """Metrics that compare in time, saved as they come."""
    run = path.with_name(f"run{n}.zarr")
    if not run.exists():
        write_archive(run, steps=range(0, 13, 2), probes={"train": n, "test": n // 2}, n_gradients=n // 2)
    analyze.run(run, [*LAGGED, "stiffness", "cna"], memory=memory, output=path)


def main() -> None:
    what, mebibytes, n, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    work = record if what == "record" else analysis
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    work(folder / "few", 1 << 30, 20)
    if what == "analyze":
        write_archive(
            folder / f"run{n}.zarr",
            steps=range(0, 13, 2),
            probes={"train": n, "test": n // 2},
            n_gradients=n // 2,
        )
    before = fresh()
    work(folder / "many", mebibytes << 20, n)
    print(status("VmHWM") - before)


if __name__ == "__main__":
    main()
