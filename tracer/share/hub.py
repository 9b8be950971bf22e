"""To the Hugging Face Hub: everything in one commit, so nobody ever sees half of it."""

from pathlib import Path
from typing import Any

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.parts import Parts

_TYPES = {"datasets": "dataset", "spaces": "space"}
_PARTIAL = ["manifest/objects/partial", "*/manifest/objects/partial"]


def push_to_hub(local: Path, url: str) -> tuple[int, int]:
    """Copy an archive to `hf://datasets/owner/name/path`; return (objects, bytes). The repository must exist.

    Files that are there already are recognised by the Hub. Errors: ArchiveError without the package
    huggingface_hub, or for an incomplete URL.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ArchiveError("hf:// needs the package huggingface_hub: pip install 'tracer-nn[hub]'") from None
    repository = _repository(url)
    source = Source(local)
    try:
        sealed = Parts.of(source).sealed
    finally:
        source.close()
    text = f"Archive of run {source.record['run_id']}, commit {source.record['commit']}"
    place = repository.pop("path_in_repo")
    if local.is_file():
        if not place:
            raise ArchiveError(f"{url!r} names no file: end it with a name such as run.zip")
        HfApi().upload_file(path_or_fileobj=local, path_in_repo=place, commit_message=text, **repository)
        return 1, local.stat().st_size
    HfApi().upload_folder(
        folder_path=local, path_in_repo=place, commit_message=text, ignore_patterns=_PARTIAL, **repository
    )
    return len(sealed), sum(size for size, _ in sealed.values())


def _repository(url: str) -> dict[str, Any]:
    """Kind, name and folder of a URL, as the Hub's functions take them.

    >>> _repository("hf://datasets/ada/runs/mnist/mlp.zarr")
    {'repo_type': 'dataset', 'repo_id': 'ada/runs', 'path_in_repo': 'mnist/mlp.zarr'}
    """
    parts = url.removeprefix("hf://").strip("/").split("/")
    kind = _TYPES.get(parts[0], "model")
    parts = parts[1:] if parts[0] in _TYPES else parts
    if len(parts) < 2:
        raise ArchiveError(f"{url!r} names no repository: write hf://datasets/owner/name/path")
    return {"repo_type": kind, "repo_id": "/".join(parts[:2]), "path_in_repo": "/".join(parts[2:])}
