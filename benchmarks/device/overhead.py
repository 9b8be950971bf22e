"""Part (c): recorded and bare training side by side, what the device does for it, and whether the archive is right."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.device.profiles import profiled, synchronisations
from benchmarks.device.results import Results
from benchmarks.device.workloads import Loop, Workload, gpt, resnet18
from tracer.recorder.neutrality import digest
from tracer.verify import verify


def run(results: Results, device: str, small: bool, workloads: Sequence[Workload] = ()) -> None:
    """Workloads (both by default): first whether the archives are right, then what recording costs."""
    workloads = workloads or [resnet18(small), gpt(small)]
    share = results.left / 10 if results.left < float("inf") else 10.0
    for measure in (right, compared):
        for workload in workloads:
            with results.trying(f"{workload.name}: {measure.__name__}"):
                found = measure(workload, device, 1.0 if small else share)
                results.add(measure.__name__, workload=workload.name, **found)
                print(workload.name, measure.__name__, found, flush=True)


def compared(workload: Workload, device: str, seconds: float) -> dict[str, Any]:
    """Wall and kernel time of recorded and bare updates, and who waits for the device between two snapshots."""
    cuda, every = device.startswith("cuda"), workload.every
    with tempfile.TemporaryDirectory() as name:
        recorded, bare = Loop(workload, device, Path(name) / "run.zarr"), Loop(workload, device, None)
        with recorded.run:
            for loop in (recorded, bare):
                loop.train(every // 2)  # from here on a snapshot lies in the middle of each stretch
            pairs: list[tuple[float, float]] = []
            recorded.timed(every), bare.timed(every)
            while len(pairs) < 3 or (sum(map(sum, pairs)) < seconds and len(pairs) < 9):
                pairs.append((recorded.timed(every), bare.timed(every)))
            found: dict[str, Any] = {
                "updates": every,
                "batch": workload.batch,
                "recorded_seconds": [pair[0] for pair in pairs],
                "bare_seconds": [pair[1] for pair in pairs],
                "ratio": statistics.median(ours / theirs for ours, theirs in pairs),
                "goal": workload.goal,
            }
            found["snapshot_seconds"] = statistics.median(ours - theirs for ours, theirs in pairs)
            for label, loop in (("recorded", recorded), ("bare", bare)):
                loop.settle()
                found[f"{label}_profile"] = profiled(lambda loop=loop: loop.train(every), cuda)
            # Half a distance after a snapshot, up to the update before the next one.
            between = every // 2 - 1
            for label, loop in (("recorded", recorded), ("bare", bare)):
                loop.settle()
                half = between // 2
                found[f"{label}_between"] = profiled(lambda loop=loop, n=half: loop.train(n), cuda)
                loop.settle()
                said = synchronisations(lambda loop=loop, n=between - half: loop.train(n), cuda)
                found[f"{label}_synchronisations"] = said
            ours, theirs = (
                found["recorded_profile"]["kernel_seconds"],
                found["bare_profile"]["kernel_seconds"],
            )
            found["kernel_ratio"] = ours / theirs if theirs else None
            found["probes"] = recorded.run.notes
    return found


def right(workload: Workload, device: str, seconds: float) -> dict[str, Any]:
    """With repeatable kernels: training is unchanged, and the archive follows from its weights, here and on the CPU."""
    del seconds
    with tempfile.TemporaryDirectory() as name, repeatable():
        folder = Path(name) / "run.zarr"
        recorded, bare = Loop(workload, device, folder), Loop(workload, device, None)
        updates = 2 * workload.every
        with recorded.run:
            recorded.train(updates)
        bare.train(updates)
        ours, theirs = (
            digest([dict(loop.model.state_dict()), loop.optimizer.state_dict()]) for loop in (recorded, bare)
        )
        found: dict[str, Any] = {"updates": updates, "unchanged": ours == theirs}
        del recorded, bare
        for label, place in (("same_device", device), ("cpu", "cpu")):
            report = verify(folder, full=True, replay=True, device=place)
            found[label] = {
                "ok": report.ok,
                "replayed": report.counts.get("replayed", 0),
                "bytes": report.counts.get("bytes", 0),
                "findings": [str(finding) for finding in report.findings[:20]],
                "rounding": report.rounding,
            }
            found["notes"] = report.notes
        found["bit_for_bit"] = found["same_device"]["ok"] and not found["same_device"]["rounding"]
        found["within_1e-5_of_cpu"] = found["cpu"]["ok"]
    if not found["same_device"]["replayed"]:
        raise RuntimeError(f"nothing was replayed: {found['notes']}")
    return found


@contextmanager
def repeatable() -> Iterator[None]:
    """Kernels that give the same bits twice, where there are any."""
    cudnn, asked = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    only_warned, fill = (
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(asked, warn_only=only_warned)
        torch.utils.deterministic.fill_uninitialized_memory = fill
