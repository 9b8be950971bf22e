"""What is known of the runs of a directory, kept up to date by a thread that looks at them again and again."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.comparison.runs import analysis_of
from analyze.engine import Session
from analyze.engine.distribute import Workers, complete
from analyze.watch.charts import Drawn, draw, holds, plain
from tracer.archive import open as open_archive
from tracer.archive.attributes import attributes_of, name_of
from tracer.archive.listing import archives_and_links, archives_in
from tracer.archive.summary import progress_of
from tracer.errors import said
from tracer.store.store import is_remote, local_path

if TYPE_CHECKING:
    import xarray as xr

    from analyze.results import Results
    from tracer.archive import Archive

METRICS = ("generalization", "stiffness", "path_self_similarity", "path_cross_similarity", "cna", "margin")
POINTS = 300  # of a line of every update: means of as many stretches
PATIENCE = 5.0  # seconds that the end waits for what is being computed
REMOTE = 15.0  # seconds before a run elsewhere is asked for again
SILENT = 60.0  # seconds without an update, and ten times the usual wait, after which a run may have died


@dataclass
class Watched:
    """A run as it was when last looked at."""

    key: str
    path: str
    stamp: Any = None
    commit: str = ""  # of which the facts are
    computed: float = 0.0  # when its metrics were
    facts: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, str] = field(default_factory=dict)  # split to name
    data: dict[str, xr.Dataset] = field(default_factory=dict)
    results: Results | None = None
    lines: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)  # drawn of `data`
    due: bool = False  # whether there are snapshots of which nothing is computed

    @property
    def name(self) -> str:
        """Name of the run."""
        return name_of(self.path)


class Survey:
    """The runs of a directory or URL. `look` brings it up to date; `start` does so every few seconds in a thread.

    Nothing is written to the directory: what is computed of a run is kept, block by block, in a temporary folder.
    """

    def __init__(self, place: str, every: float = 2.0) -> None:
        archives_in(place)  # a sentence now rather than an empty page
        self.place, self.every = place, every
        self.version = 0
        self.trouble = ""  # with the directory
        self._failed = ""  # what ended the last look, if anything did
        self._listed = -REMOTE
        self.runs: dict[str, Watched] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="tracer-watch-"))
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._go, name="tracer watch", daemon=True)

    def start(self) -> None:
        """Look again and again until `close`."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and remove what was kept."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        shutil.rmtree(self._folder, ignore_errors=True)

    def look(self) -> None:
        """Read what has changed, facts first, and then compute metrics of what is new."""
        for _ in self.looking():
            pass

    def looking(self) -> Iterator[None]:
        """The same in pieces, after each of which the page has something new."""
        yield from self._read()
        while (due := [run for run in self.runs.values() if run.due]) and not self._ended.is_set():
            # Each in its turn; of those that were never computed the ones that train, for which somebody waits.
            self._compute(min(due, key=lambda run: (run.computed, run.facts["state"] != "recording")))
            yield
            yield from self._read()

    def _go(self) -> None:
        while not self._ended.is_set():
            failed = ""
            try:
                for _ in self.looking():
                    if self._ended.is_set():
                        return
            except Exception as error:  # the page tells it, and the next look may go better
                failed = f"the last look ended early: {said(error)}"
            with self._lock:
                self.version += failed != self._failed
                self._failed = failed
            self._ended.wait(self.every)

    def _read(self) -> Iterator[None]:
        """Which runs there are, and the facts of those that have changed."""
        now = time.monotonic()
        if not is_remote(self.place) or now - self._listed >= REMOTE:
            self._listed = now
            self._list()
        for run in list(self.runs.values()):
            if self._refresh(run):
                yield

    def _list(self) -> None:
        try:
            paths, trouble = archives_and_links(self.place)
        except Exception as error:  # of a place elsewhere, anything; it may answer again
            paths, trouble = [], said(error)
        known = {_key(path): path for path in paths}
        with self._lock:
            changed = trouble != self.trouble or known.keys() != self.runs.keys()
            self.trouble = trouble
            kept = {key: self.runs.get(key, Watched(key, path)) for key, path in known.items()}
            gone, self.runs = self.runs.keys() - kept.keys(), kept
            self.version += changed
        for key in gone:
            shutil.rmtree(self._folder / key, ignore_errors=True)

    def _refresh(self, run: Watched) -> bool:
        """Read the facts of a run that has changed; whether it has."""
        stamp = _stamp(run.path)
        if stamp is not None and stamp == run.stamp:
            return False
        try:
            with open_archive(run.path) as archive:
                commit = f"{archive.digest} {archive.state}"
                if commit == run.commit:
                    run.stamp = stamp
                    return False
                facts, training = _facts(archive), _training(archive)
                probes = {view.split: name for name, view in archive.probes.items()}
        except Exception as error:  # what is wrong with one run is told beside it
            facts = {"state": "unreadable", "note": said(error)}
            commit, training, probes = facts["note"], None, {}
        with self._lock:
            changed = commit != run.commit
            run.stamp, run.commit, run.probes, run.due = stamp, commit, probes, training is not None
            if training is not None:
                run.data, run.lines = run.data | {"training": training}, {}
            run.facts = facts | (_outcome(run) if training is not None else {})
            self.version += changed
        return changed

    def _compute(self, run: Watched) -> None:
        note, results = "", None
        try:
            with open_archive(run.path) as archive:
                session = Session(archive, METRICS, Workers(), memory="500MB", output=self._folder / run.key)
                complete(session.compute())
                results = session.results()
        except Exception as error:
            note = said(error)
        with self._lock:
            run.due, run.computed = False, time.monotonic()
            if results is not None:
                run.results = results
                run.data, run.lines = {"training": run.data["training"], **results}, {}
            run.facts = run.facts | {"note": note} | _outcome(run)
            self.version += 1

    # ---- what the page asks for ----

    def state(self) -> dict[str, Any]:
        """Every run: what it is, how far it is, how well it does; and which attributes tell runs apart."""
        with self._lock:
            runs = [
                {"key": run.key, "name": run.name, "path": run.path, **run.facts, "computing": run.due}
                for run in self.runs.values()
            ]
            given = [run.facts.get("attributes", {}) for run in self.runs.values()]
            trouble = "; ".join(filter(None, (self.trouble, self._failed)))
            told = {"version": self.version, "trouble": trouble}
        names = dict.fromkeys(name for one in given for name in one)
        varied = [name for name in names if len({str(one.get(name)) for one in given}) > 1]
        return {"place": self.place, **told, "varied": varied, "attributes": list(names), "runs": runs}

    def curves(self, by: str = "", x: str = "step") -> list[dict[str, Any]]:
        """Every chart with its lines: one a run, or a band for each value of an attribute."""
        with self._lock:
            runs = [
                Drawn(run.name, run.key, run.data, run.lines, run.probes, _given(run))
                for run in self.runs.values()
            ]
        return draw(runs, by, "epoch" if x == "epoch" else "step")


def report_of(run: Watched, place: str) -> Path | None:
    """The saved report of a run, if it is a file of its own within the directory that is watched."""
    if is_remote(run.path):
        return None
    inside, file = local_path(place).resolve(), analysis_of(run.path) / "report.html"
    if inside.is_file() or (inside / "zarr.json").is_file():
        inside = inside.parent  # one run is watched: its analysis is beside it
    real = file.resolve()
    same = real == file.parent.parent.resolve() / file.parent.name / file.name  # and no link leads there
    return real if same and real.is_file() and real.is_relative_to(inside) else None


def _facts(archive: Archive) -> dict[str, Any]:
    told = progress_of(archive)
    times = archive.rows["time"]
    waits = np.diff(times[-50:])
    usual = float(np.median(waits)) if len(waits) else 0.0
    return {
        **{name: plain(value) for name, value in told.items()},
        "state": archive.state,
        "note": "",
        "title": str(archive.attributes.get("title") or ""),
        "last": float(times[-1]) if len(times) else None,
        "pace": plain(1 / usual) if usual > 0 else None,
        "silent_after": max(SILENT, 10 * usual),
        "attributes": {name: plain(value) for name, value in attributes_of(archive.card).items()},
    }


def _training(archive: Archive) -> xr.Dataset:
    """Loss of every update, as means of a few hundred stretches."""
    import xarray as xr

    rows = archive.rows
    steps, epochs, losses = (np.asarray(rows[name], float) for name in ("step", "epoch", "loss"))
    defined = np.isfinite(losses)
    cuts = np.array_split(np.flatnonzero(defined), min(POINTS, max(1, int(defined.sum()))))
    cuts = [cut for cut in cuts if len(cut)]
    last = np.array([cut[-1] for cut in cuts], int)
    means = np.array([losses[cut].mean() for cut in cuts])
    return xr.Dataset(
        {"loss": ("step", means)}, {"step": steps[last].astype(int), "epoch": ("step", epochs[last])}
    )


def _given(run: Watched) -> dict[str, Any]:
    return dict(run.facts.get("attributes", {}))


def _outcome(run: Watched) -> dict[str, Any]:
    """Error on train and test, and the gap, at the last snapshot."""
    data = run.data.get("generalization")
    told: dict[str, Any] = {}
    for split in ("train", "test"):
        if holds(data, "error", {"probe": run.probes.get(split, "")}):
            assert data is not None
            told[f"{split}_error"] = plain(float(data["error"].sel(probe=run.probes[split]).values[-1]))
    if data is not None and "gap_error" in data and data.sizes.get("step"):
        told["gap"] = plain(float(data["gap_error"].values[-1]))
    return told


def _stamp(path: str) -> Any:
    """What changes with every commit of a run: of its file; at a URL, of the time, since asking is reading."""
    if is_remote(path):
        return int(time.time() / REMOTE)
    place = local_path(path)
    try:
        about = (place / "zarr.json" if place.is_dir() else place).stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def _key(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
