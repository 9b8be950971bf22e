"""Betti numbers from the ranks of boundary matrices over GF(2), all simplices listed."""

from itertools import combinations, pairwise

import numpy as np


def neighbours(points, k):
    """0 and 1 (point, point): one of the two is among the k nearest of the other."""
    n = len(points)
    graph = np.zeros((n, n))
    for i in range(n):
        others = sorted(
            (sum((a - b) ** 2 for a, b in zip(points[i], points[j], strict=True)), j)
            for j in range(n)
            if j != i
        )
        for _, j in others[:k]:
            graph[i, j] = graph[j, i] = 1
    return graph


def betti(distance, scale, degrees):
    n = len(distance)
    simplices = [
        [
            s
            for s in combinations(range(n), size)
            if all(distance[a][b] <= scale for a, b in combinations(s, 2))
        ]
        for size in range(1, degrees + 2)
    ]
    ranks = [0]
    for faces, cells in pairwise(simplices):
        where = {face: row for row, face in enumerate(faces)}
        columns = []
        for cell in cells:
            columns.append(sum(1 << where[cell[:k] + cell[k + 1 :]] for k in range(len(cell))))
        ranks.append(rank(columns))
    return [len(simplices[j]) - ranks[j] - ranks[j + 1] for j in range(degrees)]


def rank(columns):
    """Rank over GF(2) of columns written as whole numbers."""
    pivots = {}
    for column in columns:
        while column:
            top = column.bit_length()
            if top not in pivots:
                pivots[top] = column
                break
            column ^= pivots[top]
    return len(pivots)
