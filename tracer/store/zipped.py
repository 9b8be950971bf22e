"""An archive in one zip file, on this machine or at a URL, read in place: only what is asked for is fetched."""

import io
import os
import stat
import threading
import weakref
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from tracer.errors import ArchiveError
from tracer.store.fetch import Place
from tracer.store.store import MAX_ROOT, ROOT, Listing, Store, bounded_root, is_remote, is_zip, local_path
from tracer.store.zip_headers import HEADER, Header, faults

_MAX_MEMBER = 1 << 30  # bytes of a compressed member of a zip file, which is unpacked as a whole
_MAX_LISTING = 128 << 20  # bytes of the list of members
_KEPT = 128 << 20  # bytes of unpacked members that are kept, or else the last one alone
_NEAR = 1 << 16  # bytes that are rather fetched than asked for by a second request
_TAIL = 1 << 16  # bytes at the end of a remote file, where its directory is, fetched at once


class LocalFile:
    """Parts of a file, which is closed when nobody has this any more, if not before."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._fd)

    @property
    def size(self) -> int:
        """Bytes by now."""
        return os.fstat(self._fd).st_size

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of a range, as far as there are any."""
        return os.pread(self._fd, max(0, min(stop, self.size) - start), start)

    def close(self) -> None:
        """Close it."""
        self._close()
        self._fd = -1  # the number may soon be that of another file


class RemoteFile:
    """Parts of a file at a URL, each by a request for its range."""

    def __init__(self, url: str) -> None:
        self._place = Place(url)
        size = self._place.size()
        if size is None:
            raise ArchiveError(
                f"{url!r} does not say how long it is, so it cannot be read in place; fetch it by other means"
            )
        self.size = size
        self._tail_at = max(0, self.size - _TAIL)
        self._tail = self._get(self._tail_at, self.size)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of a range, as far as there are any."""
        stop = min(stop, self.size)
        if start >= self._tail_at:
            return self._tail[start - self._tail_at : max(start, stop) - self._tail_at]
        return self._get(start, stop)

    def _get(self, start: int, stop: int) -> bytes:
        return self._place.read(start, stop)

    def close(self) -> None:
        """Forget what was fetched."""
        self._tail = b""


class _Reader(io.RawIOBase):
    """A file as the zip library reads it."""

    def __init__(self, file: LocalFile | RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError("a seek before the start")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if len(buffer) > _MAX_LISTING:
            raise ValueError(f"a list of members of {len(buffer)} bytes")
        data = self._file.read(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Unpacked:
    """The latest members unpacked, of all zip files together, each as long as its store is open.

    Of one member many parts are asked for; without this all of it would be unpacked for each.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, str], bytes] = OrderedDict()
        self._lock = threading.RLock()  # a store may go, and its members with it, while the lock is held

    def get(self, owner: object, key: str, unpack: Callable[[], bytes]) -> bytes:
        """The bytes of a member, unpacked if they are not here."""
        with self._lock:
            data = self._kept.get((owner, key))
        data = unpack() if data is None else data
        with self._lock:
            self._kept[owner, key] = data
            self._kept.move_to_end((owner, key))
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT:
                self._kept.popitem(last=False)
        return data

    def forget(self, owner: object) -> None:
        """Let go of what is kept of a store."""
        with self._lock:
            for entry in [entry for entry in self._kept if entry[0] is owner]:
                del self._kept[entry]


_UNPACKED = _Unpacked()


class ZipStore(Store):
    """An archive in a zip file. Members stored uncompressed are read in place, ranges included.

    The archive may sit at the top of the zip or in one folder. Members that overlap, occur twice, are encrypted
    or packed by other means than deflate are refused, as is one of which the list of members and its own header
    say different things.
    """

    def __init__(self, location: str, within: str = "") -> None:
        self.where, self._within = location, within
        self._file: LocalFile | RemoteFile = (
            RemoteFile(location) if is_remote(location) else LocalFile(str(local_path(location)))
        )
        self._owner = object()
        self._forget = weakref.finalize(self, _UNPACKED.forget, self._owner)
        try:
            self._zip = zipfile.ZipFile(io.BufferedReader(_Reader(self._file), 1 << 16))
            self._find_members()
            self._starts: dict[str, int] = {}
            self.root = self._root()
        except BaseException:
            self._file.close()
            self._forget()
            raise

    @classmethod
    def takes(cls, location: str) -> bool:
        """A file of this machine, or a URL that ends as the name of one."""
        return is_zip(location)

    @classmethod
    def open(cls, location: str, within: str = "") -> "ZipStore":
        """The zip file."""
        location = location.rstrip("/")
        try:
            return cls(location, within)
        except FileNotFoundError:
            raise ArchiveError(
                f"there is no file at {location!r}; check the URL and your credentials"
            ) from None
        except ArchiveError:
            raise
        except Exception as error:  # the zip library raises anything for bytes that are none
            raise ArchiveError(
                f"{location!r} is neither an archive directory nor a zip file of one"
            ) from error

    def _root(self) -> bytes:
        info = self.members.get(ROOT)
        if info is None:
            return b""
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > MAX_ROOT:
            raise self._too_much(ROOT, info, MAX_ROOT)
        return bounded_root(self.read(ROOT, 0, MAX_ROOT + 1), self.where)

    def _find_members(self) -> None:
        listed = self._zip.infolist()
        names = Counter(info.filename for info in listed)
        twice = next((name for name, n in names.items() if n > 1), None)
        if twice is not None:
            raise ArchiveError(f"{self.where!r} holds {twice!r} twice, so it is not clear what it says")
        ends = sorted((info.header_offset, _least_end(info), info.filename) for info in listed)
        for (_, end, _), (start, _, name) in pairwise(ends):
            if start < end:
                raise ArchiveError(
                    f"{name!r} of {self.where!r} lies within another member; it is made to harm"
                )
        if ends and ends[-1][1] > self._file.size:
            raise ArchiveError(f"{ends[-1][2]!r} of {self.where!r} ends beyond the file, which was cut short")
        root = min((name for name in names if name.rpartition("/")[2] == ROOT), key=len, default=ROOT)
        self._top = root.removesuffix(ROOT)
        self.prefix = self._top + (f"{self._within}/" if self._within else "")
        self.members = {
            info.filename.removeprefix(self.prefix): info
            for info in listed
            if info.filename.startswith(self.prefix) and not info.filename.endswith("/")
        }

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Part of a member; a compressed one is unpacked as a whole, and kept while it is among the latest."""
        info = self.members.get(key)
        if info is None:
            raise FileNotFoundError(key)
        start, stop, _ = slice(start, stop).indices(info.file_size)
        try:
            if info.compress_type != zipfile.ZIP_STORED:
                return _UNPACKED.get(self._owner, key, lambda: self._unpacked(key, info))[start:stop]
            return self._stored(key, info, start, max(start, stop))
        except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"{key!r} cannot be read from {self.where!r}: {error}") from error

    def size(self, key: str) -> int | None:
        """Bytes of a member, by the list of them."""
        info = self.members.get(key)
        return None if info is None else info.file_size

    def stored_size(self, key: str) -> int:
        """Bytes that a member takes in the file."""
        info = self.members.get(key)
        return 0 if info is None else info.compress_size

    def files(self) -> Listing:
        """Every member, and what is odd about the file as a whole if this is the archive at its top."""
        listing = Listing({name: info.file_size for name, info in self.members.items()})
        for info in [] if self._within else self._zip.infolist():
            name = info.filename
            if is_escape(name):
                listing.odd.append((name, "leads out of the archive"))
                listing.sizes.pop(name.removeprefix(self.prefix), None)
            elif stat.S_ISLNK(info.external_attr >> 16):
                listing.odd.append((name, "is a link"))
                listing.sizes.pop(name.removeprefix(self.prefix), None)
            elif not name.endswith("/") and not name.startswith(self.prefix):
                listing.odd.append((name, "lies beside the archive in the zip file"))
        return listing

    def faults(self, full: bool) -> Iterator[tuple[str, str]]:
        """Headers that disagree, or are not as this release writes them where most are; full: sums of contents."""
        if not self._within and (full or isinstance(self._file, LocalFile)):
            yield from faults(self._zip, self._file.read, self._file.size, full)

    def _unpacked(self, key: str, info: zipfile.ZipInfo) -> bytes:
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise ValueError("it is compressed by other means than deflate; zip it again without compression")
        if info.file_size > _MAX_MEMBER:
            raise self._too_much(key, info, _MAX_MEMBER)
        packed = self._stored(key, info, 0, info.compress_size)
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        data = unpack.decompress(packed, info.file_size + 1)
        if len(data) != info.file_size or not unpack.eof or zlib.crc32(data) != info.CRC:
            raise ValueError("what it unpacks to is not what its header says")
        return data

    def _too_much(self, key: str, info: zipfile.ZipInfo, limit: int) -> ArchiveError:
        return ArchiveError(
            f"{key!r} of {self.where!r} unpacks to {info.file_size} bytes, more than the {limit} that are "
            "read; store members uncompressed, or unpack the zip file"
        )

    def _stored(self, key: str, info: zipfile.ZipInfo, start: int, stop: int) -> bytes:
        """A part of what a member takes in the file: with its header the first time, whose length only that says."""
        begin = self._starts.get(key)
        if begin is not None:
            data = self._file.read(begin + start, begin + stop)
        else:
            near = stop if start <= _NEAR else 0
            whole = self._file.read(
                info.header_offset, info.header_offset + HEADER + len(info.orig_filename.encode()) + near
            )
            header = Header.of(whole)
            why = header.differs(info)
            if why:
                raise ValueError(why)
            begin = self._starts[key] = info.header_offset + header.length
            data = whole[header.length + start : header.length + stop]
            if len(data) != stop - start:
                data = self._file.read(begin + start, begin + stop)
        if len(data) != stop - start:
            raise ValueError("it is cut short")
        return data

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()
        self._forget()


def is_escape(name: str) -> bool:
    r"""Whether a name could mean a file outside the directory it is taken in.

    >>> [is_escape(name) for name in ("a/b", "../a", "/a", "a\\..\\b", "C:x")]
    [False, True, True, True, True]
    """
    parts = name.split("/")
    return name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]


def _least_end(info: zipfile.ZipInfo) -> int:
    return info.header_offset + HEADER + len(info.orig_filename) + info.compress_size
