"""Stiffness with a class-balanced reference set, by loops."""

import math
import statistics


def reference_ids(labels, ids, per_class):
    """The k lowest ids of each class."""
    by_class = {}
    for label, identity in sorted(zip(labels, ids, strict=True), key=lambda pair: pair[1]):
        by_class.setdefault(label, []).append(identity)
    k = min(per_class, min(len(members) for members in by_class.values()))
    return sorted(identity for members in by_class.values() for identity in members[:k])


def layer_stiffness(gradients, ids, reference):
    """((mean, std) of cosine, (mean, std) of sign) over anchors; gradients [example][weight] of one layer."""
    anchors = ([], [])
    for i, g in enumerate(gradients):
        cosines, signs = [], []
        for j, h in enumerate(gradients):
            if ids[j] not in reference or ids[i] == ids[j]:
                continue
            dot = math.fsum(a * b for a, b in zip(g, h, strict=True))
            length = math.hypot(*g) * math.hypot(*h)
            signs.append((dot > 0) - (dot < 0))
            if length > 0:
                cosines.append(dot / length)
        for values, anchor in zip((cosines, signs), anchors, strict=True):
            if values:
                anchor.append(statistics.fmean(values))
    return [(statistics.fmean(values), statistics.pstdev(values)) for values in anchors]
