"""Fill in from recorded weights what was not recorded: streams, snapshots, whole probes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tracer import archive as archives
from tracer.archive import Archive
from tracer.errors import ArchiveError, MissingTraceError, RecordError, did_you_mean, parse_memory
from tracer.materialize import rewrite
from tracer.materialize.additions import describe
from tracer.materialize.filling import Filling
from tracer.materialize.others import copy_others
from tracer.probe import named_probes
from tracer.probe.memory import GRADIENTS
from tracer.rerun.passes import kept
from tracer.rerun.stored import Factory, Networks, usable_device
from tracer.rerun.wanted import Take, wanted
from tracer.spec import PROBE_STREAMS
from tracer.store.stores import is_path
from tracer.writer.place import fresh, settled

Progress = Callable[[int, int, str], None]
MODES = tuple(way for way in GRADIENTS if way != "none")


@dataclass
class Materialized:
    """What was computed.

    path: of the archive that holds it. added: group to its new steps. exact: step to whether the outputs
    recorded there came out bit for bit (None: none are). notes: what was left out and why, one sentence
    each.
    """

    path: Path
    added: dict[str, list[int]] = field(default_factory=dict)
    exact: dict[int, bool | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def materialize(
    path: str | Path,
    *,
    mode: Literal["auto", "exact", "gram", "sketch"] = "auto",
    steps: Iterable[int] | None = None,
    probes: Mapping[str, Any] | None = None,
    model: Factory | None = None,
    device: str | torch.device = "cpu",
    memory: int | str | None = None,
    chunk: int | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
    **streams: Take,
) -> Materialized:
    """Compute, from the recorded weights, what `record` would have stored, and add it to the archive.

    streams: a keyword each for `outputs`, `masks` and so on. True computes the stream of as many examples as the
    recording captures (all, where that is none), a number of the first so many of each probe. Where none is
    named, every stream the recording was told to capture is completed. mode: how gradients are kept, as in
    `record`. steps: default all with weights. probes: further ones, as in `record`. model: for an archive
    without a usable network, a function that returns the module, or (module, loss); its code is run.
    memory, chunk: as in `record`. progress(done, total, text) is called after every snapshot.

    What is recorded stays. Only inner products, joint over the probes, are computed anew when a probe is
    added; they are NaN for it at steps without weights. On the machine that recorded, the result equals bit
    for bit what recording would have stored. The archive is written anew, beside the old one, and takes its
    place (or that of `output`) once it is whole.

    ArchiveError where the weights do not reproduce what is recorded, or the recording is not finished;
    MissingTraceError where weights, network or examples are lacking; RecordError for a probe that does not
    fit.
    """
    unknown = next((name for name in streams if name not in PROBE_STREAMS), None)
    if unknown is not None:
        raise TypeError(f"materialize has no stream {unknown!r}; {did_you_mean(unknown, PROBE_STREAMS)}")
    takes = dict.fromkeys(PROBE_STREAMS) | streams
    if mode not in MODES:
        raise RecordError(f"mode={mode!r}: expected one of {', '.join(map(repr, MODES))}")
    path = settled(path) if is_path(path) else path
    place = _replacing(Path(path), None if output is None else Path(output))
    # What other ranks of the run lack now is not lost: rank 0's whole recording is completed.
    with place as partial, archives.open(path, rank=0) as archive:
        filling = _filling(archive, takes, mode, steps, probes or {}, model, device, memory, chunk)
        if filling is None:
            return Materialized(Path(path))
        additions = describe(archive, filling)
        additions.make = _reported(filling, progress)
        rewrite.rewrite(archive, partial, additions, sync=output is None)
        copy_others(archive._source, partial)
    added = {group: sorted(at) for group, at in filling.missing.items()}
    return Materialized(Path(output or path), added, filling.exact, filling.notes)


def _filling(
    archive: Archive,
    takes: Mapping[str, Take],
    mode: str,
    steps: Iterable[int] | None,
    probes: Mapping[str, Any],
    model: Factory | None,
    device: str | torch.device,
    memory: int | str | None,
    chunk: int | None,
) -> Filling | None:
    """How to compute what is missing; None where nothing is."""
    if archive.state == "recording":
        raise ArchiveError(f"{archive.path!r} is still recording, or was killed: finish or repair it first")
    at, new = _steps(archive, steps), named_probes(probes)
    networks = Networks(archive, model, None if archive.probes else next(iter(new.values()), None))
    wants = wanted(archive, networks, at[0], takes, new)
    if not any(want.added for want in wants.values()):
        return None
    filling = Filling(
        archive,
        networks,
        wants,
        at,
        usable_device(device),
        streams={stream for want in wants.values() for stream in want.all},
        gradients=_mode(archive, mode),
        memory=parse_memory(memory or archive.card.get("memory") or 1 << 30),
        chunk=chunk or archive.card.get("chunk"),
    )
    return filling if filling.missing or new else None


def _mode(archive: Archive, mode: str) -> str:
    held = kept(archive)
    if mode == "sketch" and held in ("exact", "gram"):
        raise RecordError(
            f"mode='sketch': {archive.path!r} keeps gradients as {held!r}, which says more: use mode='auto'"
        )
    return held if held == "exact" or (held and mode == "auto") else mode


def _steps(archive: Archive, steps: Iterable[int] | None) -> list[int]:
    known = [int(step) for step in archive.steps("weights")]
    asked = known if steps is None else sorted({int(step) for step in steps})
    for step in asked:
        if step not in known:
            hint = did_you_mean(str(step), map(str, known))
            raise MissingTraceError(f"no weights are recorded at step {step}; {hint}")
    if not asked:
        raise MissingTraceError(
            "there is no step to compute anything at: record weights, and name their steps"
        )
    return asked


def _reported(filling: Filling, progress: Progress | None) -> Any:
    total, done = len(set().union(*filling.missing.values())), 0

    def make(step: int) -> Any:
        nonlocal done
        arrays = filling.make(step)
        done += 1
        if progress is not None:
            progress(done, total, f"step {step}")
        return arrays

    return make


@contextmanager
def _replacing(path: Path, output: Path | None) -> Iterator[Path]:
    """A place to write to; what was written there becomes `output`, or replaces `path`."""
    if output is None and not path.is_dir():
        archives.open(path).close()
        raise ArchiveError(f"{str(path)!r} is no directory, so it cannot be added to: give output=")
    with fresh(settled(output or path), replace=output is None) as partial:
        yield partial
        if partial.exists():
            archives.open(partial).close()
