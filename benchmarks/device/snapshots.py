"""Part (d): many snapshots, each followed at once by an update of every weight: does any update reach a snapshot?"""

import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

import tracer
from benchmarks.device.results import Results
from tests.devices import check_updates_at_once, updates_at_once
from tracer.verify import verify


def run(results: Results, device: str, snapshots: int) -> None:
    """Weights of every snapshot against the true ones, bit for bit."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run.zarr"
        began = time.perf_counter()
        expected = updates_at_once(path, device, snapshots)
        results.put(snapshots=len(expected), seconds_recording=time.perf_counter() - began)
        check_updates_at_once(path, expected)
        differing = sum(not np.array_equal(one, other) for one, other in pairwise(expected))
        report = verify(path, full=True)
        results.put(
            right=len(expected),
            bytes=sum(one.nbytes for one in expected),
            changed_between=differing,
            sound=report.ok,
        )
        with tracer.open(path) as archive:
            results.put(stored=len(archive.steps("weights")))
        if differing != snapshots or not report.ok:
            raise RuntimeError(f"{differing} of {snapshots} updates changed the weights; {report}")
