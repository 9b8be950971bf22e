"""One update, as the writing thread takes it."""

from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One update."""

    step: int
    epoch: int
    time: float
    loss: float
    skipped: bool
    lr: tuple[float, ...]
    ids: np.ndarray | None
    scalars: dict[str, float] | None
    examples: dict[str, np.ndarray] | None = None  # by path, a row for each id
