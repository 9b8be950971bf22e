"""An archive at a URL."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tracer.errors import ArchiveError
from tracer.store.fetch import Place, told
from tracer.store.store import MAX_ROOT, ROOT, Listing, Store, bounded_root, is_remote, is_zip

_AT_ONCE = 8  # requests to a place elsewhere


class UrlStore(Store):
    """An archive at a URL of fsspec, each object one of its files."""

    def __init__(self, url: str) -> None:
        self.where = url
        self.place = Place(url)
        try:
            self.root = bounded_root(self.place.read(0, MAX_ROOT + 1, ROOT), url)
        except FileNotFoundError:
            raise ArchiveError(
                f"there is no archive at {url!r}; check the URL and your credentials"
            ) from None

    @classmethod
    def takes(cls, location: str) -> bool:
        """A URL that is not one of a zip file."""
        return is_remote(location) and not is_zip(location)

    @classmethod
    def open(cls, location: str, within: str = "") -> "UrlStore":
        """The URL, or one below it."""
        return cls("/".join([location.rstrip("/"), *([within] if within else [])]))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Part of an object."""
        if start < 0 or stop is None or stop < 0:
            start, stop, _ = slice(start, stop).indices(self._length(key))
        return self.place.read(start, stop, key)

    def size(self, key: str) -> int | None:
        """Bytes of an object, by a request."""
        try:
            return self._length(key)
        except FileNotFoundError:
            return None

    def _length(self, key: str) -> int:
        known = self.place.size(key)
        if known is None:
            raise ArchiveError(
                f"the server of {self.where!r} does not say how long {key!r} is; pull the archive by other means"
            )
        return known

    def copy(self, key: str, limit: int, write: Callable[[bytes], object]) -> None:
        """An object as it comes, in one request."""
        self.place.copy(key, limit, write)

    def present(self, keys: Iterable[str]) -> dict[str, int]:
        """Bytes of those objects that are there, several asked for at a time."""
        asked = list(keys)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sizes = pool.map(self.size, asked)
            return {key: size for key, size in zip(asked, sizes, strict=True) if size is not None}

    def files(self) -> Listing | None:
        """Every object below the URL; None for a web server, whose pages are no listing."""
        if self.place.is_http:
            return None
        root = self.place.base.strip("/")
        with told(f"list {self.where!r}"):
            self.place.filesystem.invalidate_cache()
            listing = self.place.filesystem.find(self.place.base, detail=True)
        names = {name.strip("/").removeprefix(root).lstrip("/"): info for name, info in listing.items()}
        return Listing({name: int(info["size"]) for name, info in names.items()})
