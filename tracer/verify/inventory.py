"""Every file an archive consists of, as it is and not as promised."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tracer.errors import ArchiveError
from tracer.spec import RANKS
from tracer.store.store import Listing
from tracer.store.stores import connect

Read = Callable[[int, int], bytes]
_SMALL = 1 << 16  # bytes of a file that is read as a whole, since opening it costs more


class Inventory:
    """The files below an archive's root.

    sizes: key to bytes. odd: (key, why) of what no archive holds: links, devices, keys that lead elsewhere.
    listed: whether all files could be listed; else ``sizes`` are those of files that were looked for.
    """

    def __init__(self, location: str | os.PathLike[str], within: str = "") -> None:
        self._store = connect(location, within)
        listing = self._store.files()
        self.listed = listing is not None
        files = listing or Listing()
        self.sizes, self.odd = files.sizes, files.odd

    @property
    def folder(self) -> Path | None:
        """The directory, if it is one."""
        return self._store.folder

    def look_for(self, keys: Iterable[str]) -> None:
        """Where files cannot be listed: note the size of each of these that is there."""
        if self.listed:
            return
        asked = [key for key in keys if key not in self.sizes]
        try:
            self.sizes |= self._store.present(asked)
        except ArchiveError as error:  # which of them it was does not matter: nothing there can be relied on
            self.odd.append((asked[0].rpartition("/")[0], str(error)))

    def faults(self, full: bool) -> Iterator[tuple[str, str]]:
        """(where, what) is wrong with that which holds the files together."""
        return self._store.faults(full)

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
        """Close the files."""
        self._store.close()

    def read(self, key: str) -> bytes:
        """All bytes of a file."""
        return self.reader(key)(0, self.sizes[key])

    def reader(self, key: str) -> Read:
        """Return a function of (start, stop) that reads part of a file, of a small one from all of it."""
        if self.sizes[key] > _SMALL:
            return lambda start, stop: self._store.read(key, start, stop)
        whole: list[bytes] = []

        def read(start: int, stop: int) -> bytes:
            if not whole:
                whole.append(self._store.read(key, 0, self.sizes[key]))
            return whole[0][start:stop]

        return read
