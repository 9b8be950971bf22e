"""The files of an archive grow with its bytes, not with its snapshots."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tests.loops import blobs, run_loop
from tests.recording import put_row
from tracer.store.layout import ArrayLayout
from tracer.writer import Writer


def files(path: Path) -> int:
    return sum(file.is_file() for file in path.rglob("*"))


def test_twice_the_snapshots_make_no_further_file(tmp_path: Path) -> None:
    for epochs in (2, 4):
        run_loop(tmp_path / str(epochs), epochs=epochs, data=blobs(24), snapshots=tracer.every(1))
    assert files(tmp_path / "2") == files(tmp_path / "4")
    with tracer.open(tmp_path / "4") as archive:
        assert archive.snapshots.tolist() == list(range(13))


def test_twenty_thousand_updates_are_one_file_a_column(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run.zarr", attributes={})
    for step in range(20_000):
        put_row(writer, step, ids=np.arange(8))
    writer.close()
    columns = [path for path in (tmp_path / "run.zarr" / "steps").iterdir() if path.is_dir()]
    assert all(len(list(column.glob("c.*"))) == 1 for column in columns) and len(columns) == 8


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


@pytest.mark.slow
def test_a_network_of_a_million_parameters_takes_at_most_100_mb_by_default(tmp_path: Path) -> None:
    """The convolutional network of PyTorch's MNIST example, at eight snapshots; gradients are stored exactly."""
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2))
    rest = (nn.Dropout(0.25), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5))
    model = nn.Sequential(*convolutions, *rest, nn.Linear(128, 10))
    images = torch.rand(256, 1, 28, 28), torch.arange(256) % 10
    path = tmp_path / "run.zarr"
    run_loop(
        path,
        model,
        data=tuple(values[:56] for values in images),
        epochs=1,
        probes={"train": images, "test": images},
        snapshots=tracer.every(1),
    )
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 100e6
    with tracer.open(path) as archive:
        assert len(archive.snapshots) == 8
        assert archive.card["gradients"]["mode"] == "exact"
