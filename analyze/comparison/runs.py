"""What a comparison reads of one run: the facts on its card and the saved analysis beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyze.arrays import SOURCES, closure
from analyze.catalogue import available_metrics, card_of
from analyze.contract import Metric
from analyze.engine import plan
from analyze.engine.distribute import Routine, Workers, address
from analyze.engine.fingerprint import sources
from analyze.saved.documents import document
from analyze.saved.store import ResultStore
from tracer.archive.attributes import attributes_of, name_of
from tracer.errors import ArchiveError, said
from tracer.store.files import claimed, write_whole

FACTS = "run.json"
SUFFIXES = (".zarr", ".zip")
SEEDS = ("seed", "random_seed")  # what repeats a configuration is no axis of it


@dataclass
class Run:
    """One run: where it and its analysis are, what is known of it, and why metrics are missing."""

    path: str
    analysis: Path
    facts: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)
    # Metrics saved with options that are not the defaults, and which options.
    otherwise: dict[str, str] = field(default_factory=dict)
    unread: str = ""  # why its archive cannot be read, where that showed only later
    _looked: dict[str, dict[str, Any] | None] = field(default_factory=dict, repr=False)

    @classmethod
    def at(cls, path: str | Path) -> Run:
        """The run at the path of an archive or of its analysis."""
        place = str(path).rstrip("/")
        folder = Path(place)
        if (folder / "summary.json").is_file() or (folder / "results.zarr").is_dir():
            beside = [folder.with_suffix(suffix) for suffix in SUFFIXES]
            archive = next((str(one) for one in beside if one.exists()), "")
            return cls(archive, folder, read_facts(archive, folder))
        analysis = analysis_of(place)
        return cls(place, analysis, read_facts(place, analysis))

    @property
    def name(self) -> str:
        """Name of the analysis directory without its suffix."""
        return name_of(str(self.analysis))

    @property
    def attributes(self) -> dict[str, Any]:
        """Optimizer, lr, batch size, parameters and whatever else the card says, as plain values."""
        return dict(self.facts.get("attributes", {}))

    def stored(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Attributes of those of these results that are saved with the defaults, of this archive and by this very code.

        Where there is no archive to compute them again from, whichever code made them.
        """
        names = list(names)
        new = [name for name in names if name not in self._looked]
        if new:
            self._looked |= dict.fromkeys(new) | self._look(new)
        return {name: known for name in names if (known := self._looked[name]) is not None}

    def _look(self, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        store, digest = ResultStore(self.analysis), self.facts.get("digest")
        found: dict[str, dict[str, Any] | None] = {}
        for name in store.names(names):
            attributes = _attributes(store.root, name)
            mine = not self.path or attributes.get("sources") == sources()
            if mine and (digest is None or attributes.get("archive_digest", digest) == digest):
                other = other_options(name, attributes)
                if other:
                    self.otherwise[name] = other
                else:
                    found[name] = attributes
        return found

    def computing(
        self, names: Iterable[str], workers: Workers, named: bool = True, **settings: Any
    ) -> Routine[None]:
        """Compute and save those metrics that no saved analysis holds; unless `named`, that none had to skip either.

        settings: more of `Session`, such as `memory` and `apart`.
        """
        names = list(names)
        stored = self.stored(names)
        self.skipped = {} if named else self._skipped_before()
        missing = [name for name in names if name not in stored and name not in self.skipped]
        if not missing:
            return
        if not self.path:
            for name in missing:
                there = f"saved with {self.otherwise[name]}" if name in self.otherwise else "not"
                self.skipped[name] = f"{there} in {self.analysis}, and the archive is not beside it"
            return
        try:
            with claimed(self.analysis):
                yield from self._compute(missing, workers, **settings)
        except ArchiveError as error:
            # Damaged, in use, or no place for results: the other runs are still wanted.
            self.unread = said(error)

    def _skipped_before(self) -> dict[str, str]:
        """Metrics that an analysis of this very commit had to skip; a later one may hold more."""
        summary, digest = document(self.analysis / "summary.json"), self.facts.get("digest")
        # A summary without results does not say what it is of.
        known = summary.get("archive_digest") or digest
        return dict(summary.get("skipped", {})) if digest in (None, known) else {}

    def _compute(self, names: Sequence[str], workers: Workers, **settings: Any) -> Routine[None]:
        """Compute metrics and write the analysis whole again."""
        from analyze.engine import Session
        from tracer.archive import open

        with open(self.path) as archive:
            session = Session(archive, names, workers, output=self.analysis, **settings)
            yield from session.compute()
            self._looked = {name: known for name, known in self._looked.items() if name not in names}
            self.skipped |= session.results().skipped
            if self.stored(names):
                pages = Pages(address(self.path), address(str(self.analysis)), archive.digest, self.skipped)
                job = workers.begin(pages)
                # A worker that does not see this directory leaves the writing to us.
                if job is None or not (yield from workers.finish(job)):
                    pages()
        if self.facts.get("mark") is not None and self.analysis.is_dir():
            write_whole(self.analysis / FACTS, json.dumps(self.facts, indent=1))


@dataclass(frozen=True)
class Pages:
    """Tables, figures, summary and report of saved results: longer work than most of the results are."""

    archive: str
    analysis: str
    digest: str
    skipped: Mapping[str, str]

    def __call__(self) -> bool:
        """Write them; False where the results are not to be seen from here."""
        from analyze.report.save import save
        from analyze.results import Results, load
        from tracer.archive import open

        names = ResultStore(self.analysis).names()
        if not names:
            return False
        page = load(self.analysis)
        if self.digest not in {data.attrs.get("archive_digest") for data in page.values()}:
            return False
        with open(self.archive) as archive:
            save(
                Results(page, self.skipped, archive=archive), Path(self.analysis)
            )  # who asked for it has the claim
        return True


def other_options(name: str, attributes: Mapping[str, Any]) -> str:
    """Options of a saved result, and of those it was made of, that are not the defaults; empty where all are."""
    try:
        return ", ".join(f"{key}={value}" for key, value in plan.other_options(name, attributes).items())
    except (ValueError, TypeError, RecursionError):
        return "options that cannot be read"


def _attributes(root: Path, name: str) -> dict[str, Any]:
    found = document(root / name / "zarr.json").get("attributes")
    return dict(found) if isinstance(found, Mapping) else {}


def analysis_of(path: str) -> Path:
    """Directory of the analysis of a run: beside a local archive, in this directory for a URL.

    >>> analysis_of("runs/mlp.zarr").name, str(analysis_of("s3://bucket/mlp.zip"))
    ('mlp.analysis', 'mlp.analysis')
    """
    place = Path(path.rpartition("/")[2] if "://" in path else path)
    return place.with_suffix(".analysis") if place.suffix in SUFFIXES else Path(f"{place}.analysis")


def read_facts(path: str, analysis: Path) -> dict[str, Any]:
    """Title, digest and attributes of a run: from `run.json` of its analysis while the archive is unchanged.

    The archive is opened once, for its card and the sizes of its batches, and what was found is kept in
    `run.json` beside the results, if there are any.
    """
    kept_at, mark = analysis / FACTS, _mark(path)
    stored = document(kept_at)
    if stored and (mark is None or stored.get("mark") == mark):
        return stored
    if not path:
        return {"title": analysis.name.removesuffix(".analysis")}
    facts = _facts(path) | {"mark": mark}
    if analysis.is_dir() and mark is not None:
        write_whole(kept_at, json.dumps(facts, indent=1))
    return facts


def _facts(path: str) -> dict[str, Any]:
    from tracer.archive import open

    with open(path) as archive:
        attributes = attributes_of(archive.card)
        sizes = archive.rows["n_ids"]
        sizes = sizes[sizes > 0]
        if len(sizes):
            # The most common size: the last batch of an epoch is often smaller.
            values, counts = np.unique(sizes, return_counts=True)
            attributes.setdefault("batch_size", int(values[counts.argmax()]))
        title = str(archive.attributes.get("title") or name_of(path))
        about = {"title": title, "run_id": archive.run_id, "digest": archive.digest, "state": archive.state}
        return {**about, "attributes": attributes}


def choose_axes(table: Mapping[str, Sequence[Any]]) -> list[str]:
    """Attributes (run,) along which runs can be compared, each free to vary while the others are fixed.

    Left out are attributes with one value, those that differ in every run, those some run lacks, seeds, and
    those that follow from the ones before: the number of parameters where the width is known.

    >>> choose_axes({"width": [1, 1, 2, 2], "lr": [1, 2, 1, 2], "n_parameters": [10, 10, 40, 40]})
    ['width', 'lr']
    """
    chosen: list[str] = []
    for name, values in table.items():
        distinct = len(set(values))
        if name in SEEDS or distinct < 2 or (distinct == len(values) and len(values) > 2) or None in values:
            continue
        before = list(zip(*(table[other] for other in chosen), strict=True)) if chosen else [()] * len(values)
        if len(set(zip(before, values, strict=True))) > len(set(before)):
            chosen.append(name)
    return chosen


def _mark(path: str) -> list[Any] | None:
    """What changes with every commit of a local archive, and with what reads it; None where it is not local."""
    place = Path(path) / "zarr.json" if Path(path).is_dir() else Path(path)
    if not path or not place.is_file():
        return None
    about = place.stat()
    return [about.st_mtime_ns, about.st_size, sources()]


def wanted_metrics(measures: Sequence[str] | None, runs: Sequence[Run]) -> list[str]:
    """Metrics that the measures come from, with `generalization`, which holds what they are compared with.

    By default those that any run has saved; where none has any, all that run no network again: activations may have
    to be made again, so those that read them are not among these.
    """
    known = available_metrics()
    saved = {name for run in runs for name in ResultStore(run.analysis).listed()}
    if measures is not None:
        names = [name.partition(".")[0] for name in measures]
        for name in names:
            # A saved result counts even where the metric that made it is not installed.
            if name not in saved:
                card_of(name, known)
    else:
        names = sorted(saved & known.keys()) or [n for n, card in known.items() if not _replays(card)]
    return list(dict.fromkeys(["generalization", *names]))


def _replays(card: Metric) -> bool:
    sources = closure([name for name in card.reads if name in SOURCES])
    return any(source.name == "states" or source.stream == "activations" for source in sources)


def read_run(path: str | Path) -> Run:
    """A run by the path of its archive or analysis; ArchiveError in one sentence where there is none."""
    run = Run.at(path)
    if not run.path and not run.analysis.is_dir():
        raise ArchiveError(f"{path} is neither an archive nor an analysis; give RUN.zarr or RUN.analysis")
    return run
