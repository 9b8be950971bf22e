"""PAC-Bayes and sharpness measures one weight at a time, and accuracy of a linear classifier under a move."""

import math


def accuracy(weight, bias, inputs, labels):
    right = 0
    for x, y in zip(inputs, labels, strict=True):
        scores = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)
        ]
        right += scores.index(max(scores)) == y
    return right / len(labels)


def measures(w, start, radii, m, c, epsilon):
    omega = len(w)
    moved = [a - b for a, b in zip(w, start, strict=True)]
    found = {}
    for family, box in (("pacbayes", "sigma"), ("sharpness", "alpha")):
        r, sigma = radii[box], radii["sigma"]
        times = {"pacbayes": 1.0, "sharpness": c}[family]
        for kind, values in (("init", moved), ("orig", w)):
            found[f"{family}_{kind}"] = (
                times * sum(v * v for v in values) / 4 / r / r + math.log(m / sigma) + 10
            )
        found[f"{family}_flatness"] = 1 / r / r
        r, sigma = radii[f"{box}_mag"], radii["sigma_mag"]
        extra = {"pacbayes": 1.0, "sharpness": 4 * c}[family]
        for kind, values in (("init", moved), ("orig", w)):
            total = 0.0
            for value in values:
                top = epsilon * epsilon + (r * r + extra) * sum(v * v for v in values) / omega
                total += math.log(top / (epsilon * epsilon + r * r * value * value))
            found[f"{family}_mag_{kind}"] = total / 4 + math.log(m / sigma) + 10
        found[f"{family}_mag_flatness"] = 1 / r / r
    return found
