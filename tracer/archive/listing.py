"""Which archives there are in a directory, below a URL, or by a pattern."""

import glob
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tracer.errors import ArchiveError, first_of
from tracer.spec import RANKS
from tracer.store.fetch import Place, told
from tracer.store.store import ROOT, is_remote, local_path

DEEPEST = 4  # folders below a directory in which archives are looked for
# What stands beside archives and is none: what is being made, or was put aside, by `tracer.writer.place`, and what a
# repair cut off. Names that begin with a point are left out whatever they are.
_NO_ARCHIVE = re.compile(r"\..*|.*\.part|.*\.cut-\d+", re.DOTALL)


def archives_in(location: str | os.PathLike[str]) -> list[str]:
    """Paths of the archives of a directory, its folders and zip files included, in order; or itself, if it is one.

    Links are not followed, and names that begin with a point are left out. Of a URL the folders right below it
    are looked at. Errors: ArchiveError where there is no such directory, or its server has no listing.
    """
    return archives_and_links(location)[0]


def archives_and_links(location: str | os.PathLike[str]) -> tuple[list[str], str]:
    """The same, and a sentence on what was passed over: links to archives, and what cannot be looked into."""
    text = os.fspath(location)
    if is_remote(text):
        return _below_url(text), ""
    place = local_path(text)
    try:
        if is_archive(place):
            return [text], ""
    except Exception as error:
        raise ArchiveError(f"{text!r} cannot be looked into: {_why(error)}") from error
    if not place.is_dir():
        raise ArchiveError(f"there is no directory and no archive at {text!r}; check the path")
    links: list[str] = []
    closed: list[str] = []
    found = [str(path) for path in _below(place, DEEPEST, links, closed)]
    told = []
    if links:
        many = "1 link to an archive is" if len(links) == 1 else f"{len(links)} links to archives are"
        told.append(f"{many} not followed ({first_of(links)}): name the directory that they lead to")
    if closed:
        many = "1 file or folder" if len(closed) == 1 else f"{len(closed)} files or folders"
        told.append(f"{many} cannot be looked into ({first_of(closed)})")
    return found, "; ".join(told)


def is_archive(path: Path) -> bool:
    """Whether a directory or a zip file of this machine looks like an archive, without reading it.

    Errors: OSError for what may not be looked into; of a broken zip file anything.
    """
    if path.is_dir():
        return (path / ROOT).is_file() and (path / "steps").is_dir()
    if path.suffix != ".zip" or not path.is_file():
        return False
    with zipfile.ZipFile(path) as opened:
        names = opened.namelist()
    return any(name == ROOT or name.endswith(f".zarr/{ROOT}") for name in names)


def _why(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else "it is no whole zip file"


def matching(pattern: str) -> list[str]:
    """What a pattern such as `runs/*.zarr` matches, sorted: paths of this machine, or URLs."""
    if not is_remote(pattern):
        return sorted(glob.glob(str(local_path(pattern)), recursive=True))  # noqa: PTH207 (patterns may be absolute)
    place = Place(pattern)
    names = sorted(place.filesystem.glob(place.base))
    return [place.filesystem.unstrip_protocol(name) for name in names]


def is_pattern(location: str) -> bool:
    """Whether a path has a wildcard, and is not the path of something that is called so."""
    return glob.has_magic(location.partition("?")[0] if is_remote(location) else location) and not (
        not is_remote(location) and os.path.lexists(local_path(location))
    )


def _below(folder: Path, depth: int, links: list[str], closed: list[str]) -> Iterator[Path]:
    """Archives in a folder and those within it; to the lists go links to some, and what cannot be looked into."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:  # it was removed meanwhile
        return
    except OSError as error:
        closed.append(f"{folder.name}: {_why(error)}")
        return
    for entry in entries:
        path = Path(entry.path)
        if _NO_ARCHIVE.fullmatch(entry.name):
            continue
        try:
            found = is_archive(path)
            inner = depth and entry.is_dir(follow_symlinks=False) and not (path / ROOT).exists()
        except FileNotFoundError:
            continue
        except Exception as error:
            closed.append(f"{entry.name}: {_why(error)}")
            continue
        if found and entry.is_symlink():
            links.append(entry.name)
        elif found:
            yield path
        elif inner:
            yield from _below(path, depth - 1, links, closed)


def _below_url(url: str) -> list[str]:
    place = Place(url)
    if place.is_http:
        return [url]  # whose pages are no listing: opening it says whether it is an archive
    with told(f"list {url!r}"):
        place.filesystem.invalidate_cache()
        is_one = url.endswith(".zip") or place.filesystem.exists(f"{place.base}/{ROOT}")
    if is_one:
        return [url]
    try:
        inside = sorted(place.filesystem.ls(place.base, detail=False))
    except OSError as error:
        raise ArchiveError(f"cannot list {url!r}: {error}") from error
    names = [name.rstrip("/") for name in inside if name.rstrip("/").rpartition("/")[2] != RANKS]
    chosen = [name for name in names if name.endswith(".zip") or place.filesystem.exists(f"{name}/{ROOT}")]
    return [place.filesystem.unstrip_protocol(name) for name in chosen]
