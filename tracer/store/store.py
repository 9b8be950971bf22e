"""What an archive is kept in, behind one interface."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tracer.errors import ArchiveError

ROOT = "zarr.json"
MAX_ROOT = 64 << 20  # bytes of a root document
_PIECE = 1 << 24
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of two letters at least: C:/ is a drive


@dataclass
class Listing:
    """Every file of an archive, as it is and not as it should be.

    sizes: key to bytes. odd: (key, why) of what no archive holds: links, devices, names that lead elsewhere or
    occur twice.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    odd: list[tuple[str, str]] = field(default_factory=list)


class Store(ABC):
    """The files of an archive, read by key. Subclasses say where archives of their kind are and read them.

    where: as messages name it. folder: the directory, for a store that is one, else None. root: the bytes of the
    root document when the store was opened, which name everything that belongs to that commit.
    """

    where: str
    folder: Path | None = None
    root: bytes = b""

    @classmethod
    @abstractmethod
    def takes(cls, location: str) -> bool:
        """Whether what is at this location would be of this kind."""

    @classmethod
    @abstractmethod
    def open(cls, location: str, within: str = "") -> "Store":
        """The archive at a location, or the one at a path within it, with its root read.

        Errors: ArchiveError if nothing is there, or nothing that could be an archive.
        """

    @abstractmethod
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file that ``[start:stop]`` of them all would be, negative ``start`` included.

        Errors: FileNotFoundError if there is no such file, ArchiveError if it cannot be read.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes of a file, None if there is none."""

    @abstractmethod
    def files(self) -> Listing | None:
        """Every file there is, None where that cannot be known."""

    def copy(self, key: str, limit: int, write: Callable[[bytes], object]) -> None:
        """Hand a file piece by piece to ``write``. Errors: as `read`, and ArchiveError beyond ``limit`` bytes."""
        at, size = 0, self.size(key)
        if size is None:
            raise FileNotFoundError(key)
        if size > limit:
            raise ArchiveError(
                f"{key!r} of {self.where!r} has {size} bytes, more than the {limit} that it can have"
            )
        while at < size and (piece := self.read(key, at, min(size, at + _PIECE))):
            write(piece)
            at += len(piece)

    def present(self, keys: Iterable[str]) -> dict[str, int]:
        """Bytes of those files that are there."""
        return {key: size for key in keys if (size := self.size(key)) is not None}

    def faults(self, full: bool) -> Iterator[tuple[str, str]]:
        """(where, what) is wrong with that which holds the files together. full: all of it may be read."""
        yield from ()

    def stored_size(self, key: str) -> int:
        """Bytes that are really there for a file, however many it says it unpacks to; 0 if it is lost."""
        return self.size(key) or 0

    def stamp(self) -> tuple[int, ...] | None:
        """What changes when the root document is replaced; None where an archive stays as it was opened."""
        return None

    def root_now(self) -> bytes:
        """The root document as it is by now, b"" if it is gone."""
        return self.root

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Close the files."""


def is_remote(location: str) -> bool:
    """Whether a location is a URL of another place than this machine's files."""
    return "://" in location and not location.startswith("file://")


def is_zip(location: str) -> bool:
    """Whether a location names a zip file: by its ending at a URL, by what is there on this machine."""
    if is_remote(location):
        return location.rstrip("/").endswith(".zip")
    return local_path(location).is_file()


def local_path(location: str) -> Path:
    """The path of a location on this machine."""
    return Path(location.removeprefix("file://"))


def written_path(location: str | os.PathLike[str]) -> Path:
    """The path of what is to be written on this machine.

    Errors: ArchiveError for a URL, of whose slashes a Path may have left one: it would make a folder called `s3:`.
    """
    text = os.fspath(location)
    if is_remote(text) or _SCHEME.match(text.removeprefix("file://")):
        raise ArchiveError(
            f"cannot write into {text!r}: record into a directory of this machine and push it, and write results there"
        )
    return local_path(text)


def parted(name: str) -> tuple[str, str]:
    """Name of an archive without its ending, and the ending that it is one, which may be nothing.

    >>> parted("mlp.zarr"), parted("lr0.1")
    (('mlp', '.zarr'), ('lr0.1', ''))
    """
    ending = next((end for end in (".zarr", ".zip") if name.endswith(end)), "")
    return name.removesuffix(ending), ending


def fixed(location: str) -> str:
    """A location that stays the same where the program changes its directory."""
    return location if is_remote(location) else str(local_path(location).absolute())


def bounded_root(root: bytes, where: str) -> bytes:
    """The bytes of a root document, refused beyond the size that one can have."""
    if len(root) > MAX_ROOT:
        raise ArchiveError(f"the {ROOT} of {where!r} has more than the {MAX_ROOT} bytes that are read")
    return root


def lost(key: str) -> ArchiveError:
    """The refusal of an archive whose root names an object that is not there."""
    return ArchiveError(f"object {key!r} is lost from the archive; `tracer verify` lists what else is")
