"""What the pages show is run: pieces of Python in what they say is there, and commands on archives."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch
import xarray
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import analyze
import cli
import tracer
from tests import ROOT, loops
from tests.analyze.comparison.test_compare import grid
from tests.project.test_docs import PAGES, blocks
from tests.synthetic import write_archive

DOCS = ROOT / "docs"
# Pieces of Python by page, and the tests that run them.
RUN = {
    "README.md": (3, "project/test_docs.py"),
    "docs/add-a-gradient-rule.md": (3, "project/test_guides.py"),
    "docs/add-a-metric.md": (2, "project/test_snippets.py"),
    "docs/add-a-store.md": (2, "tracer/store/test_store_contract.py"),
    "docs/add-a-stream.md": (6, "project/test_guides.py"),
    "docs/add-an-op.md": (2, "project/test_docs.py"),
    "docs/format.md": (1, "project/test_snippets.py"),
    "docs/integrations.md": (3, "tracer/integrations/test_pages.py"),
    "docs/questions.md": (11, "project/test_questions.py"),
    "docs/recording.md": (2, "project/test_snippets.py"),
    "docs/share.md": (2, "project/test_snippets.py"),
    "docs/start.md": (1, "project/test_snippets.py"),
    "docs/watch.md": (1, "project/test_snippets.py"),
}
# Commands that take what a test has not: a network, a server, another package's; or the minutes of a whole demo, which
# has tests of its own.
NOT_RUN = ("tracer push", "tracer pull", "tracer watch", "tracer demo")
PLACES = ("s3://", "tcp://", "http://", " --to ", "--jobs")


@pytest.fixture
def runs(tmp_path, everything, monkeypatch):
    """A directory in which `runs/mlp.zarr` has everything and `runs/other.zarr` little."""
    shutil.copytree(everything, tmp_path / "runs" / "mlp.zarr")
    write_archive(tmp_path / "runs" / "other.zarr")
    monkeypatch.chdir(tmp_path)


def brought(**more):
    """What a reader's script has before a piece of a page."""
    x, y = loops.blobs()
    model = loops.mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)

    def train_on(inputs, targets):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    names = {"tracer": tracer, "analyze": analyze, "xarray": xarray, "F": F, "x": x, "y": y}
    names |= {"model": model, "optimizer": optimizer, "loader": loader, "train_on": train_on}
    return {**names, **more}


def run(page, which, names, *languages):
    """Run one piece of a page."""
    source = blocks(DOCS / page, *(languages or ("python",)))[which]
    exec(compile(source, page, "exec"), names)
    return names


def test_every_piece_of_python_is_run_by_some_test():
    shown = {str(page.relative_to(ROOT)): len(blocks(page, "python", "py", "pycon")) for page in PAGES}
    assert {page: n for page, n in shown.items() if n} == {page: n for page, (n, _) in RUN.items()}
    for page, (_, test) in RUN.items():
        assert page.rpartition("/")[2] in (ROOT / "tests" / test).read_text(encoding="utf-8"), page


def test_the_first_page_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("start.md", 0, brought())
    assert tracer.open("runs/mlp.zarr").state == "complete"


def test_several_processes_record_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        names = brought(DistributedDataParallel=DistributedDataParallel, loss=F.cross_entropy)
        data = names["loader"].dataset
        sampler = DistributedSampler(data)
        loader, probes = DataLoader(data, 8, sampler=sampler), {"train": (names["x"][:4], names["y"][:4])}
        run("recording.md", 0, {**names, "sampler": sampler, "loader": loader, "probes": probes})
    finally:
        torch.distributed.destroy_process_group()
    assert tracer.open("runs/ddp.zarr").state == "complete"


@pytest.mark.usefixtures("runs")
def test_examples_are_asked_for_by_influence():
    archive = tracer.open("runs/mlp.zarr")
    names = run("recording.md", 0, {"archive": archive}, "py")
    assert len(names["similar"].id) == 5


@pytest.mark.usefixtures("runs", "undrawn")
def test_a_metric_of_ones_own_is_computed_drawn_and_saved():
    metric, use = blocks(DOCS / "add-a-metric.md", "python")
    names = brought(__name__="my_metric")
    exec(compile(metric, "add-a-metric.md", "exec"), names)
    exec(compile(use, "add-a-metric.md", "exec"), names)
    assert Path("runs/mlp.analysis/report.html").exists() and "worst_loss" in names["results"]
    Path("my_metric.py").write_text(metric, encoding="utf-8")
    (line,) = blocks(DOCS / "add-a-metric.md", "text")
    done = CliRunner().invoke(cli.main, shlex.split(line)[1:])
    assert done.exit_code == 0 and "worst_loss" in done.stdout, done.stderr


@pytest.mark.usefixtures("runs")
def test_archives_are_opened_described_and_followed_as_the_pages_say():
    run("format.md", 0, brought())
    run("share.md", 1, brought())
    assert tracer.open("runs/mlp.zarr")._source.attributes["provenance"]["licence"] == "CC-BY-4.0"


def test_curves_are_drawn_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for analysis in map(Path, grid(tmp_path)):
        analysis.rename(Path("runs", analysis.name.replace(".analysis", ".zarr")))
    curves = run("watch.md", 0, {})["curves"]
    assert set(curves.bands()["width"]) == {32, 64, 128}


def test_checkpoints_are_imported_as_the_page_says(tmp_path, monkeypatch):
    save_file = pytest.importorskip(
        "safetensors.torch", reason="the extra `test` brings safetensors"
    ).save_file
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    names = brought()
    for step in (0, 10):
        save_file(names["model"].state_dict(), f"checkpoints/step_{step}.safetensors")
        nn.init.normal_(next(names["model"].parameters()))
    run("share.md", 0, {**names, "make_model": loops.mlp, "x_test": names["x"], "y_test": names["y"]})
    assert list(tracer.open("run.zarr").snapshots) == [0, 10]


def commands(page):
    return [
        line.removeprefix("$ ").partition(" #")[0].strip()
        for block in blocks(page, "console", "sh")
        for line in block.splitlines()
        if line.removeprefix("$ ").startswith("tracer ")
    ]


@pytest.mark.usefixtures("runs", "undrawn")
@pytest.mark.parametrize(
    "page", [pytest.param("README.md", marks=pytest.mark.slow), "docs/share.md", "docs/start.md"]
)
def test_commands_run_in_their_order(page, monkeypatch):
    cards = analyze.available_metrics()
    few = {name: cards[name] for name in ("generalization", "margin")}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: few)
    ran = [
        line
        for line in commands(ROOT / page)
        if not line.startswith(NOT_RUN) and not any(place in line for place in PLACES) and "my." not in line
    ]
    assert len(ran) >= 3
    for line in ran:
        if line == "tracer unpack runs/mlp.zip":  # to where the archive was when it was packed
            shutil.rmtree("runs/mlp.zarr")
        words = [
            path
            for word in shlex.split(line)[1:]
            for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        done = CliRunner().invoke(cli.main, words)
        assert done.exit_code == 0, (line, done.stderr)
