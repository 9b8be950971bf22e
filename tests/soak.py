"""Killing recordings at random instants, and what must be true of what they leave."""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import tracer
from tests.crash_server import RARE, SHAPES, Plan, ids, loss, values
from tracer.errors import ArchiveError
from tracer.recovery.repair import repair
from tracer.share.packs import unpack
from tracer.verify import verify


class Server:
    """The process that forks recordings. `run` lets one live for a while, then kills it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env=environment,
        )
        self._buffer = b""
        assert self._line(None) == "ready"

    def run(self, life: float | None, meanwhile: Callable[[], None] | None = None, **request: Any) -> "End":
        """Start what a request says and kill it after `life` seconds; `meanwhile` is called until then."""
        self._send(json.dumps(request))
        pid = int(str(self._line(None)).removeprefix("pid "))
        started = time.monotonic()
        told: list[str] = []
        while life is not None and "end" not in told:
            left = started + life - time.monotonic()
            if left <= 0:
                os.kill(pid, signal.SIGKILL)
                break
            if meanwhile is not None:
                meanwhile()
            line = self._line(0 if meanwhile is not None else left)
            told += [] if line is None else [line]
        while "end" not in told:
            told.append(str(self._line(None)))
        seconds = time.monotonic() - started
        self._send("")
        status = int(str(self._line(None)))
        acknowledged = [int(line.removeprefix("ack ")) for line in told if line.startswith("ack ")]
        return End(status, acknowledged, [line for line in told if line.startswith("error ")], seconds)

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()

    def _line(self, timeout: float | None) -> str | None:
        """The next line, None if there is none in time."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], timeout)[0]:
                return None
            data = os.read(fd, 1 << 16)
            assert data, "the server died"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()


@dataclass(frozen=True)
class End:
    """How a recording ended, what it had acknowledged, and after how many seconds."""

    status: int
    acknowledged: list[int]
    errors: list[str]
    seconds: float


@dataclass
class History:
    """What an archive should hold: the seed each step was recorded with, and the steps with snapshots of each kind."""

    seeds: list[int] = field(default_factory=list)
    snapshots: list[int] = field(default_factory=list)
    rare: list[int] = field(default_factory=list)
    resumes: int = 0

    def followed_by(self, plan: Plan, resumed: bool) -> "History":
        """The same, recorded on to the end of a plan."""
        ends = plan.ends()
        seeds = [*self.seeds[: plan.first], *[plan.seed] * (ends[-1] + 1 - plan.first)]
        kept = self.until(plan.first)
        rare = kept.rare + ends[RARE - 1 :: RARE]
        return History(seeds, kept.snapshots + ends, rare, self.resumes + resumed)

    def until(self, n: int) -> "History":
        """The first n steps of it."""
        snapshots, rare = ([step for step in steps if step < n] for steps in (self.snapshots, self.rare))
        return History(self.seeds[:n], snapshots, rare, self.resumes)


def check(path: Path, history: History, least: int, *, thorough: bool = True) -> int:
    """Compare an archive with a history of which it must hold at least ``least`` steps; returns how many.

    ArchiveError only where it was resumed while it was read.
    """
    with tracer.open(path) as archive:
        source, rows = archive._source, archive.rows
        n = len(rows["step"])
        assert least <= n <= len(history.seeds), (n, least, len(history.seeds))
        expected = history.until(n)
        steps = np.arange(n)
        assert np.array_equal(rows["step"], steps)
        assert rows["loss"].tolist() == [loss(step, seed) for step, seed in enumerate(expected.seeds)]
        assert rows["lr"].shape[1] == 1 + (n > 60) or n == 0 or rows["lr"].shape[1] == 2
        assert not np.isnan(rows["lr"][:, 0]).any() and np.array_equal(rows["time"], 1.0 + steps)
        if n > 100:
            assert np.array_equal(rows["late"][100:], steps[100:])
        wanted = [ids(step, seed) for step, seed in enumerate(expected.seeds)]
        joined = np.concatenate([np.empty(0, np.int64), *wanted])
        assert np.array_equal(source.read("steps/ids"), joined)
        if source.has("minibatch/loss"):
            assert np.array_equal(source.read("minibatch/loss"), joined * 0.5)
        for path_, shape in SHAPES.items():
            wanted_steps = expected.rare if "activations" in path_ else expected.snapshots
            if not source.has(path_):
                assert not wanted_steps
                continue
            assert source.steps(path_.rpartition("/")[0]).tolist() == wanted_steps
            for row in range(len(wanted_steps)) if thorough else range(len(wanted_steps))[-2:]:
                step = wanted_steps[row]
                assert np.array_equal(source.read(path_, row), values(step, expected.seeds[step], shape))
        assert len(source.record["resumes"]) == history.resumes
    return n


def check_plain(path: Path, history: History, least: int) -> None:
    """The same with xarray alone, on the last rows."""
    with xr.open_datatree(path, engine="zarr") as tree:
        n = tree["steps"].sizes["step"]
        assert least <= n
        found = tree["steps/loss"].values.tolist()
        assert found == [loss(step, seed) for step, seed in enumerate(history.seeds[:n])]
        snapshots = history.until(n).snapshots
        if snapshots:
            assert tree["weights"].sizes["step"] == len(snapshots)
            last = snapshots[-1]
            expected = values(last, history.seeds[last], SHAPES["weights/float32"])
            assert np.array_equal(tree["weights/float32"][-1].values, expected)


def resumes_of(path: Path) -> int:
    with tracer.open(path) as archive:
        return len(archive._source.record["resumes"])


class Soak:
    """Chains of recordings that are killed, cut back, taken up and killed again."""

    def __init__(self, server: Server, folder: Path, seed: int, training: bool) -> None:
        self.server, self.folder, self.dice = server, folder, random.Random(seed)
        self.path = folder / "run.zarr"
        self.training = training
        self.history = History()
        self.kills: dict[str, int] = {}
        self.lives: dict[str, float] = {}  # seconds that each kind takes when it is left alone
        self.reads = 0

    def _life(self, kind: str) -> float:
        return self.dice.random() ** 0.8 * 1.05 * self.lives[kind]

    def _count(self, kind: str, end: End) -> None:
        assert not end.errors, end.errors
        assert end.status in (0, -signal.SIGKILL)
        if end.status:
            self.kills[kind] = self.kills.get(kind, 0) + 1
        else:
            self.lives[kind] = 0.7 * self.lives.get(kind, end.seconds) + 0.3 * end.seconds

    def calibrate(self) -> None:
        """Let each kind run once to its end, to know how long that takes."""
        self._write("new", None)
        self._write("resume", None)
        for kind in ("pack", "describe"):
            self._steady(kind, None)
        self._repair(None)
        if self.training:
            self._train(None)
        shutil.rmtree(self.path)

    def step(self) -> None:
        """One process that may be killed, and the check of what it leaves."""
        kind = self.dice.choices(
            ("resume", "train", "pack", "repair", "describe"), (64, 5 * self.training, 10, 11, 10)
        )[0]
        if kind == "train":
            self._train(self._life("train"))
        elif not self.path.exists() or len(self.history.seeds) > 8_000 or self.dice.random() < 0.1:
            shutil.rmtree(self.path, ignore_errors=True)
            self._write("new", self._life("new"))
        elif kind == "resume" or not self.history.seeds:
            self._write("resume", self._life("resume"))
        elif kind == "repair":
            self._repair(self._life("repair"))
        else:
            self._steady(kind, self._life(kind))

    # ---- recordings ----

    def _write(self, kind: str, life: float | None) -> None:
        first = 0
        if kind == "resume":
            n = len(self.history.seeds)
            first = self.dice.choice((n, n, self.dice.randrange(n + 1), max(0, n - 3)))
        else:
            self.history = History()
        plan = Plan(self.dice.randrange(1 << 30), first, 14)
        after = self.history.followed_by(plan, kind == "resume")
        live = self.dice.random() < 0.5
        request = {"kind": "write", "path": str(self.path), "seed": plan.seed, "first": first, "rounds": 14}
        end = self.server.run(
            life,
            (lambda: self._read(after, first)) if live else None,
            **request,
            power=self.dice.random() < 0.2,
        )
        self._count(kind, end)
        if not (self.path / "zarr.json").exists():  # killed before there was an archive
            assert kind == "new" and not end.acknowledged
            shutil.rmtree(self.path, ignore_errors=True)
            return
        least = end.acknowledged[-1] + 1 if end.acknowledged else 0
        if resumes_of(self.path) < after.resumes:  # nothing was dropped yet
            assert not end.acknowledged
            assert check(self.path, self.history, len(self.history.seeds)) == len(self.history.seeds)
        else:
            n = check(self.path, after, max(least, first))
            check_plain(self.path, after, n)
            self.history = after.until(n)
        report = verify(self.path, full=True)
        assert report.ok, str(report)
        if end.status == 0:
            assert report.state == "complete" and len(self.history.seeds) == len(after.seeds)

    def _read(self, after: History, first: int) -> None:
        """A reader beside a recording: it sees whole states, or is told that the archive was resumed."""
        if not (self.path / "zarr.json").exists():
            return
        before = resumes_of(self.path)
        expected = after if before == after.resumes else self.history
        try:
            check(self.path, expected, 0 if expected is after else len(expected.seeds), thorough=False)
            check_plain(self.path, expected, 0)
            self.reads += 1
        except ArchiveError as error:
            assert "open it again to read on" in str(error), error
        except Exception:
            if resumes_of(self.path) == before:  # else plain xarray read on in what was cut back meanwhile
                raise

    def _train(self, life: float | None) -> None:
        path, reference = self.folder / "train.zarr", self.folder / "reference.zarr"
        checkpoint = self.folder / "checkpoint.pt"
        request = {"kind": "train", "path": str(path), "checkpoint": str(checkpoint), "epochs": 6}
        if life is None:
            other = {**request, "path": str(reference), "checkpoint": str(self.folder / "reference.pt")}
            self._count("train", self.server.run(None, **other))
            return
        end = self.server.run(life, **request)
        self._count("train", end)
        if (path / "zarr.json").exists():
            n = same_training(path, reference)
            assert n > (end.acknowledged[-1] if end.acknowledged else -1)
            report = verify(path, full=True)
            assert report.ok, str(report)
        if end.status == 0:
            assert n == 19
            shutil.rmtree(path)
            checkpoint.unlink()

    # ---- what is done to an archive later ----

    def _steady(self, kind: str, life: float | None) -> None:
        """Packing and setting attributes change nothing of what was recorded, at any instant."""
        extra = {"notes": 30} if kind == "describe" else {}
        n = len(self.history.seeds)

        def read() -> None:
            try:
                assert check(self.path, self.history, n, thorough=False) == n
                self.reads += 1
            except ArchiveError as error:  # a packed copy took the place of what was being read
                assert kind == "pack" and "open it again to read on" in str(error), error

        end = self.server.run(
            life, read if self.dice.random() < 0.5 else None, kind=kind, path=str(self.path), **extra
        )
        self._count(kind, end)
        assert check(self.path, self.history, n) == n
        report = verify(self.path, full=True)
        assert report.ok, str(report)
        with tracer.open(self.path) as archive:
            packed = "packed" in archive.card
        if packed:
            unpack(self.path)

    def _repair(self, life: float | None) -> None:
        """Damage an object, repair, be killed, repair again: what was before the damage is there."""
        rows = self.history.snapshots
        if len(rows) < 3:
            return
        row = self.dice.randrange(1, len(rows))
        with tracer.open(self.path) as archive:
            layout = archive._source.layout("weights/float32")
        shared = layout.chunk[0]
        victim = self.path / "weights" / "float32" / f"c.{row // shared}.0"
        data = bytearray(victim.read_bytes())
        # Where the first snapshots are damaged, nothing is left that could be repaired.
        first = 0 if row >= shared else prod(layout.piece) * layout.dtype.itemsize + 4
        data[self.dice.randrange(first, len(data))] ^= 1 << self.dice.randrange(8)
        victim.write_bytes(data)
        end = self.server.run(life, kind="repair", path=str(self.path))
        self._count("repair", end)
        if end.status:
            repair(self.path)
        report = verify(self.path, full=True)
        assert report.ok, str(report)
        with tracer.open(self.path) as archive:
            left = len(archive.steps("weights"))
        assert row // shared * shared <= left <= len(rows)
        kept = self.history.until(rows[left]) if left < len(rows) else self.history
        n = len(kept.seeds)
        resumes = resumes_of(self.path)
        self.history = History(kept.seeds, kept.snapshots, kept.rare, resumes)
        assert check(self.path, self.history, n) == n
        for side in self.folder.glob("run.zarr.cut-*"):
            shutil.rmtree(side)


def same_training(path: Path, reference: Path) -> int:
    """Whether an archive is the beginning of another, bit for bit; returns how many steps it holds."""
    with tracer.open(path) as one, tracer.open(reference) as two:
        n = len(one.rows["step"])
        for name in one.rows.keys() - {"time"}:
            np.testing.assert_array_equal(one.rows[name], two.rows[name][:n])
        for group in one._source.streams():
            steps = one._source.steps(group)
            assert steps.tolist() == [step for step in two._source.steps(group) if step < n]
            for name in set(one._source.children(group)) - {"epoch_end"}:
                for row in range(len(steps)):
                    mine, theirs = (s._source.read(f"{group}/{name}", row) for s in (one, two))
                    np.testing.assert_array_equal(mine, theirs)
    return n


def soak(folder: Path, kills: int, seed: int, training: bool = True) -> Iterator[Soak]:
    """Kill so many recordings; yields after each step."""
    server = Server()
    try:
        run = Soak(server, folder, seed, training)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run.calibrate()
            yield run
            while sum(run.kills.values()) < kills:
                run.step()
                yield run
    finally:
        server.close()
