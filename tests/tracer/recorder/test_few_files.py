"""The files of an archive grow with its bytes, not with its snapshots."""

from pathlib import Path

import pytest

import tracer
from tests.loops import blobs, run_loop
from tracer.store.layout import ArrayLayout


def files(path: Path) -> int:
    return sum(file.is_file() for file in path.rglob("*"))


def test_twice_the_snapshots_make_no_further_file(tmp_path: Path) -> None:
    for epochs in (2, 4):
        run_loop(tmp_path / str(epochs), epochs=epochs, data=blobs(24), snapshots=tracer.every(1))
    assert files(tmp_path / "2") == files(tmp_path / "4")
    with tracer.open(tmp_path / "4") as archive:
        assert archive.snapshots.tolist() == list(range(13))


@pytest.mark.slow
def test_two_thousand_snapshots_of_a_tiny_network_are_few_files(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    run_loop(path, epochs=666, data=blobs(24), snapshots=tracer.every(1))
    assert files(path) <= 300
    with tracer.open(path) as archive:
        assert len(archive.snapshots) == 1999
        source = archive._source
        for group in source.streams():
            for name in source.children(group):
                layout = ArrayLayout.of("", source.nodes[f"{group}/{name}"])
                values = source.read(f"{group}/{name}")
                assert layout.n <= 1 + max(values.nbytes / (1 << 22), len(values) / 256), (group, name)
