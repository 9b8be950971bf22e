"""EL2N, one example at a time."""

import math


def el2n(logits, label):
    """Length of softmax(logits) less the indicator of the label."""
    total = math.fsum(math.exp(float(value)) for value in logits)
    errors = [math.exp(float(value)) / total - (k == label) for k, value in enumerate(logits)]
    return math.hypot(*errors)
