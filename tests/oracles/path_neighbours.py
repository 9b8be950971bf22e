"""Neighbours by sorting Python lists of (similarity, id)."""


def rank(similarity, ids, baseline):
    """Rank of each example around one baseline, from its row of similarities."""
    others = [j for j in range(len(ids)) if j != baseline]
    ordered = sorted(others, key=lambda j: (-similarity[j], ids[j]))
    return [-1 if j == baseline else ordered.index(j) for j in range(len(ids))]


def overlap(masks, i):
    return [sum(a and b for a, b in zip(masks[i], other, strict=True)) for other in masks]


def cosine(rows, i):
    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    length = [dot(row, row) ** 0.5 for row in rows]
    return [
        dot(rows[i], row) / (length[i] * n) if length[i] * n else -9.0
        for row, n in zip(rows, length, strict=True)
    ]


def turnover(now, before, ids, baselines, top):
    """One minus Jaccard of the nearest, mean over baselines; `now` and `before` are masks of a site."""
    found = []
    for b in baselines:
        nearest = []
        for masks in (now, before):
            row = overlap(masks, b)
            if any(value for j, value in enumerate(row) if j != b):
                nearest.append({j for j, r in enumerate(rank(row, ids, b)) if 0 <= r < top})
        if len(nearest) == 2:
            found.append(1 - len(nearest[0] & nearest[1]) / len(nearest[0] | nearest[1]))
    return sum(found) / len(found) if found else None
