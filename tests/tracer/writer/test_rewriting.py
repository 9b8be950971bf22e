"""What small snapshots that share files cost: a bounded rewriting, however many there are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recording import put_row
from tracer import spec
from tracer.writer import Writer, worker
from tracer.writer.committer import Committer

ROWS, SIZE, N = 64, 1000, 256


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each object of the stream, as it is written."""
    sizes: list[int] = []
    publish = Committer.publish

    def noted(self: Committer, key: str, write: Callable[[int], Any], **options: Any) -> Any:
        made = publish(self, key, write, **options)
        if key.startswith("a/x/c."):
            sizes.append((self.path / key).stat().st_size)
        return made

    monkeypatch.setattr(Committer, "publish", noted)
    monkeypatch.setattr(worker, "_INTERVAL", 1e6)
    monkeypatch.setattr(spec.format, "OBJECT_ROWS", ROWS)
    return sizes


@pytest.mark.parametrize("between", [1, 8, 100])
def test_a_snapshot_costs_no_more_the_more_there_are(
    tmp_path: Path, written: list[int], between: int
) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    writer.stream("a", {"x": ("uint8", (SIZE,), ("x",))})
    halves = []
    for step in range(N):
        writer.append("a", step, False, {"x": np.full(SIZE, step, np.uint8)})
        put_row(writer, step, ids=None)
        if step % between == between - 1 or step in (N // 2 - 1, N - 1):
            writer.flush()
        if step in (N // 2 - 1, N - 1):
            halves.append(sum(written))
            written.clear()
    writer.close()
    first, second = halves
    assert second <= first + 2 * ROWS * (SIZE + 60)  # the files that were full, or not, at their ends
    # On average half a file at each commit, and each file once more when it is full; 8 rows are an inner chunk.
    assert first + second <= N * (SIZE + 60) * (1.5 + (ROWS / 2 + 8) / between)
