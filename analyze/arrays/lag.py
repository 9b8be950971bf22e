"""Which snapshots are compared with the one before."""

from collections.abc import Sequence

import numpy as np


def compared(steps: Sequence[int], epoch_ends: Sequence[int] | np.ndarray) -> tuple[tuple[int, ...], str]:
    """Snapshots to compare in time: ends of epochs and step 0 where there are two, else all; and which.

    >>> compared([0, 1, 2, 4, 8, 10], [5, 10])
    ((0, 10), 'epoch')
    >>> compared([0, 1, 2], [])
    ((0, 1, 2), 'snapshot')
    """
    ends = {0, *(int(step) for step in epoch_ends)}
    chosen = tuple(step for step in steps if step in ends)
    return (chosen, "epoch") if len(chosen) >= 2 else (tuple(steps), "snapshot")
