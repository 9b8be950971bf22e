"""One minibatch at a time, the slope by polyfit and the correlation by corrcoef."""

import itertools

import numpy as np


def cna(sums, ids, offsets, alpha):
    """Correlation per update; `alpha` maps an id to its complexity."""
    found = []
    for start, stop in itertools.pairwise(offsets):
        rows = [r for r in range(start, stop) if int(ids[r]) in alpha]
        slope = [np.polyfit(range(sums.shape[1] - 1), sums[r, :-1], 1)[0] for r in rows]
        complexity = [alpha[int(ids[r])] for r in rows]
        varied = len(set(slope)) > 1 and len(set(complexity)) > 1
        found.append(np.corrcoef(complexity, slope)[0, 1] if varied else np.nan)
    return np.array(found)
