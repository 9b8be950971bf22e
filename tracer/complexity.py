"""Complexity of an input before any network looks at it: the entropy of its values."""

import numpy as np

BINS = 1000


def value_range(inputs: np.ndarray, raw: np.ndarray | None = None) -> tuple[np.ndarray, float, float, str]:
    """The values to look at, their range, and whether they are `raw` or `inputs`.

    The range is that of pixels, 0 to 255 for uint8 and else 0 to 1, where all values lie in it; otherwise
    that of the finite values.
    """
    values, source = (inputs, "inputs") if raw is None else (raw, "raw")
    values = np.asarray(values)
    if values.dtype == np.uint8:
        return values, 0.0, 255.0, source
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (values, 0.0, 1.0, source) if low >= 0 and high <= 1 else (values, low, high, source)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values in [0, 1], float64, of values that range from `low` to `high`."""
    return np.clip((values.astype(np.float64) - low) / (high - low or 1.0), 0.0, 1.0)


def entropy_of(unit: np.ndarray, bins: int = BINS) -> float:
    """Entropy in bits of values in [0, 1], in equal bins; 1 itself belongs to the last.

    Equal histograms, in whatever order, have equal entropies bit for bit.

    >>> entropy_of(np.array([0.0, 0.3, 0.6, 1.0]), 4)
    2.0
    """
    counts = np.bincount(np.minimum((unit * bins).astype(np.int64), bins - 1), minlength=1)
    share = np.sort(counts[counts > 0]) / unit.size
    return float(abs(np.sum(share * np.log2(share))))
