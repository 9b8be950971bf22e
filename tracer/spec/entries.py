"""What a group of the archive holds: arrays and attributes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Array:
    """One array of a group. ``<word>`` in a name or dimension stands for a name chosen by the recording."""

    name: str
    dtype: str
    dims: tuple[str, ...]
    meaning: str
    units: str = "1"
    required: bool = True


@dataclass(frozen=True)
class Attribute:
    """One attribute of a group."""

    name: str
    type: str
    meaning: str
    required: bool = True
