"""Saved weights as they lie in files: looked for in a folder or on the Hub, read, and loaded into a model."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tracer.errors import RecordError, did_you_mean

SAFE, PICKLED = ("safetensors",), ("pt", "pth", "bin", "ckpt")
_NOT_WEIGHTS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|training_args|random_states.*)", re.IGNORECASE
)
_PREFERRED = ("state_dict", "model_state_dict", "model", "module", "net", "network")
_WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and of data parallelism
_PART = re.compile(
    r"(.*?)-?(\d+)-of-(\d+)"
)  # the name of one of several files of a snapshot, less its suffix
_SHOWN = 5
_MANY = 10_000  # parts of a snapshot


def files_in(folder: Path, pattern: str | None, load_pt: bool) -> dict[str, Path]:
    """The files of weights in a folder by their names within it, one of each snapshot.

    pattern: default all of safetensors, and with `load_pt` also what torch.save writes where no such file lies beside
    it. What trainers save beside weights (optimizer, scheduler, random streams) is left out.
    """
    kinds = SAFE + (PICKLED if load_pt else ())
    patterns = [f"**/*.{kind}" for kind in kinds] if pattern is None else [pattern]
    try:
        files = sorted({file for each in patterns for file in folder.glob(each) if file.is_file()})
    except (ValueError, NotImplementedError) as error:  # empty, or from the root on
        raise RecordError(
            f"pattern={pattern!r} names no files within a folder ({error}): write one such as '**/*.safetensors'"
        ) from None
    chosen = [file for file in files if not _NOT_WEIGHTS.fullmatch(file.stem) and file == parts_of(file)[0]]
    if pattern is None:
        safe = {file.parent for file in chosen if file.suffix == ".safetensors"}
        chosen = [
            file
            for file in chosen
            if file.suffix == ".safetensors" or file.parent not in safe or file.parent == folder
        ]
    return {file.relative_to(folder).as_posix(): file for file in chosen}


def files_of_hub(
    url: str, revisions: Sequence[str] | None, pattern: str | None, load_pt: bool
) -> dict[str, Path]:
    """The files of weights of revisions of a model on the Hub, by `revision/name`, fetched into the Hub's own cache.

    revisions: branches, tags or commits; default all branches and tags but `main`, or `main` where there is no other.
    RecordError without the package huggingface_hub, or where the Hub does not give them.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise RecordError("hf:// needs the package huggingface_hub: pip install 'tracer-nn[hub]'") from None
    name = url.removeprefix("hf://").strip("/").removeprefix("models/")
    if len(name.split("/")) != 2:
        raise RecordError(f"{url!r} names no model on the Hub: write hf://owner/name")
    endpoint, cache = os.environ.get("HF_ENDPOINT"), os.environ.get("HF_HUB_CACHE")
    kinds = SAFE + (PICKLED if load_pt else ())
    patterns = [f"*.{kind}" for kind in kinds] if pattern is None else [pattern.removeprefix("**/")]
    files: dict[str, Path] = {}
    try:
        if revisions is None:
            refs = huggingface_hub.HfApi(endpoint=endpoint).list_repo_refs(name)
            known = [ref.name for ref in [*refs.branches, *refs.tags]]
            revisions = [ref for ref in known if ref != "main"] or known
        for revision in revisions:
            folder = huggingface_hub.snapshot_download(
                name, revision=revision, endpoint=endpoint, cache_dir=cache, allow_patterns=patterns
            )
            inside = files_in(Path(folder), pattern, load_pt)
            files |= {f"{revision}/{within}": file for within, file in inside.items()}
    except RecordError:
        raise
    except Exception as error:  # of the Hub's client, of many classes
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordError(f"{url!r} cannot be fetched from the Hub: {cause}") from None
    return files


def parts_of(file: Path) -> list[Path]:
    """All files of the snapshot that a file belongs to, in order."""
    named = _PART.fullmatch(file.stem)
    if named is None:
        return [file]
    width, start = len(named[2]), file.stem[: -len(f"{named[2]}-of-{named[3]}")]
    names = [
        f"{start}{k:0{width}}-of-{named[3]}{file.suffix}" for k in range(1, min(int(named[3]), _MANY) + 1)
    ]
    lost = next((name for name in names if not (file.parent / name).is_file()), None)
    if lost is not None:
        raise RecordError(
            f"{file.name!r} is one of {int(named[3])} files of a snapshot, of which {lost!r} is missing"
        )
    return [file.parent / name for name in names]


def bare_name(name: str) -> str:
    """The name of a file without its suffix, and without the number of a part.

    >>> bare_name("checkpoint-500/model-00001-of-00003.safetensors"), bare_name("epoch=3-loss=0.25.ckpt")
    ('checkpoint-500/model', 'epoch=3-loss=0.25')
    """
    folder, _, file = name.rpartition("/")
    stem = Path(file).stem
    part = _PART.fullmatch(stem)
    return f"{folder}/{part[1] if part else stem}".lstrip("/")


def load_into(model: nn.Module, file: Path, load_pt: bool = False, entry: str | None = None) -> list[str]:
    """Load a file of weights, or all parts that it is the first of, into a model; notes of what was left out.

    entry: which of several states that a file holds, such as "ema". RecordError for what does not fit.
    """
    contents: dict[str, Any] = {}
    for part in parts_of(file):
        contents |= _read(part, load_pt)
    state, notes = _fitting(_states(contents, file, entry), model, file)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise RecordError(
            f"{file.name!r} does not fit the model: {str(error).splitlines()[-1].strip()}"
        ) from None
    own = model.state_dict()
    there = {tensor.data_ptr() for name, tensor in own.items() if name in state}
    lost = [name for name in missing if own[name].data_ptr() not in there]  # a tied tensor is saved once
    for names, what in ((lost, "lacks"), (unexpected, "holds, unlike the model,")):
        if names:
            raise RecordError(
                f"{file.name!r} {what} {_told(names)}; give the factory of the model that was saved"
            )
    return notes


def _told(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _states(contents: Mapping[str, Any], file: Path, entry: str | None) -> dict[str, dict[str, Tensor]]:
    """Everything in a file that is the state of a module, by name; the file itself is ""."""
    if _is_state(contents):
        states = {"": dict(contents)}
    else:
        states = {str(name): dict(value) for name, value in contents.items() if _is_state(value)}
    if entry is not None:
        if entry not in states:
            raise RecordError(f"{file.name!r} holds no state {entry!r}; {did_you_mean(entry, states)}")
        states = {entry: states[entry]}
    if not states:
        raise RecordError(f"{file.name!r} is no state_dict: save model.state_dict(), or convert it")
    return states


def _is_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items())


def _fitting(
    states: dict[str, dict[str, Tensor]], model: nn.Module, file: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The state that is the model's, under its names; of several that are, the one by its usual name."""
    known = model.state_dict().keys()
    bare = {name: _unwrapped(state, known) for name, state in states.items()}
    shares = {name: len(known & state.keys()) for name, (state, _) in bare.items()}
    best = [name for name in bare if shares[name] == max(shares.values())]
    usual = [name for name in _PREFERRED if name in best]
    if len(best) > 1 and not usual:
        raise RecordError(
            f"{file.name!r} holds several states that fit the model: {', '.join(map(repr, best))}: say which in entry="
        )
    chosen = usual[0] if usual else best[0]
    state, outside = bare[chosen]
    notes = []
    if outside:
        notes.append(
            f"of the tensors in {chosen or 'the file'!r}, those outside the model are left out: {_told(outside)}"
        )
    return state, notes


def _unwrapped(state: dict[str, Tensor], known: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The weights without the prefix of what the model was held in, and the names that are not the model's."""
    for prefix in _WRAPPERS * 2:
        if not known & state.keys() and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    first = next(iter(known), None)
    if first is None or known & state.keys():
        return state, []
    for name in state:
        prefix = name.removesuffix(first)
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if prefix.endswith(".") and name != prefix and known <= inside.keys():
            return inside, [key for key in state if not key.startswith(prefix)]
    return state, []


def _read(file: Path, load_pt: bool) -> dict[str, Any]:
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
        contents = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises anything
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        cause = name[1] if name else str(error).splitlines()[0]
        raise RecordError(
            f"{file.name!r} holds more than tensors ({cause}), which are not loaded: where you trust it, save its "
            "state_dict alone"
        ) from None
    if not isinstance(contents, Mapping):
        raise RecordError(f"{file.name!r} is no state_dict: save model.state_dict(), or convert it")
    return dict(contents)
