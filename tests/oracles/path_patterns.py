"""Activation patterns from unpacked masks, with sets and loops."""

from itertools import combinations
from statistics import fmean, pstdev


def path_patterns(masks):
    """(distinct rows, mean and sd of the share of units that differ, dead units, always-on units)."""
    rows = [tuple(bool(value) for value in row) for row in masks]
    shares = [sum(a != b for a, b in zip(p, q, strict=True)) / len(p) for p, q in combinations(rows, 2)]
    columns = list(zip(*rows, strict=True))
    dead = sum(not any(column) for column in columns)
    always = sum(all(column) for column in columns)
    return len(set(rows)), fmean(shares), pstdev(shares), dead, always
