"""The commands that hand an archive on: paths on stdout, notes on stderr, refusals in one sentence."""

import shutil
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

import cli
import tracer
from tests.synthetic import write_archive
from tracer.command.console import Commands
from tracer.command.parameters import Assignment
from tracer.command.share import COMMANDS
from tracer.verify import verify

save_file = pytest.importorskip("safetensors.torch", reason="pip install tracer-nn[test]").save_file

MAKE = """
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))

def probes():
    return {"test": (torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))}
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "run.zarr"
    write_archive(path)
    return path


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run.zarr"))


def call(*arguments: object) -> Result:
    # In the context of the real group: a command keeps the help option that it was first called with.
    named = {str(command.name): command for command in COMMANDS}
    group = Commands("tracer", commands=named, context_settings=cli.CONTEXT)
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def fine(*arguments: object) -> Path:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def test_pack_and_unpack(run: Path) -> None:
    assert fine("pack", run) == run
    zipped = fine("pack", run, "--zip")
    assert zipped == run.with_suffix(".zip")
    assert fine("unpack", zipped, "-o", run.with_name("again.zarr")) == run.with_name("again.zarr")
    assert verify(run.with_name("again.zarr"), full=True).findings == []


@pytest.mark.parametrize(
    ("steps", "kept"), [("1:8:3", [1, 4]), ("2,8", [2, 8]), (":2", [0, 1]), ("4:", [4, 8])]
)
def test_a_part(steps: str, kept: list[int], run: Path, tmp_path: Path) -> None:
    asked = ("--probe", "test", "--steps", steps, "--no-gradients")
    made = call("pack", run, "-o", tmp_path / "part", *asked)
    assert made.exit_code == 0, made.output
    assert made.stderr == f"left out: gradients; probes train; {5 - len(kept)} snapshots\n"
    with tracer.open(made.stdout.strip()) as archive:
        assert archive.snapshots.tolist() == kept
        assert archive.card["packed"]["left_out"]["probes"] == ["train"]


@pytest.mark.parametrize("steps", ["a", "1:2:3:4", "1-5"])
def test_steps_that_are_none_are_a_usage_error(steps: str, run: Path) -> None:
    result = call("pack", run, "--steps", steps)
    assert result.exit_code == 2
    assert "is not START:STOP:STRIDE" in result.stderr


def test_export_and_import(run: Path, tmp_path: Path) -> None:
    file = fine("export", run, tmp_path / "run.h5", "--no-compression")
    assert verify(fine("import", file, tmp_path / "again.zarr"), full=True).findings == []


def test_import_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_for_import.py").write_text(MAKE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    for step in (0, 5):
        names = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
        state = {name: torch.full(shape, step + 1.0) for name, shape in names.items()}
        save_file(state, tmp_path / "files" / f"step-{step}.safetensors")
    functions = ("--model", "made_for_import:model", "--probes", "made_for_import:probes")
    made = fine("import", "files", "made.zarr", *functions)
    with tracer.open(made) as archive:
        assert archive.snapshots.tolist() == [0, 5]
        assert (archive.weights(5)["0.bias"] == 6).all()
    assert call("import", "files", "other.zarr").exit_code == 2


@pytest.mark.parametrize(
    ("text", "pair"),
    [("licence=CC0-1.0", ("licence", "CC0-1.0")), ("a=b=c", ("a", "b=c")), ("a=", ("a", None))],
)
def test_assignments(text: str, pair: tuple[str, str | None]) -> None:
    assert Assignment().convert(text, None, None) == pair


@pytest.mark.parametrize("text", ["licence", "=x", ""])
def test_what_assigns_nothing_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.UsageError, match="is not NAME=VALUE"):
        Assignment().convert(text, None, None)


def test_push_and_pull(run: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shelf/run.zarr"
    sent, again = call("push", run, url), call("push", run, url)
    assert (sent.exit_code, sent.stdout.strip()) == (0, url)
    assert ", 0 were there" in sent.stderr
    assert "sent 0 objects (0 bytes)" in again.stderr
    assert verify(fine("pull", url, tmp_path / "back.zarr")).findings == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("pack", "absent.zarr"),
        ("unpack", "absent.zip"),
        ("export", "absent.zarr", "a.h5"),
        ("import", "absent.h5", "a.zarr"),
        ("push", "absent.zarr", "memory://a/b"),
        ("pull", "memory://absent/b", "a.zarr"),
    ],
)
def test_what_is_not_there_is_refused_in_one_sentence(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert "absent" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_they_are_commands_of_tracer_and_info_sets_attributes(run: Path) -> None:
    import cli

    assert {command.name for command in COMMANDS} <= cli.main.commands.keys()
    result = CliRunner().invoke(cli.main, ["info", str(run), "--set", "licence=MIT", "--set", "title=mine"])
    assert (result.exit_code, result.stderr) == (0, "")
    with tracer.open(run) as archive:
        assert archive.attributes["provenance"] == {"licence": "MIT"}
        assert archive.attributes["title"] == "mine"
