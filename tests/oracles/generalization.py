"""Loss, error and gap from lists."""

import math


def generalization(losses, scores, targets):
    """(mean loss, share wrong, share wrong of a constant answer) of one probe.

    losses [example], scores [example][class], targets [example].
    """
    kept = [loss for loss in losses if not math.isnan(loss)]
    wrong = 0
    for row, target in zip(scores, targets, strict=True):
        best = 0
        for c in range(1, len(row)):
            if row[c] > row[best]:
                best = c
        wrong += best != target
    # The answer that is always the same and most often right.
    guessing = min(sum(target != answer for target in targets) for answer in targets) / len(targets)
    return math.fsum(kept) / len(kept) if kept else math.nan, wrong / len(targets), guessing
