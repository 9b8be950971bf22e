"""Mending an archive: back to the last step before the damage, with everything that was cut kept beside it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.recovery.restore import Rest, Restored, restore, sound_rows, up_to
from tracer.store.files import Directory, beside
from tracer.store.manifest import MANIFEST
from tracer.verify.examination import Examination
from tracer.verify.inventory import Inventory
from tracer.verify.report import Report
from tracer.writer.committer import Committer
from tracer.writer.place import cannot_write, locked, remove, settled


@dataclass(frozen=True)
class Repaired:
    """What was done. text: one sentence. step: the last step that is there now. cut: the side folder, if any."""

    text: str
    step: int
    cut: Path | None = None

    def __str__(self) -> str:
        return self.text


def repair(path: str | os.PathLike[str]) -> Repaired:
    """Make an archive in a directory sound again, if its root document is.

    Whatever is damaged or lost is cut away together with every later step; documents and manifest are written
    anew from what is sound. What is cut or replaced is kept in ``<path>.cut-<n>``. An archive whose recording
    was killed is marked as interrupted. Of a run on several processes, each rank's archive is mended by itself.

    Errors: ArchiveError, with nothing changed, where no step would be left, what is damaged is needed for all
    of them, or the archive is being written.
    """
    folder = settled(path)
    if not folder.exists():
        raise ArchiveError(f"there is no archive at {str(path)!r}; check the path")
    if not folder.is_dir():
        raise ArchiveError(
            f"{str(path)!r} is a file, and only directories are repaired; `tracer unpack` a zip file first"
        )
    with locked(folder):
        try:
            repaired, others = _Repair(folder).run(), _others(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
    parts = [repair(folder / ranks.within(rank)) for rank in others]
    return replace(repaired, text="\n".join(str(part) for part in (repaired, *parts)))


def _others(folder: Path) -> list[int]:
    source = Source(folder)
    try:
        return ranks.present(source)
    finally:
        source.close()


class _Repair:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._source, self._inventory = Source(folder), Inventory(folder)
        self._report = Report(str(folder), "full")
        self._examination = Examination(self._source, self._inventory, self._report)
        self._examination.run(full=True)
        self._committer = Committer(folder, sync=True)
        self._cut: Directory | None = None

    def run(self) -> Repaired:
        state, findings = self._source.record["state"], self._report.findings
        leftover = self._examination.leftover
        steps = {group: self._steps(group) for group in self._source.record["rows"]}
        known = self._source.record.get("committed_step")
        if not findings and not leftover and state != "recording":
            return Repaired(
                f"{str(self._folder)!r} is sound; nothing was done", -1 if known is None else known
            )
        rest = self._rest(steps, -1 if known is None else known)
        try:
            restored = self._restored(rest)
        except BaseException:
            if self._cut is not None and self._source.store.root_now() == self._source.store.root:
                remove(self._cut.path)  # copies of what is as it was
            raise
        extra = [f.where for f in findings if f.kind == "extra"]
        for key in [*restored.dropped, *leftover, *extra]:
            self._committer.move(key, self._side())
        if self._cut is not None:
            self._cut.settle()
        restored.tree.close("interrupted")
        return Repaired(
            self._told(rest.step, known), rest.step, None if self._cut is None else self._cut.path
        )

    def _restored(self, rest: Rest) -> Restored:
        self._keep()
        if self._cut is not None:
            self._cut.settle()  # before what it copies is changed
        findings, damaged = self._report.findings, {path for path, _ in self._examination.bad.values()}
        return restore(
            self._examination,
            self._committer,
            rest,
            rebuild=any(finding.kind == "manifest" for finding in findings) or MANIFEST in damaged,
            resumed=bool(findings) and rest.rows != self._source.record["rows"],
        )

    def _told(self, step: int, known: int | None) -> str:
        findings = self._report.findings
        more = f" and {len(findings) - 1} more" if len(findings) > 1 else ""
        copy = f"; what was cut or replaced is in {str(self._cut.path)!r}" if self._cut else ""
        if not findings:
            why = "was left by a process that ended and is marked as interrupted"
            return f"{str(self._folder)!r} {why} at step {step}{copy}"
        if step != known:
            return f"{str(self._folder)!r} now ends at step {step} instead of {known} ({findings[0]}{more}){copy}"
        return f"{str(self._folder)!r} keeps every step; mended: {findings[0]}{more}{copy}"

    # ---- where to cut ----

    def _steps(self, group: str) -> np.ndarray:
        """The steps of a group, as far as they can be read."""
        return sound_rows(self._examination, f"{group}/step")

    def _rest(self, steps: dict[str, np.ndarray], known: int) -> Rest:
        whole = [f for f in self._report.findings if f.kind in ("root", "rows")]
        if whole:
            raise ArchiveError(
                f"{str(self._folder)!r} cannot be repaired ({whole[0]}): restore it from a copy"
            )
        sizes = sound_rows(self._examination, "steps/n_ids")
        step = min([known, *(f.step - 1 for f in self._report.findings if f.step is not None)])
        for path, numbers in self._examination.bad.values():
            if path != MANIFEST:
                before = self._before(path, numbers, steps, sizes)
                step = step if before is None else min(step, before)
        for group, n in self._source.record["rows"].items():
            if len(steps[group]) < n:
                step = min(step, int(steps[group][-1]) if len(steps[group]) else -1)
        if step < 0 <= known:
            raise ArchiveError(
                f"{str(self._folder)!r} cannot be repaired, since no step would be left "
                f"({self._report.findings[0]}): restore it from a copy"
            )
        rows = steps["steps"]
        step = int(rows[np.searchsorted(rows, step, side="right") - 1]) if len(rows) else -1
        return up_to(steps, sizes, step)

    def _before(
        self, path: str, numbers: tuple[int, ...], steps: dict[str, np.ndarray], sizes: np.ndarray
    ) -> int | None:
        """The last step that needs nothing from a damaged object: -1 if every step does, None if none does."""
        group = path.rpartition("/")[0]
        along = self._source.nodes[path]["dimension_names"][:1]
        if along == ["id"] and group in ("steps", "minibatch"):
            n = len(sound_rows(self._examination, path, numbers[1:]))
            row = int(np.searchsorted(np.cumsum(sizes, dtype=np.int64), n, side="right"))
            group = "steps"
        elif group in steps and self._source.layout(path).chunk[0] > 1:
            row = len(sound_rows(self._examination, path, numbers[1:]))
        elif group in steps:
            row = numbers[0]
        else:
            return -1
        at = steps[group]
        return int(at[row]) - 1 if row < len(at) else None

    # ---- what is kept beside ----

    def _keep(self) -> None:
        """Copy what will be replaced: the root, documents that differ, and objects of columns that are cut."""
        self._copy("zarr.json")
        for finding in self._report.findings:
            if finding.kind == "document":
                self._copy(finding.where)
        for key, (path, _) in self._examination.expected.items():
            group, layout = path.rpartition("/")[0], self._source.layout(path)
            shared = group in self._source.record["rows"] and layout.chunk[0] > 1
            if path == MANIFEST or group in ("steps", "minibatch") or shared:
                self._copy(key)

    def _side(self) -> Directory:
        n = 1
        while self._cut is None:
            try:
                place = beside(self._folder, f".cut-{n}")
                place.mkdir()
                self._cut = Directory(place, sync=True)
            except FileExistsError:
                n += 1
        return self._cut

    def _copy(self, key: str) -> None:
        if key in self._inventory.sizes:
            self._committer.copy(key, self._side())
