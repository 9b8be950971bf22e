"""What a stretch of training asks of a device: time in kernels, and who waits for it."""

import json
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cuStreamSynchronize",
         "cuCtxSynchronize", "cuEventSynchronize")  # fmt: skip
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def profiled(work: Callable[[], Any], cuda: bool) -> dict[str, Any]:
    """Seconds in kernels (processor time where there is no device), calls that wait by thread, and what PyTorch's own
    check of synchronisations says of the stretch.
    """
    kind = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    start = time.process_time()
    with profile(activities=[kind]) as seen:
        work()
    spent = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("ph") == "X"]
    return {**summary(events, threading.get_native_id()), **({} if cuda else {"kernel_seconds": spent})}


def summary(events: list[dict[str, Any]], thread: int) -> dict[str, Any]:
    """Sums over the events of a trace; `thread`: the one that trains."""
    busy = sum(event["dur"] for event in events if event.get("cat") in _ON_DEVICE) / 1e6
    waits = [event for event in events if event["name"] in WAITS]
    mine = Counter(event["name"] for event in waits if event["tid"] == thread)
    others = Counter(event["name"] for event in waits if event["tid"] != thread)
    launched = sum(event.get("cat") == "kernel" for event in events)
    return {
        "kernel_seconds": busy,
        "kernels": launched,
        "waits": dict(mine),
        "waits_of_other_threads": dict(others),
        "events": len(events),
    }


def synchronisations(work: Callable[[], Any], cuda: bool) -> int:
    """How often PyTorch itself says that it waits for the device."""
    if not cuda:
        work()
        return 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in said)
