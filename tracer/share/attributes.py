"""What people say of a run after it was recorded: its licence, notes, where to read more."""

import os
from collections.abc import Mapping
from typing import Any

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.store.documents import as_json
from tracer.store.files import Lock
from tracer.writer.committer import Committer
from tracer.writer.place import cannot_write, settled

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
    folder = settled(folder)
    try:
        lock = Lock(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        source = Source(folder)  # nobody else writes from here on
        source.close()
        own: dict[str, Any] = {}

        def change(root: dict[str, Any]) -> None:
            own.update(root.get(ATTRIBUTE, {}))
            for name, value in as_json(attributes).items():
                if name == "title" and isinstance(value, str):
                    root["title"] = value
                elif value is None:
                    own.pop(name, None)
                else:
                    own[name] = value
            root[ATTRIBUTE] = own
            root["tracer"]["commit"] += 1

        Committer(folder, sync=True).amend(source.store.root, change)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        lock.release()
    return own
