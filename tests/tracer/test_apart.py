"""The process kept for networks of archives: its answers are those of this one, its death is one failed metric."""

import json
import os
import pickle
import random
import signal
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import analyze
import cli
import tracer
from analyze.engine.apart import Apart as EngineApart
from analyze.engine.blocks import Block, Worker, _nbytes
from analyze.engine.plan import make_plan
from tests.damage import copied
from tests.dying import crashing
from tracer.apart import Apart, WorkerDiedError, answers
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.verify import verify

NAMES = ["jacobian", "cna"]


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(everything: Path) -> Path:
    return everything


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


def test_files_where_it_is_started_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("queue", "struct", "tracer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current directory')")
    monkeypatch.chdir(tmp_path)
    here = Apart()
    try:
        assert here.call(sum, [1, 2, 3]) == 6
    finally:
        here.close()


def test_progress_is_told_here(apart: Apart) -> None:
    told: list[tuple[int, str]] = []
    assert apart.call(three_times, progress=lambda *what: told.append(what)) != os.getpid()
    assert told == [(0, "of three"), (1, "of three"), (2, "of three")]


def test_errors_come_back_as_they_are(apart: Apart) -> None:
    with pytest.raises(ArchiveError, match=r"nowhere\.zarr"):
        apart.call(tracer.open, "nowhere.zarr")
    assert apart.call(len, "it goes on") == 10


@pytest.mark.slow  # by default a metric dies, of SIGSEGV
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


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_results_are_those_of_this_process(run: Path, jobs: int) -> None:
    here, there = analyze.run(run, NAMES), analyze.run(run, NAMES, apart=True, jobs=jobs)
    for name in NAMES:
        xr.testing.assert_equal(here[name], there[name])


def test_a_process_of_several_runs_no_network_itself(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks go to processes whose answers are unpickled: each has a process of its own for networks."""
    asked: list[bytes] = []
    monkeypatch.setattr(Apart, "call", lambda self, function, task, code, memory: asked.append(task) or {})
    with tracer.open(run) as archive:
        plans = [
            make_plan(analyze.available_metrics()[name], {}, archive, {})
            for name in ("jacobian", "generalization")
        ]
        elsewhere = EngineApart(archive, {}, 1 << 30, wanted=True)
        ran, stored = (elsewhere.task(Block(0, [plan], (0,))) for plan in plans)
        assert "no answer" in ran()["jacobian"].message and len(asked) == 1
        assert stored.apart is None


def test_this_process_works_while_the_other_runs_the_network(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other to have begun; what is stored comes first in the results' order of arrival."""
    from analyze.engine import apart as module

    here, there = threading.Event(), threading.Event()
    ask, compute, told = module.in_a_process_of_its_own, Worker.compute, []

    def asked(*arguments: Any) -> Any:
        there.set()
        assert here.wait(60), "nothing was computed here meanwhile"
        return ask(*arguments)

    def computed(self: Worker, block: Block) -> Any:
        here.set()
        assert there.wait(60), "the other process had not begun"
        return compute(self, block)

    monkeypatch.setattr(module, "in_a_process_of_its_own", asked)
    monkeypatch.setattr(Worker, "compute", computed)
    finished = lambda name, data: told.append(name)  # noqa: E731
    results = analyze.run(run, ["layer_norms", "stiffness"], apart=True, finished=finished)
    assert set(results) == {"layer_norms", "stiffness"} and told == ["stiffness", "layer_norms"]


def test_what_needs_all_memory_is_computed_alone(run: Path) -> None:
    """Half the memory each, for the process for networks and this one, unless a metric then would not fit."""
    names = ("layer_norms", "path_distance")
    with tracer.open(run) as archive:
        plans = [make_plan(analyze.available_metrics()[name], {}, archive, {}) for name in names]
        most = max(_nbytes([plan], archive) for plan in plans)
        blocks = {}
        for memory in (most * 3 // 2, most * 4):
            elsewhere = EngineApart(archive, {}, memory, wanted=True)
            blocks[memory] = elsewhere.blocks(plans, failed := {}, 1), elsewhere._at_once
            assert not failed
        assert [at_once for _, at_once in blocks.values()] == [False, True]
        assert all(
            {name for block in cut for name in block.names} == set(names) for cut, _ in blocks.values()
        )
    assert set(analyze.run(run, names, apart=True, memory=most * 3 // 2)) == set(names)


def test_an_interruption_does_not_wait_for_the_other_process(apart: Apart) -> None:
    apart.call(os.getpid)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(apart.call, signal.pause)  # which never returns
        while not apart._lock.locked():
            pass
        apart.close()
        with pytest.raises(WorkerDiedError):
            answer.result(60)


class Evil:
    """Unpickled it makes a file; as an answer it is nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def taken_over(content: bytes, kind: bytes, claimed: int) -> None:
    """What an archive's code would do in there: answer in words of its own."""
    message = struct.pack("<cQ", kind, claimed) + content
    sys.modules["tracer.apart"]._HEAD = SimpleNamespace(pack=lambda *_: message)  # type: ignore[attr-defined]


# A new process for each: by default an error that is longer than it says.
ANSWERS = [
    pytest.param(kind, lie, marks=[pytest.mark.slow] * ((kind, lie) != (b"e", True)))
    for kind in (b"r", b"e", b"p", b"x")
    for lie in (False, True)
]


@pytest.mark.parametrize(("kind", "lie"), ANSWERS)
def test_an_answer_is_never_unpickled(apart: Apart, tmp_path: Path, kind: bytes, lie: bool) -> None:
    content = pickle.dumps(Evil(tmp_path / "hacked"))
    with pytest.raises(WorkerDiedError, match="what is no answer; do not trust this archive"):
        apart.call(taken_over, content, kind, 1 << 60 if lie else len(content))
    assert list(tmp_path.iterdir()) == []
    assert apart.call(len, "it goes on") == 10


VALUES = {
    "nothing": None,
    "numbers": [1, -(2**70), 0.1, float("inf"), True],
    "texts": ("a", "\N{GREEK SMALL LETTER PI}", b"\0\xff"),
    "keys that are no texts": {1: "a", ("b", 2): {"c": []}},
    "arrays": [
        np.arange(6.0).reshape(2, 3),
        np.zeros((0, 3), np.int32),
        np.array(True),
        np.array(["a", "bc"]),
    ],
    "scalars": (np.float32(0.1), np.int64(-3), np.bool_(False)),
    "objects": np.array([["a", None], [1, "b"]], object),
    "in another order": np.asfortranarray(np.arange(6).reshape(2, 3)),
}


@pytest.mark.parametrize("name", VALUES)
def test_plain_values_come_back_as_they_were(name: str) -> None:
    value, back = VALUES[name], answers.read(answers.written(VALUES[name]))
    assert pickle.dumps(as_lists(back)) == pickle.dumps(as_lists(value))
    assert not isinstance(back, np.ndarray) or back.flags.writeable


def as_lists(value: object) -> object:
    match value:
        case np.ndarray() | np.generic():
            return type(value).__name__, str(value.dtype), value.shape, value.tolist()
        case list() | tuple():
            return type(value).__name__, [as_lists(item) for item in value]
    return value


def test_bytes_that_are_no_answer_are_refused() -> None:
    rng, seen = random.Random(0), Counter[str]()
    whole = answers.written([VALUES[name] for name in sorted(VALUES)])
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            at = rng.randrange(len(data))
            data[at : at + rng.choice([0, 1, 4])] = rng.choice([b"", b"9", b"[", b'"', rng.randbytes(2)])
        try:
            answers.read(bytes(data))
            seen["read"] += 1
        except answers.ForeignAnswerError:
            seen["refused"] += 1
    assert seen["refused"] > 1000


def test_what_is_no_value_is_not_sent(apart: Apart) -> None:
    with pytest.raises(TypeError, match="a Evil cannot be sent"):
        apart.call(Evil, Path("x"))


@pytest.mark.parametrize("error", [MissingTraceError("no"), KeyError("k"), RecordError("r"), ValueError("v")])
def test_errors_keep_their_kind(error: Exception) -> None:
    back = answers.read(answers.written(error))
    assert type(back) is type(error) and back.args == error.args
    assert type(answers.read(answers.written(UnicodeDecodeError("a", b"", 0, 1, "b")))) is RuntimeError
    assert type(answers.read(answers.written(KeyboardInterrupt()))) is RuntimeError


# At each snapshot that is looked at alone a process dies, and each takes seconds to start.
@pytest.mark.parametrize("snapshots", [[0], pytest.param("few", marks=pytest.mark.slow)])
def test_a_crash_is_one_failed_metric(run: Path, monkeypatch: pytest.MonkeyPatch, snapshots: Any) -> None:
    from analyze import engine

    wanted = {
        card.name: card for card in (crashing.card, *(analyze.available_metrics()[name] for name in NAMES))
    }
    monkeypatch.setattr(engine, "_wanted", lambda given: wanted)
    options = {"crashing": {"tester": os.getpid()}}
    results = analyze.run(run, None, apart=True, options=options, snapshots=snapshots)
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


def test_a_comparison_runs_networks_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [str(copied(run, tmp_path / f"{name}.zarr")) for name in ("one", "two")]
    for name in ("one", "two"):  # an analysis that left it out does not decide for who names it
        (tmp_path / f"{name}.analysis").mkdir()
        summary = {"skipped": {"jacobian": "would take 100 s"}}
        (tmp_path / f"{name}.analysis" / "summary.json").write_text(json.dumps(summary))
    compute = Worker.compute

    def stored_alone(self: Worker, block: Block) -> Any:
        assert block.names == ["generalization"]
        return compute(self, block)

    monkeypatch.setattr(Worker, "compute", stored_alone)
    asked = ["compare", *runs, "--bootstrap", "0", "--format", "json"]
    done = CliRunner().invoke(cli.main, [*asked, "-m", "jacobian", "-m", "generalization"])
    assert done.exit_code == 0, done.output
    assert "jacobian" in done.stdout
