"""The example that reads an archive without tracer says what tracer says."""

import re
import subprocess
import sys

import numpy as np
import pytest

import tracer
from tests import ROOT

ARCHIVES = ROOT / "tests" / "archives" / "1.0"


@pytest.mark.parametrize("name", ["run.zarr", pytest.param("run.zip", marks=pytest.mark.slow)])
def test_it_runs_and_says_what_tracer_says(name: str) -> None:
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert not {'tracer', 'torch', 'xarray'} & sys.modules.keys()"
    )
    script = ROOT / "examples" / "read_without_tracer.py"
    command = [sys.executable, "-W", "error", "-c", code, str(script), str(ARCHIVES / name)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with tracer.open(ARCHIVES / name) as archive:
        last, probe = int(archive.snapshots[-1]), archive.probes["train"]
        weights = archive.weights(last)
        assert f"update 6 used ids {archive.ids(6)}" in said
        for tensor, values in weights.items():
            assert number(said, f"{tensor} {values.shape}, norm") == pytest.approx(
                np.linalg.norm(values), abs=2e-6
            )
        for site in archive.sites:
            mean = probe.masks(site, last).mean()
            assert number(said, rf"site {site}: \d+ units,") == pytest.approx(mean, abs=2e-6)
        norms = np.sqrt(np.diagonal(archive.gram(last), axis1=1, axis2=2)).mean(axis=1)
        for layer, norm in zip(archive.layers, norms, strict=True):
            assert number(said, f"layer {layer}: mean gradient norm") == pytest.approx(norm, abs=2e-6)
        for tensor in ("3.weight", "4.weight", "6.weight"):
            rows = probe.gradients(tensor, last).reshape(probe.capture["gradients"], -1)
            norm = np.linalg.norm(rows.astype("f8"), axis=1).mean()
            shape = probe.gradients(tensor, last).shape
            assert number(said, f"gradient of {tensor} {shape}: mean norm") == pytest.approx(norm, abs=2e-6)


def number(said: str, before: str) -> float:
    pattern = before if "\\d" in before else re.escape(before)
    found = re.search(pattern + r" ([\d.]+)", said)
    assert found is not None, before
    return float(found[1])
