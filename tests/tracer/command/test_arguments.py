"""Arguments that nothing can be done with are one sentence, whatever a library below says of them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from tests.loops import run_loop


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arguments") / "run.zarr"
    run_loop(path)
    return path


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1 and "unexpected" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("device", ["foo", "cuda:99", "mps:7", "meta", ""])
@pytest.mark.parametrize("command", [("verify", "--replay"), ("materialize", "--activations", "all")])
def test_devices_that_are_not_there(run: Path, command: tuple[str, ...], device: str) -> None:
    name, *options = command
    assert f"nothing can be computed on device {device!r}" in refusal(name, run, *options, "--device", device)


@pytest.mark.parametrize("steps", ["9" * 20, f"{'9' * 20}::{'9' * 20}"])
def test_steps_beyond_counting(run: Path, tmp_path: Path, steps: str) -> None:
    assert "is at the steps asked for" in refusal("pack", run, "-o", tmp_path / "a.zarr", "--steps", steps)
