"""The cloud of pairs from masks and pixels, one pair and one unit at a time."""

import math


def cloud(masks, inputs, normalized=False):
    """(distance, overlap) of every pair i < j; overlap None where a normalised one is undefined."""
    found = []
    for i in range(len(masks)):
        for j in range(i + 1, len(masks)):
            shared = sum(a and b for a, b in zip(masks[i], masks[j], strict=True))
            if normalized:
                size = math.sqrt(sum(masks[i]) * sum(masks[j]))
                shared = shared / size if size else None
            found.append((math.dist(inputs[i], inputs[j]), shared))
    return found


def pearson(points):
    points = [(x, y) for x, y in points if y is not None]
    mx = math.fsum(x for x, _ in points) / len(points)
    my = math.fsum(y for _, y in points) / len(points)
    top = math.fsum((x - mx) * (y - my) for x, y in points)
    return top / math.sqrt(
        math.fsum((x - mx) ** 2 for x, _ in points) * math.fsum((y - my) ** 2 for _, y in points)
    )


def spearman(points):
    points = [(x, y) for x, y in points if y is not None]
    return pearson(list(zip(ranks([x for x, _ in points]), ranks([y for _, y in points]), strict=True)))


def ranks(values):
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]
