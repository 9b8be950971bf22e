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


@pytest.mark.slow
def test_a_language_model_records_and_analyzes(tmp_path):
    text = (EXAMPLES / "text" / "alice.txt").read_text()[:1600]
    (tmp_path / "text.txt").write_text(text)
    command = [sys.executable, str(EXAMPLES / "tiny_gpt.py"), "--text", "text.txt", "--quick"]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600, text=True)
    assert said.stdout.count(" then ") == 5  # the characters least expected
    with tracer.open(tmp_path / "tiny_gpt.zarr") as archive:
        assert archive.state == "complete" and archive.probes["test"].tokens(0)["loss"].shape[1] == 64
    report = (tmp_path / "tiny_gpt.analysis" / "report.html").read_text()
    assert "Prediction of tokens" in report
