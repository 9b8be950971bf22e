"""Where a recording is taken up again: the snapshot whose weights the model has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import archive as archives
from tracer.archive import Archive
from tracer.errors import ArchiveError, MissingTraceError, RecordError
from tracer.spec import stream_of
from tracer.store.documents import as_json
from tracer.store.files import PARTIAL, Lock
from tracer.writer.place import remove, settled

if TYPE_CHECKING:
    from tracer.recorder.instrument import Instrument

_TABLES = ("sites", "calls", "layers")


@dataclass(frozen=True)
class ResumePoint:
    """The last step that is kept. epoch: of its update; epochs: how many had ended. taken: stream to its last step.

    versions, free: those of the network that are kept, and the first number no version has. notes, gaps: of
    the recording so far.
    """

    step: int
    epoch: int
    epochs: int
    taken: dict[str, int] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    free: int = 0
    notes: list[str] = field(default_factory=list)
    gaps: list[Any] = field(default_factory=list)


def has_begun(path: Path) -> bool:
    """Whether there is an archive to go on with. One that was killed before its first step is removed.

    ArchiveError for a zip file, something that is no archive, or one that is being written or cannot be.
    """
    if not path.exists():
        return False
    if path.is_file():
        raise ArchiveError(
            f"cannot resume {str(path)!r}: it is a file, and recordings are written to directories; `tracer unpack` "
            "a zip file, and resume what that makes"
        )
    try:
        lock = Lock(settled(path))
    except OSError as error:
        raise ArchiveError(
            f"cannot resume {str(path)!r}: {error.strerror}; make its folder writable"
        ) from error
    try:
        if not _is_blank(path):
            return True
        remove(settled(path))
        return False
    finally:
        lock.release()


def _is_blank(path: Path) -> bool:
    if {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()} <= {PARTIAL}:
        return True
    with archives.open(path, rank=0) as archive:  # whatever other ranks lack, this one may hold a run
        return not len(archive.rows["step"])


def find(path: Path, ready: "Instrument", step: int | None = None) -> ResumePoint:
    """Find the latest snapshot with exactly the weights the model has now (or look at that of ``step`` alone).

    RecordError where the model or the probes are others, or the weights are those of no snapshot.
    """
    weights = ready.weights
    with archives.open(path) as archive:
        _check_tables(archive, as_json(ready.tables))
        _check_streams(archive, ready)
        try:
            recorded = archive.steps("weights")
        except MissingTraceError:
            recorded = np.empty(0, np.int64)
        whole = np.isin(recorded, archive.rows["step"])
        steps = [int(at) for at in recorded[whole]]
        for at in reversed(steps if step is None else [at for at in steps if at == step]):
            if _same(archive, at, weights):
                return resume_point(archive, at)
    last = f"the last of {len(steps)} is of step {steps[-1]}" if steps else "there is none"
    wanted = "any snapshot" if step is None else f"the snapshot of step {step}"
    raise RecordError(
        f"cannot resume {str(path)!r}: the weights of the model are not those of {wanted} ({last}); load a checkpoint "
        "that was saved at a snapshot, after run.flush(), or record into a new archive"
    )


def _same(archive: Archive, step: int, weights: Mapping[str, np.ndarray]) -> bool:
    stored = (archive._source.snapshot(f"weights/{name}", step) for name in weights)
    return all(held.tobytes() == now.tobytes() for held, now in zip(stored, weights.values(), strict=True))


def _check_tables(archive: Archive, tables: Mapping[str, Any]) -> None:
    if archive.attributes.get("tensors") != tables["tensors"]:
        names = {row["name"]: row for row in archive.tensors}
        other = next((row["name"] for row in tables["tensors"] if names.pop(row["name"], None) != row), None)
        raise RecordError(
            f"cannot resume {archive.path!r}: the model is not the recorded one, tensor "
            f"{other or next(iter(names), '')!r} differs; build it as it was, or record into a new archive"
        )
    for name in _TABLES:
        if archive.attributes.get(name, []) != tables[name]:
            raise RecordError(
                f"cannot resume {archive.path!r}: the {name} of the model and its probes are not those recorded; "
                "resume with the same model, loss and probes, or record into a new archive"
            )


def _check_streams(archive: Archive, ready: "Instrument") -> None:
    """Before anything is dropped, what would be refused afterwards."""
    source = archive._source
    for group, attributes in ready.examples.items():
        held, now = source.group_attributes(group), as_json(attributes)
        if source.has(group) and any(held.get(name) != now[name] for name in ("split", "digest", "chunks")):
            raise RecordError(
                f"cannot resume {archive.path!r}: {group!r} has other examples than recorded, or runs them in other "
                "chunks; resume with the same probes, memory= and chunk=, or record into a new archive"
            )
    for group, arrays in ready.layout.items():
        for name, (_, shape, _) in arrays.items():
            if source.has(f"{group}/{name}") and source.shape(f"{group}/{name}")[1:] != tuple(shape):
                raise RecordError(
                    f"cannot resume {archive.path!r}: '{group}/{name}' of a snapshot is {tuple(shape)} now and "
                    f"{source.shape(f'{group}/{name}')[1:]} in the archive; resume with the same settings"
                )


def resume_point(archive: Archive, step: int) -> ResumePoint:
    """What a recording that goes on after `step` has to know of the one before."""
    source = archive._source
    epoch = archive.epoch_of(step)
    ended = step == 0 or step in archive.epoch_ends
    held = source.group_attributes("network")
    numbers = [int(name.removeprefix("table_")) for name in source.children("network") if "table_" in name]
    taken: dict[str, int] = {}
    for group in source.streams():
        if step in source.steps(group):
            taken |= {group.rpartition("/")[2]: step, stream_of(group): step}
    return ResumePoint(
        step,
        epoch,
        epoch if ended else max(0, epoch - 1),
        taken,
        [version for version in held.get("versions", []) if version["from_step"] <= step],
        max(numbers, default=-1) + 1,
        list(archive.attributes.get("notes") or []),
        list(archive.attributes.get("gaps") or []),
    )
