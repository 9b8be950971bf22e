"""What a process that reads a hostile file may come to."""

import os
from collections.abc import Callable


def abort(path: str, folder: str, progress: Callable[..., None]) -> None:
    """Be ended by a fault of a library."""
    os.abort()


def endless(path: str, folder: str, progress: Callable[..., None]) -> None:
    """Never come back."""
    while True:
        pass
