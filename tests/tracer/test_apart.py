"""The process kept for networks of archives: its answers are those of this one, its death is one failed metric."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr
from click.testing import CliRunner

import analyze
import cli
import tracer
from tests.dying import crashing
from tests.loops import record_everything
from tracer.apart import Apart, WorkerDiedError
from tracer.errors import ArchiveError
from tracer.verify import verify

NAMES = ["jacobian", "cna"]


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("apart") / "run.zarr"
    record_everything(path)
    return path


def die(how: int) -> None:
    os.kill(os.getpid(), how)


def three_times(progress: object) -> int:
    for number in range(3):
        progress(number, "of three")  # type: ignore[operator]
    return os.getpid()


def test_calls_are_made_in_one_other_process(apart: Apart) -> None:
    first, second = apart.call(os.getpid), apart.call(os.getpid)
    assert first == second != os.getpid()
    assert apart.call(sum, [1, 2, 3]) == 6


def test_progress_is_told_here(apart: Apart) -> None:
    told: list[tuple[int, str]] = []
    assert apart.call(three_times, progress=lambda *what: told.append(what)) != os.getpid()
    assert told == [(0, "of three"), (1, "of three"), (2, "of three")]


def test_errors_come_back_as_they_are(apart: Apart) -> None:
    with pytest.raises(ArchiveError, match=r"nowhere\.zarr"):
        apart.call(tracer.open, "nowhere.zarr")
    assert apart.call(len, "it goes on") == 10


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGFPE, signal.SIGKILL])
def test_a_death_is_one_sentence_and_the_next_call_has_a_new_process(apart: Apart, how: int) -> None:
    before = apart.call(os.getpid)
    with pytest.raises(WorkerDiedError, match=f"died with signal {int(how)} ") as caught:
        apart.call(die, how)
    assert "\n" not in str(caught.value)
    assert apart.call(os.getpid) != before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no limits")
def test_memory_is_limited(apart: Apart) -> None:
    with pytest.raises(MemoryError):
        apart.call(bytes, 40 << 30, memory=1 << 30)
    assert len(apart.call(bytes, 1 << 20, memory=1 << 30)) == 1 << 20


def test_results_are_those_of_this_process(run: Path) -> None:
    here, there = analyze.run(run, NAMES), analyze.run(run, NAMES, apart=True)
    for name in NAMES:
        xr.testing.assert_equal(here[name], there[name])


def test_a_crash_is_one_failed_metric(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analyze import engine

    wanted = {
        card.name: card for card in (crashing.card, *(analyze.available_metrics()[name] for name in NAMES))
    }
    monkeypatch.setattr(engine, "_wanted", lambda given: wanted)
    results = analyze.run(run, None, apart=True, options={"crashing": {"tester": os.getpid()}})
    assert set(results) == set(NAMES)
    assert results.skipped["crashing"].startswith(
        "the worker that ran the network died with signal 11 (SIGSEGV)"
    )


def test_the_commands_say_what_the_functions_say(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["verify", str(run), "--replay", "--format", "json"])
    assert done.exit_code == 0, done.output
    assert verify(run, replay=True).ok
    filled = CliRunner().invoke(cli.main, ["materialize", str(run), "-o", str(tmp_path / "new.zarr")])
    assert filled.exit_code == 0, filled.output
