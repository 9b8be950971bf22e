"""The examples run as a reader runs them, on a file of the shape they ask for."""

import subprocess
import sys

import numpy as np
import pytest

import tracer
from tests import ROOT

EXAMPLES = ROOT / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("mnist_mlp", (28, 28)), ("cifar_cnn", (32, 32, 3))])
def test_an_example_records_and_analyzes(name, shape, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in {"train": 96, "test": 48}.items():
        arrays[f"x_{split}"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(n) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--data", "data.npz", "--quick"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    archive = tracer.open(tmp_path / f"{name}.zarr")
    assert archive.state == "complete"
    assert set(archive.probes) == {"train", "test"}
    assert (tmp_path / f"{name}.analysis" / "report.html").stat().st_size > 0
