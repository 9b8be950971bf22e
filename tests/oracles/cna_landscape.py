"""Principal components by singular values of all snapshots side by side; CNA by a loop over examples."""

import numpy as np

from tests.oracles import mlp


def plane(points):
    """(mean, directions, trajectory) of points (snapshot, weight), the last coordinates at least 0."""
    mean = points.mean(0)
    directions = np.linalg.svd(points - mean, full_matrices=False)[2][:2]
    trajectory = (points - mean) @ directions.T
    signs = np.where(trajectory[-1] < 0, -1, 1)
    return mean, directions * signs[:, None], trajectory * signs


def cna(layers, inputs, alpha):
    """Correlation of alpha with the slope, over depth, of the sums of all pre-activations but the last."""
    slopes = []
    for x in inputs:
        sums = [pre.sum() for pre in mlp.forward(layers, x)[1]]
        slopes.append(np.polyfit(np.arange(len(sums)), sums, 1)[0])
    return np.corrcoef(alpha, slopes)[0, 1]
