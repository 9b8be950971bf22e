"""Agreement of a measure with a target across runs, pair by pair in plain Python."""

from itertools import combinations
from math import isnan, log, nan


def sign(a, b):
    return int(a > b) - int(a < b)


def mean(values):
    values = [value for value in values if not isnan(value)]
    return sum(values) / len(values) if values else nan


def usable(x, y):
    return [i for i in range(len(x)) if not (isnan(x[i]) or isnan(y[i]))]


def kendall(x, y):
    runs = usable(x, y)
    pairs = [(sign(x[i], x[j]), sign(y[i], y[j])) for i, j in combinations(runs, 2)]
    free_x, free_y = sum(a != 0 for a, _ in pairs), sum(b != 0 for _, b in pairs)
    return sum(a * b for a, b in pairs) / (free_x * free_y) ** 0.5 if free_x * free_y else nan


def groups(labels, runs):
    found = {}
    for run in runs:
        found.setdefault(tuple(column[run] for column in labels), []).append(run)
    return list(found.values())


def granulated(x, y, axes):
    by_axis = []
    for k, axis in enumerate(axes):
        taus = []
        for runs in groups([other for m, other in enumerate(axes) if m != k], usable(x, y)):
            pairs = [(i, j) for i, j in combinations(runs, 2) if axis[i] != axis[j]]
            taus.append(mean([sign(x[i], x[j]) * sign(y[i], y[j]) for i, j in pairs]))
        by_axis.append(mean(taus))
    return mean(by_axis), by_axis


def information(x, y, labels):
    """I(V_x, V_y | labels) / H(V_y | labels) from the joint table of every group."""
    told = asked = 0.0
    for runs in groups(labels, usable(x, y)):
        table = {}
        for i in runs:
            for j in runs:
                if sign(y[i], y[j]):
                    key = sign(x[i], x[j]), sign(y[i], y[j])
                    table[key] = table.get(key, 0) + 1
        total = sum(table.values())
        for (a, b), count in table.items():
            of_a = sum(n for key, n in table.items() if key[0] == a)
            of_b = sum(n for key, n in table.items() if key[1] == b)
            told += count * log(count * total / (of_a * of_b))
            asked += count * log(total / of_b)
    return told / asked if asked else nan


def cmi(x, y, axes):
    sets = [chosen for size in range(3) for chosen in combinations(axes, size)]
    values = [information(x, y, chosen) for chosen in sets]
    return min((value for value in values if not isnan(value)), default=nan)


def environments(x, y, axes):
    """Sign error of every change of one axis with all others fixed, by (axis, values, others)."""
    found = {}
    for i, j in combinations(usable(x, y), 2):
        differing = [k for k, axis in enumerate(axes) if axis[i] != axis[j]]
        if len(differing) == 1 and y[i] != y[j]:
            k = differing[0]
            rest = tuple(None if m == k else axis[i] for m, axis in enumerate(axes))
            error = (1 - sign(x[i], x[j]) * sign(y[i], y[j])) / 2
            found.setdefault((k, frozenset((axes[k][i], axes[k][j])), rest), []).append(error)
    return {key: mean(errors) for key, errors in found.items()}
