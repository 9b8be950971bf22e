"""From a folder of saved weights to an archive: each file seen through the probes, as in recording."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracer.errors import RecordError
from tracer.probe import named_probes
from tracer.recorder import card
from tracer.recorder.instrument import Instrument
from tracer.spec import STREAMS
from tracer.writer import Writer

Steps = Callable[[Path], int] | Mapping[str, int]
Progress = Callable[[int, int, str], None]
_SHOWN = 5
_MANY = 10_000  # parts of a snapshot
_WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and of data parallelism
_PART = re.compile(
    r"(.*?)-?(\d+)-of-(\d+)"
)  # the name of one of several files of a snapshot, less its suffix


def import_checkpoints(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    factory: Callable[[], nn.Module],
    probes: Mapping[str, Any],
    loss: Callable[..., Any] | None = None,
    objective: Callable[..., Any] | None = None,
    steps: Steps | None = None,
    pattern: str = "**/*.safetensors",
    epochs: bool = False,
    load_pt: bool = False,
    gradients: str = "auto",
    memory: int = 1 << 30,
    chunk: int | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make an archive of a run that only left its weights: one file of a ``state_dict`` a snapshot.

    ``factory()`` makes the model that every file fits. ``probes``, ``loss``, ``objective``, ``gradients``,
    ``memory`` and ``chunk`` are those of `tracer.record`, and what is stored of a snapshot is what recording
    would have stored. ``steps`` gives the step of a file, as a function of its path or a mapping from its
    path within the folder; by default it is the last number in the name of the file, or else of its folder:
    ``step-500.safetensors``, ``checkpoint-500/model.safetensors``. The parts of a snapshot in several files,
    ``model-00001-of-00003.safetensors``, are read together. ``epochs=True``: these numbers count
    epochs, each snapshot ends one, and they take the place of steps. Ids, losses and rates stay unknown.

    Files are read by safetensors; ``load_pt=True`` with a pattern such as ``"*.pt"`` also reads what
    ``torch.save`` wrote, of which only tensors and plain containers are loaded (``weights_only=True``).

    Errors: RecordError if no file matches, steps are not clear, or a file does not fit the model;
    ArchiveError if ``output`` exists.
    """
    files = _in_order(Path(folder), pattern, steps)
    named = named_probes(probes)
    if named and loss is None and objective is None:
        raise RecordError("probes need a loss: pass loss=, for example loss=F.cross_entropy, or objective=")
    model = factory()
    load_into(model, files[0][1], load_pt)
    streams = set(STREAMS)
    goal: dict[str, Any] = {"loss": loss, "objective": objective}
    options: dict[str, Any] = {"gradients": gradients, "memory": memory, "chunk": chunk}
    instrument = Instrument(model, named, **goal, streams=streams - {"weights"}, **options)
    settings = {
        "model": card.describe_model(model),
        "optimizer": None,
        "loss": card.name_of(loss if objective is None else objective),
        "imported": {"files": len(files), "pattern": pattern, "numbers": "epochs" if epochs else "steps"},
        "environment": card.describe_environment(command=False),
        **instrument.card,
    }
    attributes = {"title": title or Path(folder).name, "card": settings, **instrument.tables}
    writer = Writer(output, attributes={**attributes, "notes": instrument.notes})
    try:
        instrument.declare(writer)
        for number, (step, file) in enumerate(files):
            if progress is not None:
                progress(number, len(files), file.name)
            load_into(model, file, load_pt)
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


def load_into(model: nn.Module, file: Path, load_pt: bool = False) -> None:
    """Load a file of weights, or all parts that it is the first of, into a model. RecordError for what does not fit."""
    state: dict[str, Tensor] = {}
    for part in _parts(file):
        state |= _read(part, load_pt)
    state = _unwrapped(state, model)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise RecordError(
            f"{file.name!r} does not fit the model: {str(error).splitlines()[-1].strip()}"
        ) from None
    there = {tensor.data_ptr() for name, tensor in model.state_dict().items() if name in state}
    own = model.state_dict()
    lost = [name for name in missing if own[name].data_ptr() not in there]  # a tied tensor is saved once
    for names, what in ((lost, "lacks"), (unexpected, "holds, unlike the model,")):
        if names:
            shown = ", ".join(names[:_SHOWN]) + (
                f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            )
            raise RecordError(f"{file.name!r} {what} {shown}; give the factory of the model that was saved")


def _unwrapped(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights without the prefix of a wrapper that the model is no longer in."""
    known = model.state_dict().keys()
    for prefix in _WRAPPERS * 2:
        if not known & state.keys() and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read(file: Path, load_pt: bool) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise RecordError(
                "reading .safetensors needs a package: pip install 'tracer-nn[checkpoints]'"
            ) from None
        try:
            return load_file(file)
        except Exception as error:  # of safetensors' own, with no class to name
            raise RecordError(f"{file.name!r} cannot be read as safetensors: {error}") from None
    if not load_pt:
        raise RecordError(f"{file.name!r} is no .safetensors file; load_pt=True reads what torch.save wrote")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises anything
        raise RecordError(f"{file.name!r} holds more than tensors: {str(error).splitlines()[0]}") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RecordError(f"{file.name!r} is no state_dict: save model.state_dict(), or convert it")
    return dict(state)


def _in_order(folder: Path, pattern: str, steps: Steps | None) -> list[tuple[int, Path]]:
    """Files by step."""
    by_step: dict[int, Path] = {}
    for file in sorted(folder.glob(pattern)):
        if file != _parts(file)[0]:
            continue
        step = _step(file, folder, steps)
        if step in by_step:
            both = [str(other.relative_to(folder)) for other in (by_step[step], file)]
            raise RecordError(
                f"{both[0]!r} and {both[1]!r} are both of step {step}: say the steps with steps="
            )
        by_step[step] = file
    if not by_step:
        raise RecordError(f"no file in {str(folder)!r} matches {pattern!r}; give another pattern=")
    return sorted(by_step.items())


def _parts(file: Path) -> list[Path]:
    """All files of the snapshot that a file belongs to, in order."""
    match = _PART.fullmatch(file.stem)
    if match is None:
        return [file]
    width, start = len(match[2]), file.stem[: -len(f"{match[2]}-of-{match[3]}")]
    names = [
        f"{start}{k:0{width}}-of-{match[3]}{file.suffix}" for k in range(1, min(int(match[3]), _MANY) + 1)
    ]
    lost = next((name for name in names if not (file.parent / name).is_file()), None)
    if lost is not None:
        raise RecordError(
            f"{file.name!r} is one of {int(match[3])} files of a snapshot, of which {lost!r} is missing"
        )
    return [file.parent / name for name in names]


def _step(file: Path, folder: Path, steps: Steps | None) -> int:
    name = str(file.relative_to(folder))
    if callable(steps):
        return int(steps(file))
    if steps is not None:
        if name not in steps:
            raise RecordError(f"steps= says nothing of {name!r}")
        return int(steps[name])
    match = _PART.fullmatch(file.stem)
    for part in (
        match[1] if match else file.stem,
        *(parent.name for parent in file.relative_to(folder).parents),
    ):
        numbers = re.findall(r"\d+", part)
        if numbers:
            return int(numbers[-1])
    raise RecordError(f"there is no number in {name!r} to take for its step: say the steps with steps=")
