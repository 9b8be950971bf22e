"""Neural collapse from its covariance matrices, written out example by example."""

import numpy as np


def values(features, labels, weights, predicted):
    classes = range(len(weights))
    p, count = features.shape[1], len(weights)
    means = [np.mean([h for h, y in zip(features, labels, strict=True) if y == c], axis=0) for c in classes]
    middle = sum(means) / count
    within, between = np.zeros((p, p)), np.zeros((p, p))
    variances = [0.0] * count
    for h, y in zip(features, labels, strict=True):
        within += np.outer(h - means[y], h - means[y]) / len(features)
        variances[y] += float(np.dot(h - means[y], h - means[y])) / list(labels).count(y)
    for mean in means:
        between += np.outer(mean - middle, mean - middle) / count
    pairs = [(i, j) for i in classes for j in classes if i != j]
    centred = np.array([mean - middle for mean in means])
    target = (np.eye(count) - np.ones((count, count)) / count) / (count - 1) ** 0.5

    def cosines(rows):
        return [
            rows[i] @ rows[j] / (np.sqrt(rows[i] @ rows[i]) * np.sqrt(rows[j] @ rows[j])) for i, j in pairs
        ]

    def lengths(rows):
        sizes = [float(np.sqrt(row @ row)) for row in rows]
        mean = sum(sizes) / len(sizes)
        return (sum((size - mean) ** 2 for size in sizes) / len(sizes)) ** 0.5 / mean

    def angles(rows):
        return sum(abs(c + 1 / (count - 1)) for c in cosines(rows)) / len(pairs)

    product = weights @ centred.T
    gram = centred @ centred.T
    nearest = [min(classes, key=lambda c: (float(np.dot(h - means[c], h - means[c])), c)) for h in features]
    spread = {name: np.array(cosines(rows)) for name, rows in (("means", centred), ("weights", weights))}
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-9)) / count,
        "nc1_no_c": np.trace(within @ np.linalg.pinv(between, rcond=1e-9)),
        "cdnv": np.mean(
            [(variances[i] + variances[j]) / 2 / np.sum((means[i] - means[j]) ** 2) for i, j in pairs]
        ),
        "equinorm_means": lengths(centred),
        "equinorm_weights": lengths(weights),
        "equiangle_means": angles(centred),
        "equiangle_weights": angles(weights),
        **{
            f"equiangle_std_{name}": np.sqrt(np.mean((found - found.mean()) ** 2))
            for name, found in spread.items()
        },
        "etf_error": np.sqrt(np.sum((gram / np.sqrt(np.sum(gram**2)) - target) ** 2)),
        "nc3": np.sum((weights / np.sqrt(np.sum(weights**2)) - centred / np.sqrt(np.sum(centred**2))) ** 2),
        "nc3_product": np.sqrt(np.sum((product / np.sqrt(np.sum(product**2)) - target) ** 2)),
        "nc4": np.mean([a != b for a, b in zip(predicted, nearest, strict=True)]),
    }
