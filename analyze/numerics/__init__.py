"""Small exact numerics several metrics share: undefined is NaN, reductions are in float64."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
ROUNDING = 1e-12  # relative difference up to which computed numbers are taken to be equal


def pearson(x: ArrayLike, y: ArrayLike) -> Floats:
    """Pearson correlation along the last axis; the leading axes broadcast.

    Pairs in which either value is NaN are left out. NaN where fewer than two pairs remain, where the
    values that remain in `x` or in `y` are all equal but for rounding (a test of equality: the variance of a
    repeated 0.1 is not exactly 0), or where one of them is infinite.

    >>> float(pearson([1, 2, 3], [2, 4, 6]))
    1.0
    >>> pearson([[0.1, 0.1, 0.1], [1, 2, 4]], [3, 2, 1]).round(4)
    array([    nan, -0.982])
    """
    first, second, valid = _paired(x, y)
    return _correlation(first, second, valid)


def spearman(x: ArrayLike, y: ArrayLike) -> Floats:
    """Spearman correlation along the last axis: Pearson of the ranks, ties sharing their mean rank.

    Undefined as in `pearson`, except that infinite values have a rank like any other.

    >>> float(spearman([1, 2, 3, 4], [1, 10, 100, 1000]))
    1.0
    >>> float(spearman([1, 2, 3, 4], [5, 5, 5, 6]).round(4))
    0.7746
    """
    first, second, valid = _paired(x, y)
    return _correlation(_ranked(first, valid), _ranked(second, valid), valid)


def mean_ranks(values: ArrayLike) -> Floats:
    """Ranks 1, 2, ... along the last axis of the values (..., n), in increasing order.

    Values that are equal, or differ by rounding alone, share the mean of their ranks.

    >>> mean_ranks([10.0, 30.0, 10.0])
    array([1.5, 3. , 1.5])
    """
    values = np.asarray(values)
    order = np.argsort(values, axis=-1)
    ordered = np.take_along_axis(values, order, -1)
    place = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    ends = ~_tied(ordered[..., 1:], ordered[..., :-1])
    edge = np.ones((*values.shape[:-1], min(1, values.shape[-1])), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, ends], -1), place, 0), -1)
    last = np.where(np.concatenate([ends, edge], -1), place, values.shape[-1])
    last = np.minimum.accumulate(last[..., ::-1], -1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    return ranks


def _tied(x: np.ndarray, y: np.ndarray) -> NDArray[np.bool_]:
    equal = np.asarray(x == y)
    if x.dtype.kind != "f":
        return equal
    with np.errstate(invalid="ignore"):
        near = np.abs(x - y) <= ROUNDING * np.maximum(np.abs(x), np.abs(y))
    return equal | (near & np.isfinite(x) & np.isfinite(y))


def settled(values: ArrayLike, largest: ArrayLike | None = None) -> Floats:
    """Values rounded to twelve digits of the largest: what is equal but for rounding becomes equal, to be ordered.

    largest: what takes its place (default: the largest finite value), broadcast to the values.

    >>> x = settled([0.1 + 0.2, 0.3, np.inf])
    >>> bool(x[0] == x[1])
    True
    """
    values = np.asarray(values, np.float64)
    if largest is None:
        largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    largest = np.asarray(largest, np.float64)
    scale = 2.0 ** np.ceil(np.log2(np.where(largest > 0, largest, 1.0)))
    return np.asarray(np.where(largest > 0, np.round(values / scale, 12) * scale, values))


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    first, second = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    return first, second, ~(np.isnan(first) | np.isnan(second))


def _ranked(values: Floats, valid: NDArray[np.bool_]) -> Floats:
    ranks = np.full(values.shape, np.nan)
    for row in np.ndindex(values.shape[:-1]):
        ranks[row][valid[row]] = mean_ranks(values[row][valid[row]])
    return ranks


def _correlation(x: Floats, y: Floats, valid: NDArray[np.bool_]) -> Floats:
    count = valid.sum(-1)
    varied = (count >= 2) & _varies(x, valid) & _varies(y, valid)
    varied &= ~np.where(valid, np.isinf(x) | np.isinf(y), False).any(-1)
    valid = valid & varied[..., None]
    x, y = _centred(x, valid), _centred(y, valid)
    product = np.einsum("...i,...i->...", x, y)
    scale = np.sqrt(np.einsum("...i,...i->...", x, x) * np.einsum("...i,...i->...", y, y))
    return np.clip(divide(product, np.where(varied, scale, 0.0)), -1.0, 1.0)


def _varies(x: Floats, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    low = np.where(valid, x, np.inf).min(-1, initial=np.inf)
    high = np.where(valid, x, -np.inf).max(-1, initial=-np.inf)
    scale = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(invalid="ignore"):
        return (high > low) & ~(high - low <= ROUNDING * np.where(np.isfinite(scale), scale, 0.0))


def _centred(x: Floats, valid: NDArray[np.bool_]) -> Floats:
    # Dividing by the largest value before and after keeps squares of huge and tiny deviations in range.
    x = np.where(valid, x, 0.0)
    x = x / _largest(x)
    mean = x.sum(-1, keepdims=True) / np.maximum(valid.sum(-1, keepdims=True), 1)
    x = np.where(valid, x - mean, 0.0)
    return x / _largest(x)


def _largest(x: Floats) -> Floats:
    size = np.abs(x).max(-1, keepdims=True, initial=0.0)
    return np.where(size > 0, size, 1.0)


def divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Quotient in float64 that is NaN, without a warning, where the denominator is 0 or NaN.

    >>> divide([1, 0, 2], [2, 0, 0])
    array([0.5, nan, nan])
    """
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.asarray(top / bottom)
    zero = bottom == 0
    if zero.any():
        np.copyto(quotient, np.nan, where=zero)
    return quotient


def mean_defined(
    values: ArrayLike, axis: int | tuple[int, ...] | None = None
) -> tuple[Floats, NDArray[np.int64]]:
    """Mean of the values that are not NaN, and how many they are; NaN where there is none.

    >>> mean_defined([[1.0, np.nan], [np.nan, np.nan]], axis=1)
    (array([ 1., nan]), array([1, 0]))
    """
    values = np.asarray(values, np.float64)
    undefined = np.isnan(values)
    count = np.asarray(np.count_nonzero(~undefined, axis), np.int64)
    return divide(np.where(undefined, 0.0, values).sum(axis), count), count


def std_defined(values: ArrayLike, axis: int) -> Floats:
    """Population standard deviation of the values that are not NaN; NaN where there is none.

    >>> std_defined([[1.0, 3.0, np.nan], [np.nan] * 3], axis=1)
    array([ 1., nan])
    """
    values = np.asarray(values, np.float64)
    mean = np.expand_dims(mean_defined(values, axis)[0], axis)
    with np.errstate(invalid="ignore"):  # of an infinite value: from an infinite mean it has no distance
        return np.sqrt(mean_defined(np.square(values - mean), axis)[0])


def histogram(values: ArrayLike, bins: int) -> Floats:
    """How many values (n,) that are not NaN fall in each of `bins` equal bins on [0, 1], NaN where there is none.

    >>> histogram([0.1, 0.7, 0.8, np.nan], 2), histogram([np.nan], 2)
    (array([1., 2.]), array([nan, nan]))
    """
    values = np.asarray(values, np.float64)
    defined = values[~np.isnan(values)]
    if not defined.size:
        return np.full(bins, np.nan)
    return np.histogram(defined, bins, range=(0.0, 1.0))[0].astype(np.float64)


def standard_error(values: ArrayLike) -> Floats:
    """Standard error of the mean along the last axis, of values that are not NaN; NaN with fewer than two.

    >>> standard_error([1.0, 3.0, np.nan])
    array(1.)
    """
    values = np.asarray(values, np.float64)
    n = (~np.isnan(values)).sum(-1)
    return np.asarray(divide(std_defined(values, -1), np.sqrt(np.where(n > 1, n - 1, np.nan))))


def pair_mean_error(values: ArrayLike, same: bool) -> Floats:
    """Standard error, over the examples drawn, of a mean over pairs of examples: a jackknife.

    values (..., example, example_2), NaN where a pair does not count; `same` says that both axes are the same
    examples, whose pairs stand in the table twice. The means of each example's pairs are what varies. Larger than the
    truth where pairs are independent of each other. NaN with fewer than three examples of one split, or two of each
    of two. Source: Efron & Stein 1981, doi 10.1214/aos/1176345462.
    """
    means = PairMeans(same)
    means.add(np.asarray(values, np.float64))
    return np.asarray(means.error())


class PairMeans:
    """What `pair_mean_error` makes of a table whose rows come in bands."""

    def __init__(self, same: bool) -> None:
        """same: both axes are the same examples."""
        self._same, self._rows = same, list[Floats]()
        self._sums: Any = 0.0
        self._counts: Any = 0

    def add(self, values: Floats) -> None:
        """Take rows (..., row, example_2), NaN where a pair does not count."""
        self._rows.append(mean_defined(values, -1)[0])
        if not self._same:
            undefined = np.isnan(values)
            self._counts = self._counts + np.count_nonzero(~undefined, -2)
            self._sums = self._sums + np.where(undefined, 0.0, values).sum(-2)

    def error(self) -> Floats | None:
        """The standard error (...); None where no rows came."""
        if not self._rows:
            return None
        spread = []
        for means in (
            np.concatenate(self._rows, -1),
            *([] if self._same else [divide(self._sums, self._counts)]),
        ):
            n = (~np.isnan(means)).sum(-1)
            variance = std_defined(means, -1) ** 2
            # Leaving out an example takes both its row and its column of a table of one set of examples.
            scale = (
                divide(4 * (n - 1), (n - 2.0).clip(0) ** 2) if self._same else divide(1, (n - 1.0).clip(0))
            )
            spread.append(variance * scale)
        return np.asarray(np.sqrt(sum(spread)))


def running_mean(values: ArrayLike, window: int) -> Floats:
    """Means of every `window` consecutive values (n,): shape (n - window + 1,), empty when n < window.

    >>> running_mean([1.0, 2.0, 3.0, 6.0], 2)
    array([1.5, 2.5, 4.5])
    """
    values = np.asarray(values, np.float64)
    if len(values) < window:
        return np.empty(0)
    return np.lib.stride_tricks.sliding_window_view(values, window).mean(-1)


def pairs_of(tables: np.ndarray, rows: ArrayLike, columns: ArrayLike) -> np.ndarray:
    """Entries (..., pair) of the tables (..., example, example_2) at `rows` and `columns` (pair,), a copy.

    >>> pairs_of(np.array([[1, 2], [3, 4]]), [0, 1], [1, 1])
    array([2, 4])
    """
    # Unlike plain indexing, `take` keeps the pairs of one table side by side, which all that follows reads faster.
    places = np.asarray(rows) * tables.shape[-1] + np.asarray(columns)
    return np.take(tables.reshape(*tables.shape[:-2], -1), places, axis=-1)


def polygon_area(x: ArrayLike, y: ArrayLike) -> float:
    """Area enclosed by the closed polygon through (x, y): the absolute value of the shoelace sum.

    Lobes of opposite orientation cancel where the outline crosses itself.

    >>> polygon_area([0, 2, 2, 0], [0, 0, 1, 1])
    2.0
    >>> polygon_area([0, 1, 1, 0], [0, 1, 0, 1])
    0.0
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2)


def merge_ties(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Sorted distinct `x`, with the mean of the `y` that share each; `x` that differ by rounding alone are one.

    >>> merge_ties([2.0, 1.0, 2.0], [5.0, 7.0, 9.0])
    (array([1., 2.]), array([7., 7.]))
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    apart = np.diff(x) > ROUNDING * (x[-1] - x[0]) if len(x) else np.empty(0, bool)
    group = np.concatenate([np.zeros(min(1, len(x)), np.int64), np.cumsum(apart)])
    return x[np.flatnonzero(np.concatenate([group[:1] == 0, apart]))], np.bincount(group, y) / np.bincount(
        group
    )


def pairwise_distance(points: ArrayLike, kind: Literal["euclidean", "cosine"] = "euclidean") -> Floats:
    """Distances (example, example_2) between the rows of `points` (example, ...), each row flattened.

    `"cosine"` is 1 - x·x' / (|x||x'|), in [0, 2], and NaN where a row is all zeros. Both are NaN where a row holds
    anything that is not finite.

    >>> pairwise_distance([[0.0, 0.0], [3.0, 4.0]])
    array([[0., 5.],
           [5., 0.]])
    >>> pairwise_distance([[1.0, 0.0], [0.0, 2.0]], "cosine")
    array([[0., 1.],
           [1., 0.]])
    """
    rows = np.asarray(points, np.float64)
    rows = rows.reshape(len(rows), -1)
    rows = np.where(np.isfinite(rows).all(1, keepdims=True), rows, np.nan)
    if kind == "cosine":
        unit = divide(rows, np.linalg.norm(rows, axis=1, keepdims=True))
        distance = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
        np.fill_diagonal(distance, np.where(np.isnan(unit).any(1), np.nan, 0.0))
        return distance
    # Differences, not Gram products: near duplicates would otherwise be at a distance of rounding error.
    from scipy.spatial.distance import pdist, squareform

    distance = np.asarray(squareform(pdist(rows)))
    np.fill_diagonal(distance, np.where(np.isnan(rows).any(1), np.nan, 0.0))
    return distance


def depth_slope(sums: ArrayLike) -> Floats:
    """Least-squares slope of the last axis (..., depth) against depth 1, 2, ...: shape (...).

    NaN where there are fewer than two depths.

    >>> depth_slope([[1.0, 3.0, 5.0], [0.0, 3.0, 0.0]])
    array([2., 0.])
    """
    sums = np.asarray(sums, np.float64)
    depth = np.arange(sums.shape[-1]) - (sums.shape[-1] - 1) / 2
    return divide(sums @ depth, depth @ depth)
