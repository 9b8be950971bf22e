"""Forgetting events by following one example at a time."""

import math


def forgetting(history):
    """(events, position of the first success, observations) of one example's outcomes 1, 0 or None."""
    seen = [outcome for outcome in history if outcome is not None]
    if not seen:
        return math.nan, None, 0
    if 1 not in seen:
        return math.inf, None, len(seen)
    events = "".join(str(outcome) for outcome in seen).replace("10", "1x").count("1x")
    return events, next(k for k, outcome in enumerate(history) if outcome == 1), len(seen)
