"""The three ways tracer refuses, each in one sentence that says what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches


class ArchiveError(ValueError):
    """An archive is damaged, foreign, in use, or of a version this release cannot read."""


class MissingTraceError(LookupError):
    """An archive is sound but does not hold what was asked for."""


class RecordError(ValueError):
    """A recording was asked for something that cannot be recorded correctly."""


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


def first_line(error: BaseException) -> str:
    r"""What an error says, in one line.

    >>> first_line(KeyError("weight")), first_line(ValueError("one\ntwo"))
    ("KeyError: 'weight'", 'ValueError: one')
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no message'}"
