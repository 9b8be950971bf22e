"""What a light command costs over starting Python."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Work, case


def python(*arguments: str) -> Work:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


@case("a bare Python start", repeats=9, clock="wall")
def start() -> Iterator[tuple[str, Work, Work, float]]:
    bare = python("-c", "pass")
    yield "tracer --help", python("-m", "tracer", "--help"), bare, 12.0
    with tempfile.TemporaryDirectory() as folder:
        from tests.synthetic import write_archive

        path = Path(folder) / "run.zarr"
        write_archive(path)
        yield (
            "import tracer; tracer.open",
            python("-c", f"import tracer; tracer.open({str(path)!r})"),
            bare,
            25.0,
        )
