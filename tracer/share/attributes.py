"""What people say of a run after it was recorded: its licence, notes, where to read more."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.store.documents import as_json, document_digest, to_json
from tracer.store.files import Lock, sync, write_all

ATTRIBUTE = "provenance"


def set_attributes(path: str | os.PathLike[str], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Set or, with None, remove entries of the root attribute ``provenance``, and return all of them.

    The change is one commit: a new root document takes the place of the old one by rename. ``title`` sets the
    title of the run instead. Values may be anything that JSON holds.

    Errors: ArchiveError if the archive is no directory of this machine, or is being recorded.
    """
    source = Source(path)
    folder = source.store.folder
    source.close()
    if folder is None:
        raise ArchiveError(f"{source.path!r} is no directory: unpack or pull it, then set its attributes")
    lock = Lock(Path(folder).absolute())
    try:
        source = Source(folder)  # nobody else writes from here on
        document = json.loads(source.store.root)
        source.close()
        own = document["attributes"].get(ATTRIBUTE, {})
        for name, value in as_json(attributes).items():
            if name == "title" and isinstance(value, str):
                document["attributes"]["title"] = value
            elif value is None:
                own.pop(name, None)
            else:
                own[name] = value
        document["attributes"][ATTRIBUTE] = own
        _replace(Path(folder), document)
    finally:
        lock.release()
    return own


def _replace(folder: Path, document: dict[str, Any]) -> None:
    record = document["attributes"]["tracer"]
    record["commit"] += 1
    record["digest"] = "0" * 64
    text = to_json(document)
    digest = document_digest(text.encode())
    text = text.replace(f'"digest":"{"0" * 64}"', f'"digest":"{digest}"', 1)
    partial = folder / "manifest" / "objects" / "partial"
    fd = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
    try:
        write_all(fd, [text.encode()])
        os.fsync(fd)
    finally:
        os.close(fd)
    partial.rename(folder / "zarr.json")
    sync(folder)
