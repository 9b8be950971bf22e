"""What a light command costs over starting Python."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Work, case

SECONDS = 0.3


def python(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def beyond_bare(*arguments: str) -> Work:
    return lambda: max(1e-9, python(*arguments) - python("-c", "pass"))


@case("0.3 s more than a bare Python start", repeats=9, clock="wall")
def start() -> Iterator[tuple[str, Work, Work, float]]:
    yield "tracer --help", beyond_bare("-m", "tracer", "--help"), lambda: SECONDS, 1.0
    with tempfile.TemporaryDirectory() as folder:
        from tests.synthetic import write_archive

        path = Path(folder) / "run.zarr"
        write_archive(path)
        code = f"import sys, tracer; tracer.open({str(path)!r}); assert 'torch' not in sys.modules"
        yield "import tracer; tracer.open", beyond_bare("-c", code), lambda: SECONDS, 1.0
