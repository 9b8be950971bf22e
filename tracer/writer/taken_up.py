"""An archive that a writer goes on with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer.store.files import Lock
from tracer.writer.commits import Tree


@dataclass
class TakenUp:
    """An archive open for recording, after ``step``. `held(path, values)`: whether a static array is the same."""

    run_id: str
    step: int
    lock: Lock
    tree: Tree
    nodes: Mapping[str, Mapping[str, Any]]
    rows: list[str]
    last: dict[str, int]
    held: Callable[[str, np.ndarray], bool]
