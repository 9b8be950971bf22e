"""What an archive holds, as plain data: `tracer info` and the head of every report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.archive.attributes import given
from tracer.errors import MissingTraceError
from tracer.spec import OF_GRADIENTS, STREAMS, stream_of

if TYPE_CHECKING:
    from tracer.archive import Archive
    from tracer.archive.probes import ProbeView


def summarize(archive: Archive) -> dict[str, Any]:
    """What was trained and what was recorded, as JSON-able data; of the probes only targets are read."""
    sizes = _sizes(archive)
    return {
        "path": str(archive.path),
        "title": str(archive.attributes.get("title") or Path(str(archive.path)).name),
        "state": archive.state,
        "run_id": archive.run_id,
        "trained": _trained(archive),
        "recorded": _recorded(archive, sizes),
        "layers": _layers(archive),
        "streams": _streams(archive, sizes),
        "probes": [_probe(archive, view) for view in _in_order(archive)],
        "provenance": _provenance(archive),
    }


def progress_of(archive: Archive) -> dict[str, Any]:
    """How far a run is, and of what: updates, epochs, loss, snapshots, seconds, model; None where not known.

    The loss of a run that diverged is the text `NaN since` and the update.
    """
    trained, diverged = _trained(archive), _diverged(archive)
    told = {name: trained[name] for name in ("updates", "epochs")}
    told["loss"] = trained["last_loss"] if diverged is None else f"NaN since {diverged}"
    model = str(trained["model"] or "").rpartition(".")[2] or None
    return {**told, "snapshots": len(archive.snapshots), "seconds": trained["seconds"], "model": model}


def duration(seconds: float) -> str:
    """A length of time in the units that suit it.

    >>> duration(3.21), duration(125), duration(7300)
    ('3.2 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _trained(archive: Archive) -> dict[str, Any]:
    card, rows = archive.card, archive.rows
    times, losses, rates = rows["time"], rows["loss"], rows["lr"]
    known, diverged = losses[np.isfinite(losses)], _diverged(archive)
    seconds = float(times[-1] - times[0]) if len(times) > 1 else math.nan
    last = float(known[-1]) if len(known) else None
    return {
        "model": _class(card.get("model")),
        "parameters": _parameters(archive),
        "optimizer": _class(card.get("optimizer")),
        "settings": _settings(card.get("optimizer")),
        "loss": card.get("loss"),
        "attributes": given(card) or None,
        "updates": int(rows["step"][-1]) if len(rows["step"]) else 0,
        "epochs": int(rows["epoch"].max(initial=0)) if len(archive.epoch_ends) else None,
        "first_loss": float(known[0]) if len(known) else None,
        "last_loss": last
        if diverged is None
        else f"NaN since update {diverged}, or not given; {last:.4g} before",
        "last_lr": [float(rate) for rate in rates[-1]] if rates.size else None,
        "seconds": seconds if math.isfinite(seconds) else None,
    }


def _diverged(archive: Archive) -> int | None:
    """The update from which on the loss is NaN or infinite, though it was due; None for a run that did not diverge.

    A loss that was not given is NaN too, so it counts only where more are lacking than ever before between two. The
    one of an update that was interrupted may lack.
    """
    losses, steps = archive.rows["loss"], archive.rows["step"]
    finite = np.flatnonzero(np.isfinite(losses))
    if not len(finite):
        return None
    first = int(finite[-1]) + 1
    after = losses[first:]
    due = int(np.diff(finite, prepend=0).max(initial=1)) + (archive.state != "complete")
    return int(steps[first]) if len(after) >= due or np.isinf(after).any() else None


def _sizes(archive: Archive) -> dict[str, int] | None:
    """Bytes of each file of an archive on this machine, those of a zip file as one; None where they are not known."""
    store = archive._source.store
    if store.folder is None:
        place = Path(archive._source.place)
        return {place.name: place.stat().st_size} if place.is_file() else None
    try:
        listing = store.files()
    except OSError:  # a folder is not for us to read, or was moved meanwhile
        return None
    return None if listing is None else listing.sizes


def _recorded(archive: Archive, sizes: dict[str, int] | None) -> dict[str, Any]:
    steps = archive.snapshots
    return {
        "snapshots": len(steps),
        "first_step": int(steps[0]) if len(steps) else None,
        "last_step": int(steps[-1]) if len(steps) else None,
        "sites": len(archive.sites),
        "calls": len(archive.calls),
        "bytes": None if sizes is None else sum(sizes.values()),
        "files": None if sizes is None else len(sizes),
        **_ranks(archive),
        **_manner(archive.card),
    }


def _ranks(archive: Archive) -> dict[str, Any]:
    """Of a run on several processes, which of them recorded and how far."""
    if archive.world_size == 1:
        return {}
    ends = archive.committed
    told = {"processes": archive.world_size, "recorded ranks": list(ends)}
    slowest = min(ends, key=lambda rank: ends[rank])
    if ends[slowest] < max(ends.values()):
        told["not shown"] = f"updates {ends[slowest] + 1} to {max(ends.values())}, which rank {slowest} lacks"
    return told


def _manner(card: dict[str, Any]) -> dict[str, Any]:
    """How the recording was made: schedules, the form of the gradients, what cannot be replayed."""
    schedules = _mapping(card.get("snapshots"))
    same = len(set(schedules.values())) == 1
    gradients = _mapping(card.get("gradients"))
    return {
        "schedule": next(iter(schedules.values())) if same else named(schedules),
        "gradients": gradients.get("reason") or gradients.get("mode"),
        "not replayed": ", ".join(card.get("foreign_ops") or []) or None,
    }


def _layers(archive: Archive) -> list[dict[str, Any]]:
    tensors = {tensor["name"]: tensor for tensor in archive.tensors}
    layers = []
    for layer in archive.layer_table:
        mine = [tensors[name] for name in layer["parameters"] if name in tensors]
        layers.append(
            {
                "layer": layer["name"],
                "parameters": sum(math.prod(tensor["shape"]) for tensor in mine),
                "shapes": ", ".join(f"{_leaf(tensor['name'])} {_times(tensor['shape'])}" for tensor in mine),
            }
        )
    return layers


def _streams(archive: Archive, sizes: dict[str, int] | None) -> list[dict[str, Any]]:
    streams = []
    for stream in (*STREAMS, *OF_GRADIENTS):
        for probe in [None] if stream in ("weights", "gram") else [view.name for view in _in_order(archive)]:
            steps = _steps(archive, stream, probe)
            if len(steps):
                streams.append(
                    {
                        "stream": stream,
                        "probe": probe,
                        "examples": _examples(archive, stream, probe),
                        "snapshots": len(steps),
                        "first": int(steps[0]),
                        "last": int(steps[-1]),
                        "bytes": _stream_bytes(
                            sizes or {}, stream if probe is None else f"probes/{probe}/{stream}"
                        ),
                    }
                )
    return streams


def _in_order(archive: Archive) -> list[ProbeView]:
    """Probes with those of the training split first."""
    return sorted(archive.probes.values(), key=lambda view: (view.split != "train", view.name))


def _steps(archive: Archive, stream: str, probe: str | None) -> np.ndarray:
    try:
        return archive.steps(stream, probe)
    except MissingTraceError:
        return np.empty(0, np.int64)


def _examples(archive: Archive, stream: str, probe: str | None) -> int | None:
    if stream == "gram":
        return sum(n for _, n in archive.gram_probes)
    return None if probe is None else archive.probes[probe].capture.get(stream_of(stream))


def _probe(archive: Archive, view: ProbeView) -> dict[str, Any]:
    inputs = f"probes/{view.name}/inputs"
    targets = np.asarray(view.targets) if view.targets is not None else np.empty(0)
    labels = targets.ndim == 1 and targets.dtype.kind in "iu" and targets.size
    return {
        "probe": view.name,
        "split": view.split,
        "examples": int(view.n),
        "classes": len(np.unique(targets)) if labels else None,
        # The shape alone: the inputs themselves may be large, and far away.
        "input": _times(archive._source.shape(inputs)[1:]) if archive._source.has(inputs) else None,
    }


def _stream_bytes(sizes: dict[str, int], group: str) -> int | None:
    return sum(size for key, size in sizes.items() if key.startswith(f"{group}/")) or None


def _provenance(archive: Archive) -> dict[str, Any]:
    attributes, card = archive.attributes, archive.card
    environment = _mapping(card.get("environment")) or card
    versions = _mapping(environment.get("versions"))
    resumes = [entry.get("step") for entry in _mapping(attributes.get("tracer")).get("resumes", [])]
    packed, command = _mapping(card.get("packed")), environment.get("command")
    return {
        **{str(name): value for name, value in _mapping(attributes.get("provenance")).items()},
        "created": attributes.get("created_at"),
        "tracer": attributes.get("creation_library_version"),
        "python": environment.get("python"),
        **{str(name): value for name, value in versions.items()},
        "platform": environment.get("platform"),
        "cpu": environment.get("cpu"),
        "cores": environment.get("cores"),
        "threads": environment.get("threads"),
        "memory": environment.get("memory"),
        "gpu": environment.get("cuda_device"),
        "git_commit": environment.get("git_commit"),
        "git_dirty": environment.get("git_dirty"),
        "command": " ".join(map(str, command)) if isinstance(command, list) else None,
        "mirror": _mapping(card.get("mirror")).get("url"),
        "resumed_after": resumes or None,
        "packed_from": packed.get("original"),
        "left_out": packed.get("left_out") or None,
        "run_id": archive.run_id,
        "digest": archive.digest,
        "probe_digests": {view.name: _digest(archive, view) for view in _in_order(archive)},
        "privacy": _privacy(archive),
    }


def _digest(archive: Archive, view: ProbeView) -> str | None:
    return archive._source.group_attributes(f"probes/{view.name}").get("digest")


def _privacy(archive: Archive) -> str | None:
    """What an archive gives away of the data, if it does."""
    held = [
        f"probe {view.name!r}" for view in _in_order(archive) if _has_inputs(archive, f"probes/{view.name}")
    ]
    held += ["the training set"] if _has_inputs(archive, "data") else []
    if not held:
        return None
    return f"holds the inputs of {', '.join(held)}: whoever has the archive has these examples"


def _has_inputs(archive: Archive, group: str) -> bool:
    return any(name.startswith("inputs") or name == "raw" for name in archive._source.children(group))


def _class(described: Any) -> str | None:
    """Class of the model or optimizer, which a card gives as text or in a mapping."""
    return described.get("class") if isinstance(described, dict) else described


def _settings(optimizer: Any) -> str | None:
    """Hyper-parameters of the first group that are numbers and not 0, for one line."""
    groups = optimizer.get("groups") if isinstance(optimizer, dict) else None
    usual = groups[0] if groups else {}
    numbers = {key: value for key, value in usual.items() if value and not isinstance(value, bool | str)}
    return named(numbers)


def named(items: dict[str, Any]) -> str | None:
    """A mapping in a line, None where it is empty."""
    return ", ".join(f"{key} {value}" for key, value in items.items()) or None


def _parameters(archive: Archive) -> int:
    return sum(math.prod(row["shape"]) for row in archive.tensors if row.get("kind") == "parameter")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _times(shape: Any) -> str:
    return "×".join(str(n) for n in shape) or "scalar"
