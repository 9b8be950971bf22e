"""GraNd from the gradients themselves."""

import math


def grand(gradients):
    """Length of every row of gradients (example, weight)."""
    return [math.hypot(*(float(value) for value in row)) for row in gradients]
