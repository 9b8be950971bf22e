"""Cosine of two paths from the paths themselves."""

import math


def similarity(path, before):
    """Cosine of two lists of 0 and 1, NaN if one has no 1."""
    product = math.sqrt(sum(path)) * math.sqrt(sum(before))
    return sum(a * b for a, b in zip(path, before, strict=True)) / product if product else math.nan
