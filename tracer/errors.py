"""The ways tracer refuses, each in one sentence that says what to do next, and what these sentences are made of."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from math import ceil


class TracerError(Exception):
    """Whatever tracer and analyze refuse: every error of theirs is one, and a standard exception too.

    Only a call that is wrong in itself, with an option that there is not, is a plain TypeError.
    """


class ArchiveError(TracerError, ValueError):
    """An archive is damaged, foreign, in use, or of a version this release cannot read."""


class MissingTraceError(TracerError, LookupError):
    """An archive is sound but does not hold what was asked for."""


class RecordError(TracerError, ValueError):
    """A recording was asked for something that cannot be recorded correctly."""


class ArgumentError(TracerError, ValueError):
    """An argument or an option has a value that it cannot take."""


UNITS = {"": 1, "B": 1} | {
    f"{letter}{kind}B": base**power
    for power, letter in enumerate("KMGT", 1)
    for kind, base in (("", 1000), ("I", 1024))
}


def parse_memory(memory: int | str) -> int:
    """Bytes of a size such as `2GB` (powers of 1000) or `2GiB` (powers of 1024), or a number of bytes.

    >>> parse_memory("1.5GB"), parse_memory("1.5 GiB"), parse_memory(1024)
    (1500000000, 1610612736, 1024)
    """
    text = str(memory).strip().upper()
    number = text.rstrip("KMGTIB ")
    try:
        value = int(float(number) * UNITS[text[len(number) :].strip()])
    except (KeyError, ValueError, OverflowError):
        value = 0
    if value <= 0:
        raise ArgumentError(f"memory is a number of bytes or a size such as '2GB', got {memory!r}")
    return value


def byte_size(count: float, *, at_least: bool = False) -> str:
    """Write a number of bytes in the unit that suits it; with `at_least` no fewer than these.

    >>> byte_size(1536), byte_size(7_340_032), byte_size(1610, at_least=True)
    ('1.5 KiB', '7.0 MiB', '1.6 KiB')
    """
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    if at_least:
        count = ceil(10 * count) / 10
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def rounded(value: float, digits: int = 2) -> str:
    """A number of so many digits; one that is large without an exponent.

    >>> rounded(141.3), rounded(0.0123), rounded(12345.0, 3)
    ('140', '0.012', '12,300')
    """
    value = float(f"{value:.{digits}g}")
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def how_many(count: int, noun: str) -> str:
    """A number of things, one or several.

    >>> how_many(1, "update"), how_many(2000, "training example")
    ('1 update', '2,000 training examples')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class MissingPackageError(TracerError, ImportError):
    """What was asked for needs a package that is not installed."""


# Packages that only a part of tracer needs, by the name they are imported under: the extra that brings each, and
# what for.
_EXTRAS = {
    "torch": ("torch", "recording, and running a recorded network again,"),
    "sklearn": ("demo", "the demo with its digits"),
    "safetensors": ("checkpoints", "reading .safetensors"),
    "huggingface_hub": ("hub", "hf://"),
    "distributed": ("dask", "a Dask cluster"),
    "gudhi": ("topology", "a Betti number above the first"),
    "starlette": ("watch", "tracer watch"),
    "uvicorn": ("watch", "tracer watch"),
    "pyarrow": ("parquet", "a Parquet file"),
    "lightning": ("lightning", "recording in Lightning"),
    "transformers": ("transformers", "recording in Transformers"),
    "accelerate": ("transformers", "recording with Accelerate"),
}


def missing_package(error: ImportError) -> MissingPackageError | None:
    """The error, as a sentence, of a package that only a part of tracer needs; None for any other module.

    >>> str(missing_package(ModuleNotFoundError(name="huggingface_hub")))
    "hf:// needs the package huggingface_hub: pip install 'tracer-nn[hub]'"
    """
    if isinstance(error, MissingPackageError):
        return error
    name = (error.name or "").partition(".")[0]
    if name not in _EXTRAS:
        return None
    extra, purpose = _EXTRAS[name]
    install = f"pip install 'tracer-nn[{extra}]'"
    if name == "torch":
        install = f"install PyTorch as its own pages say for this machine, or {install}"
    return MissingPackageError(f"{purpose} needs the package {name}: {install}", name=name)


def first_of(names: Sequence[str]) -> str:
    """The first three of many names.

    >>> first_of(["a", "b", "c"]), first_of("abcd")
    ('a, b, c', 'a, b, c, ...')
    """
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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


def said(error: BaseException) -> str:
    """What is wrong, in a line: in our own words where we foresaw it.

    >>> said(ArchiveError("run.zarr is not an archive")), said(KeyError("loss"))
    ('run.zarr is not an archive', "KeyError: 'loss'")
    """
    return str(error) if isinstance(error, TracerError) else first_line(error)


def first_line(error: BaseException) -> str:
    r"""What an error says, in one line.

    >>> first_line(KeyError("weight")), first_line(ValueError("one\ntwo"))
    ("KeyError: 'weight'", 'ValueError: one')
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no message'}"
