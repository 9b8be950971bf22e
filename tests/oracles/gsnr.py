"""Gradient signal-to-noise ratio, one parameter at a time."""

import math
import statistics


def gsnr(gradients):
    """Squared mean over variance of each column of gradients (example, parameter); NaN if all equal."""
    ratios = []
    for column in zip(*gradients, strict=True):
        values = [float(value) for value in column]
        if len(set(values)) == 1:
            ratios.append(math.nan)
        else:
            ratios.append(statistics.fmean(values) ** 2 / statistics.pvariance(values))
    return ratios
