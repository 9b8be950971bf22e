"""What noise does to a linear model under squared error, in closed form; KL entry by entry."""

import math

import numpy as np


def gain(spread, inputs):
    """E of the mean squared error's rise under independent noise on the weights of one linear output."""
    return float(np.mean(inputs**2 @ spread**2))


def kl(weights, before, spread):
    return math.fsum((w - b) ** 2 / (2 * s * s) for w, b, s in zip(weights, before, spread, strict=True))
