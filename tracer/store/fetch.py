"""Bytes of a URL, never more than were asked for, whatever the other side sends."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

from tracer.errors import ArchiveError, byte_size

LARGEST_BODY = 256 << 20  # bytes of an object that a server sends as a whole, having been asked for a part
_REMEMBERED = 64 << 20  # bytes of such objects that are kept, since the next part is likely to be asked for
_PIECE, _RUN = 1 << 20, 1 << 24
_PATIENCE, _SLOWEST = 60.0, 1 << 14  # seconds for an answer, and then bytes in each of them

T = TypeVar("T")


class Place:
    """Objects below a URL of fsspec, read in bounded parts.

    Over HTTP a body is read as it comes and left off where enough is there: its length, its range and its end
    are the server's word. Errors: FileNotFoundError for an object that is not there, ArchiveError in one
    sentence for anything else that goes wrong.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        with told(f"read {url!r}"):
            protocol = self.url.rpartition("://")[0].rpartition("::")[2]
            if protocol and protocol not in fsspec.available_protocols():
                raise ValueError(f"nothing here reads {protocol}://, but for instance https:// and s3://")
            self.filesystem, base = fsspec.core.url_to_fs(self.url)
        self.base = base.rstrip("/")
        self.is_http = "http" in _names(self.filesystem)
        self._whole: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def size(self, key: str = "") -> int | None:
        """Bytes of an object; None where the other side does not say."""
        if self.is_http:
            return self._ask(key, lambda place: self._head(place))
        info = self._ask(key, lambda place: self.filesystem.info(place))
        if info.get("type") == "directory":
            raise FileNotFoundError(self._name(key))
        return None if info.get("size") is None else int(info["size"])

    def read(self, start: int, stop: int, key: str = "") -> bytes:
        """Bytes ``start`` to ``stop`` of an object, fewer where it ends before."""
        if stop <= start:
            return b""
        if self.is_http:
            return self._ask(key, lambda place: self._http_range(place, start, stop))
        data = self._ask(
            key, lambda place: bytes(self.filesystem.cat_file(place, start=start or None, end=stop))
        )
        if len(data) > stop - start:
            raise ArchiveError(f"{self._name(key)!r} is longer than it says; it cannot be read in place")
        return data

    def copy(self, key: str, limit: int, write: Callable[[bytes], object]) -> int:
        """Hand an object piece by piece to ``write``; return its size. ArchiveError beyond ``limit`` bytes."""
        total = 0

        def take(piece: bytes) -> None:
            nonlocal total
            total += len(piece)
            if total > limit:
                raise ArchiveError(
                    f"{self._name(key)!r} sends more than the {limit} bytes that it can have; do not trust this server"
                )
            write(piece)

        if self.is_http:
            self._ask(key, lambda place: self._http_copy(place, take, limit))
            return total
        size = self.size(key)
        while size is None or total < size:
            piece = self.read(total, total + _RUN if size is None else min(size, total + _RUN), key)
            take(piece)
            if not piece:
                break
        return total

    def _name(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    def _ask(self, key: str, call: Callable[[str], T]) -> T:
        try:
            with told(f"read {self._name(key)!r}"):
                return call(f"{self.base}/{key}" if key else self.base)
        except IsADirectoryError:
            raise FileNotFoundError(self._name(key)) from None

    # ---- HTTP ----

    def _head(self, place: str) -> int | None:
        async def ask(answer: Any) -> int | None:
            length = answer.headers.get("Content-Length", "")
            coded = answer.headers.get("Content-Encoding", "identity") != "identity"
            return None if coded or not length.isascii() or not length.isdigit() else int(length)

        return self._http("HEAD", place, ask)

    def _http_range(self, place: str, start: int, stop: int) -> bytes:
        with self._lock:
            if place in self._whole:
                self._whole.move_to_end(place)
                return self._whole[place][start:stop]

        async def take(answer: Any) -> tuple[bytes, bool]:
            if answer.status == 416:  # the object ends before the range
                return b"", True
            partial = answer.status == 206
            told = answer.headers.get("Content-Range", "")
            if partial and not told.startswith(f"bytes {start}-"):
                raise ArchiveError(
                    f"the server of {place!r} answers with {told[:60]!r} where bytes {start} to {stop - 1} were asked "
                    "for; do not trust it"
                )
            limit = stop - start if partial else LARGEST_BODY
            data = bytearray()
            async for piece in _pieces(place, answer):
                data += piece
                if len(data) > limit:
                    if partial:
                        raise ArchiveError(f"the server of {place!r} sends more than it was asked for")
                    raise ArchiveError(f"the server of {place!r} sends whole files only; pull it first")
            return bytes(data), partial

        asked = {"Range": f"bytes={start}-{stop - 1}"}
        data, partial = self._http("GET", place, take, LARGEST_BODY, asked)
        if partial:
            return data
        with self._lock:
            self._whole[place] = data
            while len(self._whole) > 1 and sum(map(len, self._whole.values())) > _REMEMBERED:
                self._whole.popitem(last=False)
        return data[start:stop]

    def _http_copy(self, place: str, take: Callable[[bytes], None], limit: int) -> None:
        async def copy(answer: Any) -> None:
            async for piece in _pieces(place, answer):
                take(piece)

        self._http("GET", place, copy, limit)

    def _http(
        self,
        method: str,
        place: str,
        take: Callable[[Any], Awaitable[T]],
        most: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Ask with the session and credentials that fsspec is configured with; ``most``: bytes that may come."""
        import aiohttp
        import fsspec

        filesystem = self.filesystem
        patience = aiohttp.ClientTimeout(total=_PATIENCE + most / _SLOWEST)
        options = {"timeout": patience, "allow_redirects": True, **filesystem.kwargs}
        options["headers"] = {
            "Accept-Encoding": "identity",
            **options.get("headers", {}),
            **(headers or {}),
        }

        async def ask() -> T:
            session = await filesystem.set_session()
            async with session.request(method, filesystem.encode_url(place), **options) as answer:
                if answer.status in (404, 410):
                    raise FileNotFoundError(place)
                if answer.status != 416:
                    answer.raise_for_status()
                return await take(answer)

        return fsspec.asyn.sync(filesystem.loop, ask)


@contextmanager
def told(what: str, then: str = "") -> Iterator[None]:
    """Whatever a file system raises, which may be anything, is one sentence: that one cannot do ``what``, and why.

    That a file is not there, or is a folder, stays what it is: who asked knows what it means.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, ArchiveError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        text = " ".join(str(reason).split())[:300] or type(error).__name__
        raise ArchiveError(f"cannot {what}: {text}{then}") from error


async def _pieces(place: str, answer: Any) -> AsyncIterator[bytes]:
    """What comes, piece by piece. ArchiveError where it comes so slowly that all of it might take hours."""
    total, start = 0, time.monotonic()
    async for piece in answer.content.iter_chunked(_PIECE):
        total += len(piece)
        if time.monotonic() - start > _PATIENCE + total / _SLOWEST:
            raise ArchiveError(
                f"the server of {place!r} sends less than {byte_size(_SLOWEST)} a second; try again later"
            )
        yield piece


def _names(filesystem: Any) -> tuple[str, ...]:
    return filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
