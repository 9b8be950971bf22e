"""Every file an archive consists of, as found and not as promised: in a directory, a zip file or at a URL."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tracer.spec import RANKS
from tracer.store.stores import ZipStore, is_remote

Read = Callable[[int, int], bytes]


class Inventory:
    """The files below an archive's root.

    sizes: key to bytes. odd: (key, why) of what no archive holds: links, devices, keys that lead elsewhere
    or occur twice. Links are not followed.
    """

    def __init__(self, location: str | os.PathLike[str], within: str = "") -> None:
        self.sizes: dict[str, int] = {}
        self.odd: list[tuple[str, str]] = []
        text = "/".join([os.fspath(location).rstrip("/"), within]) if within else os.fspath(location)
        self._folder: Path | None = None
        self._zip: ZipStore | None = None
        self._remote: Any = None
        whole = os.fspath(location).removeprefix("file://").rstrip("/")
        remote = is_remote(whole)
        if remote and not whole.endswith(".zip"):
            self._list_url(text)
        elif not remote and Path(whole).is_dir():
            self._folder = Path(whole) / within
            self._list_folder()
        else:
            self._zip = ZipStore(whole, within)
            self._list_zip(self._zip, within)

    @property
    def folder(self) -> Path | None:
        """The directory, if it is one."""
        return self._folder

    def leave_out_ranks(self, world_size: int) -> None:
        """Forget the archives of other processes, which are looked at by themselves."""

        def own(key: str) -> bool:
            top, rank, *rest = (*key.split("/"), "")
            number = rank.isdecimal() and len(rank) < 9 and int(rank)
            return not (top == RANKS and len(rest) > 1 and 0 < number < world_size)

        if world_size > 1:
            self.sizes = {key: size for key, size in self.sizes.items() if own(key)}
            self.odd = [entry for entry in self.odd if own(entry[0])]

    def close(self) -> None:
        """Let go of the files."""
        if self._zip is not None:
            self._zip.close()

    def read(self, key: str) -> bytes:
        """All bytes of a file."""
        return self.reader(key)(0, self.sizes[key])

    def reader(self, key: str) -> Read:
        """Return a function of (start, stop) that reads part of a file."""
        if self._folder is not None:
            path = self._folder / key

            def read(start: int, stop: int) -> bytes:
                with path.open("rb", buffering=0) as file:
                    file.seek(start)
                    return _exactly(file, stop - start)

            return read
        if self._zip is not None:
            store = self._zip
            return lambda start, stop: store.read(key, start, stop) or b""
        filesystem, base = self._remote
        return lambda start, stop: filesystem.cat_file(f"{base}/{key}", start=start, end=stop)

    def _list_folder(self) -> None:
        assert self._folder is not None
        for entry, key in _walk(self._folder, ""):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a recording goes on meanwhile
                continue
            if stat.S_ISLNK(found.st_mode):
                self.odd.append((key, "is a link"))
            elif not stat.S_ISREG(found.st_mode):
                self.odd.append((key, "is no ordinary file"))
            else:
                self.sizes[key] = found.st_size

    def _list_zip(self, store: ZipStore, within: str) -> None:
        if within:  # what is odd about the file as a whole is said of the archive at its top
            self.sizes = {name: info.file_size for name, info in store.members.items()}
            return
        names = Counter(info.filename for info in store.infolist())
        self.odd += [(name, f"occurs {n} times in the zip file") for name, n in names.items() if n > 1]
        for info in store.infolist():
            name, mode = info.filename, info.external_attr >> 16
            if is_escape(name):
                self.odd.append((name, "leads out of the archive"))
            elif stat.S_ISLNK(mode):
                self.odd.append((name, "is a link"))
            elif name.endswith("/"):
                continue
            elif not name.startswith(store.prefix):
                self.odd.append((name, "lies beside the archive in the zip file"))
            else:
                self.sizes[name.removeprefix(store.prefix)] = info.file_size

    def _list_url(self, url: str) -> None:
        import fsspec

        filesystem, base = fsspec.core.url_to_fs(url.rstrip("/"))
        self._remote = filesystem, base
        root = base.lstrip("/")
        for name, info in filesystem.find(base, detail=True).items():
            self.sizes[name.lstrip("/").removeprefix(root).lstrip("/")] = int(info["size"])


def is_escape(name: str) -> bool:
    r"""Whether a name could mean a file outside the directory it is taken in.

    >>> [is_escape(name) for name in ("a/b", "../a", "/a", "a\\..\\b", "C:x")]
    [False, True, True, True, True]
    """
    parts = name.split("/")
    return name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]


def _walk(folder: Path, prefix: str) -> Iterator[tuple["os.DirEntry[str]", str]]:
    waiting = [(folder, prefix)]
    while waiting:
        place, start = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), f"{start}{entry.name}/"))
                else:
                    yield entry, start + entry.name


def _exactly(file: Any, n: int) -> bytes:
    pieces = []
    while n > 0:
        piece = file.read(n)
        if not piece:
            break
        pieces.append(piece)
        n -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
