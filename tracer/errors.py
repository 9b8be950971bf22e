"""The ways tracer refuses, each in one sentence that says what to do next, and what these sentences are made of."""

from collections.abc import Iterable
from difflib import get_close_matches


class TracerError(Exception):
    """Whatever tracer and analyze refuse: every error of theirs is one, and a standard exception too."""


class ArchiveError(TracerError, ValueError):
    """An archive is damaged, foreign, in use, or of a version this release cannot read."""


class MissingTraceError(TracerError, LookupError):
    """An archive is sound but does not hold what was asked for."""


class RecordError(TracerError, ValueError):
    """A recording was asked for something that cannot be recorded correctly."""


def byte_size(count: float) -> str:
    """Write a number of bytes in the unit that suits it.

    >>> byte_size(1536), byte_size(7_340_032)
    ('1.5 KiB', '7.0 MiB')
    """
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint listing the closest known name, or all of them when few.

    >>> did_you_mean("feautres.1", ["features.1", "classifier"])
    "did you mean 'features.1'?"
    >>> did_you_mean("x", ["a", "b"])
    'known: a, b'
    """
    names = [str(item) for item in known]
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown or 'none'}"
