"""The demo: real digits, recorded, analyzed and told in words, with labels in order and shuffled."""

import pytest
import torch
from click.testing import CliRunner

import analyze
import cli
import tracer
from tracer.command import demo

WANTED = ("class_stiffness", "cna", "generalization", "margin", "path_self_similarity", "stiffness")


def run_demo(*arguments):
    return CliRunner().invoke(cli.main, ["demo", *map(str, arguments)])


@pytest.fixture
def few_metrics(monkeypatch):
    """Only what the findings are computed from, and what those read."""
    cards = analyze.available_metrics()
    needed = {*WANTED, "complexity", "depth_slope"}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: {name: cards[name] for name in needed})


@pytest.mark.usefixtures("undrawn")
def test_the_demo_leaves_an_archive_a_report_and_five_findings(tmp_path, few_metrics):
    result = run_demo("--out", tmp_path / "out", "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    archive, report = (line.split()[-1] for line in lines[:2])
    assert tracer.open(archive).state == "complete"
    assert "epoch   1 of 1" in result.stderr
    with open(report, encoding="utf-8") as page:
        assert "1,297 train examples and 500 test examples" in page.read()
    findings = [line for line in lines if line.startswith("- ")]
    assert len(findings) == 5
    assert "After 41 updates" in findings[0]


def test_a_second_demo_in_the_same_place_is_refused(tmp_path):
    (tmp_path / "digits.zarr").mkdir()
    result = run_demo("--out", tmp_path, "--epochs", 1)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    place = tmp_path / "digits.zarr"
    assert line == f"Error: {place} is there from an earlier demo: give another --out, or remove it"


def test_training_with_shuffled_labels_permutes_them_and_leaves_the_callers_state_alone(tmp_path):
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    demo.train(tmp_path / "digits.zarr", epochs=1, shuffle_labels=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    probe = tracer.open(tmp_path / "digits.zarr").probes["train"]
    assert sorted(probe.targets) == sorted(probe.true_targets)
    assert (probe.targets == probe.true_targets).mean() < 0.2


@pytest.mark.slow
def test_shuffled_labels_change_what_is_found(tmp_path, few_metrics):
    told = {}
    for name, arguments in {"true": [], "shuffled": ["--shuffle-labels"]}.items():
        result = run_demo("--out", tmp_path / name, *arguments)
        assert result.exit_code == 0, result.stderr
        told[name] = result.stdout
    assert "better than guessing" in told["true"]
    assert "by heart" in told["shuffled"]
