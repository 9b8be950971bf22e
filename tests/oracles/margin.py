"""Margins and their order statistics from lists."""

from fractions import Fraction


def margins(scores, labels):
    """Score of the label minus the best other score."""
    return [
        row[y] - max(v for c, v in enumerate(row) if c != y) for row, y in zip(scores, labels, strict=True)
    ]


def gamma(values, percent):
    """The smallest margin with at least `percent` % of the margins at or below it."""
    ordered = sorted(values)
    for k, value in enumerate(ordered, start=1):
        if Fraction(k, len(ordered)) >= Fraction(percent, 100):
            return value
    raise AssertionError("no margin")
