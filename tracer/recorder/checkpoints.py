"""From a folder of saved weights to an archive: each file seen through the probes, as in recording."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tracer.errors import RecordError, parse_memory
from tracer.gradients.sketch import Setting
from tracer.probe import named_probes
from tracer.recorder import card
from tracer.recorder.arguments import check_module, check_probes
from tracer.recorder.checkpoint_files import bare_name, files_in, files_of_hub, load_into
from tracer.recorder.checkpoint_names import steps_of
from tracer.recorder.instrument import Instrument
from tracer.spec import STREAMS
from tracer.writer import Writer

Steps = Callable[[Path], int] | Mapping[str, int]
Progress = Callable[[int, int, str], None]


def import_checkpoints(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    factory: Callable[[], nn.Module],
    probes: Mapping[str, Any],
    loss: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    steps: Steps | None = None,
    pattern: str | None = None,
    epochs: bool | None = None,
    load_pt: bool = False,
    entry: str | None = None,
    revisions: Sequence[str] | None = None,
    gradients: str = "auto",
    tolerance: float = Setting.tolerance,
    memory: int | str = 1 << 30,
    chunk: int | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make an archive of a run that only left its weights: one file of a ``state_dict`` a snapshot.

    ``folder`` holds them, or ``hf://owner/name`` on the Hub does, a snapshot in each of its ``revisions`` (default: all
    branches and tags but ``main``). ``factory()`` makes the model that every file fits. ``probes``, ``loss``,
    ``objective``, ``gradients``, ``tolerance``, ``memory`` and ``chunk`` are those of `tracer.record`, and what is
    stored of a snapshot is what recording would have stored. ``steps`` gives the step of a file, as a function of its
    path or a mapping from its path within the folder (on the Hub, of ``revision/path``); by default it is the number
    that its name or folder calls a step, a checkpoint or an epoch, or else the last number that is not the same in all
    names: ``epoch=3-step=500.ckpt``, ``checkpoint-500/model.safetensors``, ``resnet50-500.pt``. A file without such a
    number is left out, with a note. The parts of a snapshot in several files, ``model-00001-of-00003.safetensors``, are
    read together. ``epochs=True``: the numbers count epochs, each snapshot ends one, and they take the place of steps;
    default: where the names say so. Ids, losses and rates stay unknown.

    Files are read by safetensors; ``load_pt=True`` also reads what ``torch.save`` wrote, of which only tensors and
    plain containers are loaded (``weights_only=True``). Where a file holds more than one state, such as
    ``{"model": ..., "ema": ...}``, that of the model is read, or the one that ``entry`` names; names may have a prefix,
    as those of a LightningModule have.

    Errors: RecordError if no file matches, steps are not clear, or a file does not fit the model;
    ArchiveError if ``output`` exists.
    """
    notes: list[str] = []
    if str(folder).startswith("hf:"):
        source = str(folder).replace("hf:/", "hf://").replace("///", "//")
        by_name = files_of_hub(source, revisions, pattern, load_pt)
    else:
        source, by_name = str(folder), files_in(Path(folder), pattern, load_pt)
    files, said = _in_order(source, by_name, steps, pattern, notes)
    epochs = said if epochs is None else epochs
    check_probes(probes)
    named = named_probes(probes)
    if named and loss is None and objective is None:
        raise RecordError("probes need a loss: pass loss=, for example loss=F.cross_entropy, or objective=")
    model = factory()
    check_module(model)
    notes += load_into(model, files[0][1], load_pt, entry)
    streams = set(STREAMS)
    goal: dict[str, Any] = {"loss": loss, "objective": objective}
    options: dict[str, Any] = {
        "gradients": gradients,
        "sketch": Setting(tolerance),
        "memory": parse_memory(memory),
        "chunk": chunk,
    }
    instrument = Instrument(model, named, **goal, streams=streams - {"weights"}, **options)
    settings = {
        "model": card.describe_model(model),
        "optimizer": None,
        "loss": card.name_of(loss if objective is None else objective),
        "imported": {"files": len(files), "pattern": pattern, "numbers": "epochs" if epochs else "steps"},
        "environment": card.describe_environment(command=False),
        **instrument.card,
    }
    instrument.notes[:0] = notes
    attributes = {"title": title or Path(folder).name, "card": settings, **instrument.tables}
    writer = Writer(output, attributes={**attributes, "notes": instrument.notes})
    try:
        instrument.declare(writer)
        for number, (step, file) in enumerate(files):
            if progress is not None:
                progress(number, len(files), file.name)
            load_into(model, file, load_pt, entry)
            last = number == len(files) - 1
            instrument.snapshot(writer, streams, step, epochs and step > 0, last=last)
            writer.row(
                step,
                epoch=step if epochs else 0,
                time=file.stat().st_mtime,
                ids=None,
                loss=float("nan"),
                lr=[],
            )
            writer.commit()
        writer.attributes("", {"notes": instrument.notes})
    except BaseException:
        writer.close("interrupted")
        raise
    writer.close()
    return Path(output)


def _in_order(
    source: str, files: Mapping[str, Path], steps: Steps | None, pattern: str | None, notes: list[str]
) -> tuple[list[tuple[int, Path]], bool]:
    """Files by step, and whether their names say that the numbers are of epochs."""
    if not files:
        wanted = pattern or "**/*.safetensors"
        raise RecordError(f"no file in {source!r} matches {wanted!r}; give another pattern=, or load_pt=True")
    bare = {name: bare_name(name) for name in files}
    by_bare, epochs = ({}, False) if steps is not None else steps_of(sorted(set(bare.values())))
    by_step: dict[int, str] = {}
    without = []
    for name, file in files.items():
        step = by_bare[bare[name]] if steps is None else _given(steps, name, file)
        if step is None:
            without.append(name)
            continue
        if step in by_step:
            raise RecordError(
                f"{by_step[step]!r} and {name!r} are both of step {step}: say the steps with steps="
            )
        by_step[step] = name
    if not by_step:
        raise RecordError(
            f"there is no number in {without[0]!r} to take for its step: say the steps with steps="
        )
    if without:
        notes.append(f"No step is in the names of {', '.join(map(repr, without[:5]))}, which are left out.")
    return [(step, files[by_step[step]]) for step in sorted(by_step)], epochs


def _given(steps: Steps, name: str, file: Path) -> int:
    if callable(steps):
        return int(steps(file))
    if name not in steps:
        raise RecordError(f"steps= says nothing of {name!r}")
    return int(steps[name])
