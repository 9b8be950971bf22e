"""What `tracer.record` is given, looked at before anything is done: of the right kind, or one sentence."""

import json
import os
from collections.abc import Mapping, Set
from typing import Any

from torch import nn

from tracer.errors import RecordError, byte_size, did_you_mean
from tracer.recorder.card import plain
from tracer.writer import Writer

RESERVED = frozenset(("step", "epoch", "time", "n_ids", "ids", "id", "lr", "skipped", "param_group"))
_ATTRIBUTES = 1 << 16  # bytes
_WORDS = {"durability": ("process", "power"), "on_error": ("raise", "warn")}


def check_arguments(path: Any, model: Any, optimizer: Any, probes: Any, **options: Any) -> None:
    """RecordError naming the first argument that is of another kind than `tracer.record` says."""
    check_first(path, model)
    several = isinstance(optimizer, list | tuple)
    _need(
        not several or (len(optimizer) > 0 and all(one is not None for one in optimizer)),
        "optimizer",
        optimizer,
        "at least one, or None where run.step() counts",
    )
    if probes is not None:
        check_probes(probes)
    for name, words in _WORDS.items():
        if options[name] not in words:
            raise RecordError(f"{name}={options[name]!r}: {did_you_mean(str(options[name]), words)}.")
    resume, budget, title = options["resume"], options["budget"], options["title"]
    _need(isinstance(resume, int) and resume >= 0, "resume", resume, "True, False or a step")
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    _need(budget is None or number, "budget", budget, "a share of the time such as 0.05, or None")
    _need(title is None or isinstance(title, str), "title", title, "a text")
    _need(
        options["attributes"] is None or isinstance(options["attributes"], Mapping),
        "attributes",
        options["attributes"],
        "a mapping from name to value",
    )
    size = len(json.dumps(plain(options["attributes"])))
    if size > _ATTRIBUTES:
        raise RecordError(
            f"attributes= takes {byte_size(size)}, expected facts that tell runs apart, of {byte_size(_ATTRIBUTES)} at "
            "most: give what large values come from, such as a seed or the name of a file."
        )
    _need(
        not isinstance(options["data"], str | bytes),
        "data",
        options["data"],
        "a dataset, of which items are taken by number",
    )


def check_module(model: Any) -> None:
    """RecordError for what is no module."""
    _need(isinstance(model, nn.Module), "model", model, "the torch.nn.Module that is trained")


def check_probes(probes: Any) -> None:
    """RecordError for what does not name examples."""
    shown = "a mapping from name to examples, as in probes={'train': (inputs, targets)}"
    _need(isinstance(probes, Mapping), "probes", probes, shown)
    _need(all(isinstance(name, str) for name in probes), "probes", probes, f"texts as names: {shown}")


def check_first(path: Any, model: Any) -> None:
    """RecordError where the first two arguments are none, as where the path was left out."""
    text = isinstance(path, str | os.PathLike) and os.fspath(path)
    _need(
        isinstance(text, str) and "\0" not in text,
        "path",
        path,
        "a path for the archive, such as 'runs/mlp.zarr'",
    )
    check_module(model)


def _need(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
        raise RecordError(f"{name} is {shown}, expected {expected}.")


def check_scalars(names: Set[str], writer: Writer) -> None:
    """RecordError for names given to `run.log` that an archive cannot hold beside its own and those before."""
    for name in sorted(RESERVED & names):
        raise RecordError(f"run.log({name}=...): the archive has its own {name!r}, choose another name.")
    writer.check_scalars(names)
