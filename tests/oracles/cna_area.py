"""The areas from plain lists: running sums, interpolation by search, integration on a fine grid."""

import itertools


def smooth(points, window):
    """Means of every `window` consecutive (alpha, slope) points in order of alpha, equal ones at their mean slope."""
    points = sorted(points)
    of = {alpha: [p[1] for p in points if p[0] == alpha] for alpha, _ in points}
    points = [(alpha, sum(of[alpha]) / len(of[alpha])) for alpha, _ in points]
    means = []
    for k in range(len(points) - window + 1):
        part = points[k : k + window]
        means.append((sum(p[0] for p in part) / window, sum(p[1] for p in part) / window))
    return means


def scale(curves):
    """Every axis scaled so that all curves together span [0, 1]."""
    low = [min(p[axis] for curve in curves for p in curve) for axis in (0, 1)]
    high = [max(p[axis] for curve in curves for p in curve) for axis in (0, 1)]
    return [[tuple((p[a] - low[a]) / (high[a] - low[a]) for a in (0, 1)) for p in curve] for curve in curves]


def at(curve, x):
    """Value at x of the polyline through (x, y) points with different x."""
    curve = sorted(curve)
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return curve[0][1] if x < curve[0][0] else curve[-1][1]


def polygon(train, test, points=100):
    """Shoelace area of the curves (alpha, slope) read as alpha against slope."""
    outline = []
    for curve, forward in ((train, True), (test, False)):
        turned = [(slope, alpha) for alpha, slope in curve]
        low, high = min(p[0] for p in turned), max(p[0] for p in turned)
        side = [low + (high - low) * k / (points - 1) for k in range(points)]
        side = [(x, at(turned, x)) for x in side]
        outline += side if forward else side[::-1]
    total = 0.0
    for k, (x, y) in enumerate(outline):
        x2, y2 = outline[(k + 1) % len(outline)]
        total += x * y2 - x2 * y
    return abs(total) / 2


def absolute(train, test, cells=20000):
    """Midpoint sum of the distance of the curves over the alphas both reach."""
    low = max(min(p[0] for p in curve) for curve in (train, test))
    high = min(max(p[0] for p in curve) for curve in (train, test))
    width = (high - low) / cells
    middles = [low + width * (k + 0.5) for k in range(cells)]
    return width * sum(abs(at(train, x) - at(test, x)) for x in middles)


def lobe(train, test, cells=20000):
    """The largest sum over consecutive cells of a midpoint grid on which the same curve is above."""
    low = max(min(p[0] for p in curve) for curve in (train, test))
    high = min(max(p[0] for p in curve) for curve in (train, test))
    width = (high - low) / cells
    gaps = [at(train, low + width * (k + 0.5)) - at(test, low + width * (k + 0.5)) for k in range(cells)]
    return max(width * abs(sum(part)) for _, part in itertools.groupby(gaps, key=lambda gap: gap > 0))
