"""Documents and folders beside results: plain files are read, and nothing is written through a link."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analyze.errors import AnalysisError

LARGEST = 1 << 26  # bytes of a document


def document(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none: a link, a pipe, too large, damaged."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return {}
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def folder(path: Path) -> Path:
    """A folder to write to, made where there is none. Errors: AnalysisError where it is anything else, a link too."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise AnalysisError(
            f"{str(path)!r} is {'a link' if path.is_symlink() else 'no folder'}, and results are written to plain "
            "folders alone; remove it, or analyze into another output="
        )
    path.mkdir(parents=True, exist_ok=True)
    return path
