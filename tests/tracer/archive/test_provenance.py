"""Where an archive comes from is in it and is printed; probes may keep their inputs to themselves."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import analyze
import tracer
from tests.loops import blobs, mlp, run_loop
from tests.needs import need
from tracer.archive.summary import summarize
from tracer.command.summary import describe
from tracer.errors import MissingTraceError
from tracer.recorder import card
from tracer.rerun.stored import probe_of
from tracer.share.attributes import set_attributes
from tracer.verify import verify


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which one probe stores its inputs and one does not."""
    path = tmp_path_factory.mktemp("private") / "run.zarr"
    x, y = blobs()
    probes = {"train": tracer.Probe(x[:12], y[:12], raw=False), "test": blobs(9, seed=7)}
    run_loop(path, probes=probes, command=False)
    return path


def test_digests_take_the_place_of_inputs(private: Path) -> None:
    x, _ = blobs()
    with tracer.open(private) as archive:
        names = archive._source.children("probes/train")
        assert "inputs" not in names and "raw" not in names
        digests = archive._source.read("probes/train/digest")
        assert archive.probes["test"].inputs is not None
        assert archive.probes["train"].inputs is None
        assert archive.probes["train"].masks("1", 0).shape[0] == 12
    expected = [list(blake2b(row.numpy().tobytes(), digest_size=16).digest()) for row in x[:12]]
    assert digests.tolist() == expected
    assert verify(private, full=True).ok


def test_what_needs_the_inputs_says_so(private: Path) -> None:
    with (
        tracer.open(private) as archive,
        pytest.raises(
            MissingTraceError,
            match="probe 'train' is stored without its inputs, so nothing can be computed on it",
        ),
    ):
        probe_of(archive.probes["train"])
    report = verify(private, replay=True)
    assert report.ok and any("without its inputs" in note for note in report.notes)
    results = analyze.run(private, metrics=["stiffness", "generalization", "path_patterns"])
    assert not results.skipped
    everything = analyze.run(private, patience=0.0)
    assert "sharpness" in everything.skipped


def test_info_tells_what_the_archive_gives_away(private: Path) -> None:
    with tracer.open(private) as archive:
        summary = summarize(archive)
    assert summary["provenance"]["privacy"].startswith("holds the inputs of probe 'test': whoever")
    assert summary["provenance"]["command"] is None
    digests = summary["provenance"]["probe_digests"]
    assert digests.keys() == {"train", "test"} and len(digests["train"]) == 64
    set_attributes(private, {"licence": "CC-BY-4.0", "notes": "figure 3"})
    with tracer.open(private) as archive:
        text = describe(summarize(archive))
    for told in (
        "licence",
        "CC-BY-4.0",
        "figure 3",
        "run_id",
        "cpu",
        "cores",
        "torch",
        "created",
        digests["test"],
    ):
        assert told in text
    json.dumps(summary)


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_of_the_users_code_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git", shutil.which("git"), "no git is installed")
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.setattr(card, "_git", getattr(card._git, "__wrapped__", card._git))  # asked anew each time
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(code / "train.py"), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert card.describe_environment()["git_commit"] is None
    (code / "train.py").write_text("1\n")
    git(code, "init", "-q")
    git(code, "add", ".")
    git(code, "commit", "-qm", "one")
    found = card.describe_environment()
    assert (found["git_commit"], found["git_dirty"]) == (git(code, "rev-parse", "HEAD"), False)
    (code / "train.py").write_text("2\n")
    assert card.describe_environment()["git_dirty"] is True
    monkeypatch.setenv("PATH", "")
    assert card.describe_environment()["git_commit"] is None


def test_the_command_line_is_left_out_on_request() -> None:
    assert card.describe_environment()["command"] == list(sys.argv)
    assert "command" not in card.describe_environment(command=False)
    found: dict[str, Any] = card.describe_environment()
    assert found["cores"] and found["platform"] and found["versions"]["torch"]
    assert found["memory"] is None or found["memory"] > 1 << 20


def test_a_private_probe_of_several_inputs(tmp_path: Path) -> None:
    probe = tracer.Probe((torch.zeros(3, 2), torch.ones(3)), torch.arange(3), raw=False)
    arrays = probe.arrays()
    assert arrays.keys() == {"id", "targets", "digest"} and arrays["digest"].shape == (3, 16)
    model = mlp()
    x, y = blobs()
    with tracer.record(
        tmp_path / "a.zarr",
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss=F.cross_entropy,
        probes={"train": tracer.Probe(x, y, raw=x * 255)},
    ):
        pass
    assert tracer.open(tmp_path / "a.zarr").probes["train"].raw is not None


def test_a_path_that_is_no_text_is_told_as_a_terminal_shows_it(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.zarr")
    run_loop(path, probes={})
    set_attributes(path, {"source": os.fsdecode(b"\xff")})
    with tracer.open(path) as archive:
        assert archive.attributes["title"] == "\\udcff"
        assert archive.attributes["provenance"] == {"source": "\\udcff"}
    assert verify(path, full=True).ok
