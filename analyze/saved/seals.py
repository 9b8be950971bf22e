"""Digests of what an analysis left on disk, so that only what is still as it was written is used again."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

from analyze.saved.documents import document
from tracer.store.files import write_whole

_PIECE = 1 << 20


class Seals:
    """The file `digests.json` of a directory: name to digest of a file or folder below it.

    It tells damage and later changes. It is no signature: whoever can write there can also write a digest.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._file = self._folder / "digests.json"
        self._known: tuple[tuple[int, int, int], dict[str, Any]] | None = None

    def seal(self, *names: str) -> None:
        """Note what is there under these names, in one rename."""
        if names:
            self._write(self._read() | {name: digest_of(self._folder / name) for name in names})

    def unseal(self, *names: str) -> None:
        """Forget what is there under these names: it is not what it was."""
        known = self._read()
        if not known.keys().isdisjoint(names):
            self._write({name: digest for name, digest in known.items() if name not in names})

    def holds(self, name: str) -> bool:
        """Whether what is there now is what was sealed under this name."""
        known = self._read().get(name)
        return known is not None and known == digest_of(self._folder / name)

    def _write(self, known: dict[str, Any]) -> None:
        write_whole(self._file, json.dumps(known, indent=1, sort_keys=True))

    def _read(self) -> dict[str, Any]:
        try:
            about = self._file.stat()
            stamp = about.st_ino, about.st_mtime_ns, about.st_size
            if self._known is not None and self._known[0] == stamp:
                return self._known[1]
        except OSError:
            return {}
        self._known = stamp, document(self._file)
        return self._known[1]


def digest_of(path: Path) -> str | None:
    """BLAKE2b of a file, or of the names and files of a folder; None where there is a link, or nothing."""
    total = blake2b(digest_size=32)
    try:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_symlink():
                return None
            if file.is_file():
                total.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
                with file.open("rb") as opened:
                    while piece := opened.read(_PIECE):
                        total.update(piece)
    except OSError:
        return None
    return total.hexdigest() if path.exists() and not path.is_symlink() else None
