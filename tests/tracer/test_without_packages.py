"""Without PyTorch, and without what only extras bring, the reading side works and the rest says what it needs."""

import os
import subprocess
import sys

import pytest

ROOT_ARCHIVE = "tests/archives/1.0/run.zarr"
EVERY_COMMAND = """
import sys
from click.testing import CliRunner
import cli

archive, folder = sys.argv[1:]
for line in (
    f"info {archive}",
    f"verify {archive} --full",
    f"pack {archive} -o {folder}/packed.zip --zip",
    f"verify {folder}/packed.zip",
    f"unpack {folder}/packed.zip -o {folder}/again.zarr",
    f"export {archive} {folder}/run.h5",
    f"import {folder}/run.h5 {folder}/imported.zarr",
    f"push {archive} file://{folder}/pushed.zarr",
    f"pull file://{folder}/pushed.zarr {folder}/pulled.zarr",
    "metrics",
    "metrics stiffness --bibtex",
):
    done = CliRunner().invoke(cli.main, line.split())
    assert done.exit_code == 0, (line, done.output, done.exception)
for line in (f"verify {archive} --replay", f"materialize {archive}", "check module:function"):
    done = CliRunner().invoke(cli.main, line.split())
    assert done.exit_code == 1 and "needs the package torch: install PyTorch" in done.stderr, (line, done.output)
"""
METRICS_BY_NAME = """
line = f"analyze {archive} -o {folder}/analysis -m"
# layer_norms takes a network where there is one
done = CliRunner().invoke(cli.main, f"{line} stiffness -m layer_norms".split())
assert done.exit_code == 0, done.output
done = CliRunner().invoke(cli.main, f"{line} hessian".split())
assert done.exit_code == 1 and "needs the package torch" in done.stderr, done.output
assert "Traceback" not in done.stderr
"""
EVERY_ARRAY = """
import analyze, tracer, tracer.share, tracer.verify

with tracer.open(sys.argv[1]) as archive:
    step = int(archive.snapshots[-1])
    for name in ("card", "state", "run_id", "digest", "rows", "milestones", "site_table", "call_table", "layer_table",
                 "tensors", "sites", "calls", "layers", "epoch_ends", "committed", "world_size", "gram_probes"):
        getattr(archive, name)
    archive.ids(1), archive.weights(step), archive.network(step), archive.gram(step), archive.to_xarray()
    for probe in archive.probes.values():
        probe.ids, probe.inputs, probe.targets, probe.outputs(step), probe.losses(step)
        probe.bits(step), probe.masks(archive.sites[0], step)
        probe.gradients(archive.tensors[0]["name"], step), probe.raw, probe.chunks, probe.capture
    train = archive.probes["train"]
    train.sums(step), train.activations(archive.sites[0], step), train.linear_factors(archive.tensors[0]["name"], step)
analyze.available_metrics()
tracer.every(3) | tracer.epochs()
for name in ("record", "Probe", "check"):
    try:
        getattr(tracer, name)
    except ImportError as error:
        assert "needs the package torch: install PyTorch" in str(error), error
    else:
        raise AssertionError(name)
"""


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """Environment of a process that finds no torch."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("torch", "numkong", "sklearn"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError('no {name} here', name='{name}')\n"
        )
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def run(environment, *arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_reading_needs_no_pytorch_and_a_named_metric_says_what_it_needs(without_torch, tmp_path):
    done = run(without_torch, "-c", EVERY_COMMAND + METRICS_BY_NAME + EVERY_ARRAY, ROOT_ARCHIVE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "analysis" / "report.html").is_file()


@pytest.mark.slow
def test_what_is_stored_is_analyzed_and_the_rest_says_what_it_needs(without_torch, tmp_path):
    done = run(without_torch, "-m", "tracer", "analyze", ROOT_ARCHIVE, "-o", tmp_path / "analysis")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "analysis" / "report.html").is_file()
    assert "needs the package torch" in (tmp_path / "analysis" / "summary.json").read_text()


def test_the_demo_says_that_it_needs_pytorch(without_torch, tmp_path):
    done = run(without_torch, "-m", "tracer", "demo", "--out", tmp_path / "demo")
    assert done.returncode == 1 and "needs the package torch" in done.stderr
    assert "Traceback" not in done.stderr
