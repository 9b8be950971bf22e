"""How well a measure orders runs as their generalization does: correlations across runs and their spread.

Every statistic takes a measure `x` and a target `y` (run,), leaves out runs in which either is NaN, and is
NaN where it is undefined. The bootstrap resamples runs: a resample is how often each run was drawn, and every
statistic is computed exactly for such counts, so that no resample is ever laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze.comparison.factorial_design import Design, Part, codes, condition_sets, groups
from analyze.numerics import Floats, divide, mean_ranks, pearson

Counts = NDArray[np.float32]  # (resample, run): how often each run was drawn; exact up to 2^24
STATISTICS = (
    "pearson",
    "spearman",
    "kendall",
    "granulated",
    "cmi",
    "sign_error_mean",
    "sign_error_90",
    "sign_error_max",
)
QUANTILE = 0.9  # of the environments, between their mean and the worst


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b of two series (run,); NaN where fewer than two runs are left or one series is constant.

    >>> round(kendall([1, 2, 3, 4], [1, 3, 2, 4]), 4)
    0.6667
    """
    from scipy.stats import kendalltau

    x, y = _defined(x, y)
    if len(x) < 2 or np.all(x == x[0]) or np.all(y == y[0]):
        return float("nan")
    return float(kendalltau(mean_ranks(x), mean_ranks(y), variant="b").statistic)


def granulated_kendall(
    x: ArrayLike, y: ArrayLike, axes: Sequence[ArrayLike]
) -> tuple[float, Floats, NDArray[np.int64]]:
    """Kendall's tau along one hyper-parameter at a time: its mean, that of each axis, and pairs compared.

    `axes` holds the labels (run,) of each hyper-parameter. Along an axis, runs that agree on all others form
    a group; tau of a group is the mean of sign(x_i - x_j)·sign(y_i - y_j) over its pairs that differ on the
    axis, that of the axis the mean over groups, and the whole the mean over axes. Groups without such a pair
    and axes without such a group are left out; NaN where none is left. Runs that repeat a configuration are
    compared with those of other values only. Source: Psi of Jiang et al. 2020, arXiv:1912.02178.

    >>> width, depth = [1, 1, 2, 2], [1, 2, 1, 2]
    >>> granulated_kendall([1, 2, 3, 4], [1, 2, 4, 3], [width, depth])
    (0.5, array([1., 0.]), array([2, 2]))
    """
    design = Design.of(axes, len(np.asarray(x)))
    pair = _Pair.of(x, y)
    taus = _granulated(design, pair, pair.everyone)[0]
    counts = np.array([int(pair.valid[part.pairs].all(1).sum()) for part in design.parts], np.int64)
    return float(_mean(taus)), taus, counts


def conditional_mutual_information(
    x: ArrayLike, y: ArrayLike, axes: Sequence[ArrayLike], most: int = 2
) -> tuple[float, tuple[int, ...]]:
    """Least information that the order of `x` gives on the order of `y`, whatever hyper-parameters are known.

    For every set of at most `most` axes, the runs that agree on the set form a group. Over the ordered pairs
    of runs of a group, V_x = sign(x_i - x_j) and V_y = sign(y_i - y_j); I(V_x, V_y | group) is averaged over
    groups by their share of pairs and divided by H(V_y | group) averaged alike, which puts it in [0, 1].
    Returned are the smallest over the sets and the set that has it. Pairs equal in `y` have no sign and are
    left out; equal in `x` is a third sign. Sets without a pair are left out, NaN where none has one. It says
    nothing of the direction. Source: K of Jiang et al. 2020, arXiv:1912.02178, whose U_S is read as values
    the two runs share.

    >>> conditional_mutual_information([1, 2, 3, 4], [1, 2, 3, 4], [[1, 1, 2, 2]])
    (1.0, ())
    """
    labels = codes(axes, len(np.asarray(x)))
    pair = _Pair.of(x, y)
    sets = condition_sets(len(labels), most)
    values = np.array([_information(pair, pair.everyone, groups(labels[list(s)]))[0] for s in sets])
    if np.isnan(values).all():
        return float("nan"), ()
    least = int(np.nanargmin(values))
    return float(values[least]), sets[least]


def sign_errors(x: ArrayLike, y: ArrayLike, pairs: ArrayLike, environments: ArrayLike) -> Floats:
    """Share of wrongly ordered pairs in each environment 0, 1, ...: shape (environment,).

    `pairs` (pair, 2) are runs to compare and `environments` (pair,) says where each belongs. The error of a
    pair is (1 - sign(x_i - x_j)·sign(y_i - y_j)) / 2, thus 1/2 where `x` is equal; pairs equal in `y` have no
    order and are left out. NaN for an environment without a pair. Source: Dziugaite et al. 2020,
    arXiv:2010.11924.

    >>> sign_errors([1, 2, 3], [1, 3, 2], [[0, 1], [0, 2], [1, 2]], [0, 0, 1])
    array([0., 1.])
    """
    pair = _Pair.of(x, y)
    where = np.asarray(environments, np.int64)
    return _sign_errors(
        pair, pair.everyone, np.asarray(pairs, np.int64), where, int(where.max(initial=-1)) + 1
    )[0]


@dataclass(frozen=True)
class _Pair:
    """A measure and a target of the same runs: values, ranks and which runs have both."""

    raw: tuple[Floats, Floats]
    x: Floats
    y: Floats
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> _Pair:
        raw = np.asarray(x, np.float64), np.asarray(y, np.float64)
        valid = ~(np.isnan(raw[0]) | np.isnan(raw[1]))
        ranks = []
        for values in raw:
            # Ranks stand for values in every comparison: infinities then subtract like any other.
            ranks.append(np.zeros(len(values)))
            ranks[-1][valid] = mean_ranks(values[valid])
        return cls(raw, ranks[0], ranks[1], valid)

    @property
    def everyone(self) -> Counts:
        """Each run drawn once: counts (1, run)."""
        return np.ones((1, len(self.valid)), np.float32)

    @staticmethod
    def order(ranks: Floats, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sign of the difference of the two runs of each pair (pair,)."""
        return np.sign(ranks[pairs[:, 0]] - ranks[pairs[:, 1]]).astype(np.float32)

    @cached_property
    def orders(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Signs of all differences (run, run_2) of measure and target, 0 where a run is left out."""
        both = np.outer(self.valid, self.valid)
        orders = [
            np.where(both, np.sign(r[:, None] - r[None]), 0).astype(np.float32) for r in (self.x, self.y)
        ]
        return orders[0], orders[1]


def agreement(x: ArrayLike, y: ArrayLike, design: Design, counts: Counts) -> dict[str, Any]:
    """Every statistic of one measure and one target: `value`, `low`, `high` and `n_resamples` of each.

    `counts` (resample, run) are the bootstrap's draws, as `draws` makes them. `low` and `high` are the 2.5th
    and the 97.5th percentile of the resamples in which the statistic is defined. Also `n_runs`, the runs with
    both values, `axis` (axis,), tau of each axis, and `environment` (environment,), its sign errors,
    and `resamples` (resample,), Kendall's correlations.
    """
    pair = _Pair.of(x, y)
    exact = _Found.of(pair, design, pair.everyone)
    values, valid = exact.statistics[0].copy(), pair.valid
    values[0] = pearson(*pair.raw)  # stabler than moments about a common centre
    again = _Found.of(pair, design, counts).statistics
    defined = ~np.isnan(again)
    low, high = (_percentile(again, defined, share) for share in (2.5, 97.5))
    return {
        "value": values,
        "low": np.where(np.isnan(values), np.nan, low),
        "high": np.where(np.isnan(values), np.nan, high),
        "n_resamples": defined.sum(0),
        "resamples": again[:, STATISTICS.index("kendall")],
        "n_runs": int(valid.sum()),
        "axis": exact.axes[0],
        "environment": exact.errors[0],
    }


def draws(n_runs: int, resamples: int, seed: int = 0) -> Counts:
    """How often each run is drawn in each resample of as many runs: (resample, run).

    >>> draws(5, 3).sum(1)
    array([5., 5., 5.], dtype=float32)
    """
    generator = np.random.default_rng(seed)
    shares = np.full(n_runs, 1 / max(n_runs, 1))
    return generator.multinomial(n_runs, shares, size=resamples).astype(np.float32)


@dataclass(frozen=True)
class _Found:
    """Statistics (resample, statistic) in the order of STATISTICS, tau of each axis and all sign errors."""

    statistics: Floats
    axes: Floats
    errors: Floats

    @classmethod
    def of(cls, pair: _Pair, design: Design, counts: Counts) -> _Found:
        weights = counts * pair.valid
        axes, errors = _granulated(design, pair, counts), _errors(design, pair, counts)
        if not len(counts):
            return cls(np.empty((0, len(STATISTICS))), axes, errors)
        columns = [
            _weighted_pearson(*pair.raw, weights),
            *_weighted_ranks(pair, weights),
            _mean(axes),
            _informations(design, pair, counts),
            _mean(errors),
            _quantile(errors, QUANTILE),
            _quantile(errors, 1.0),
        ]
        return cls(np.stack(columns, 1), axes, errors)


def _granulated(design: Design, pair: _Pair, counts: Counts) -> Floats:
    """Tau of each axis (resample, axis)."""
    columns = [_tau(part, pair, counts) for part in design.parts]
    return np.stack(columns, 1) if columns else np.empty((len(counts), 0))


def _informations(design: Design, pair: _Pair, counts: Counts) -> Floats:
    """Conditional mutual information (resample,)."""
    return _least(np.stack([_information(pair, counts, shared) for shared in design.conditions]))


def _errors(design: Design, pair: _Pair, counts: Counts) -> Floats:
    """Sign errors (resample, environment)."""
    return _sign_errors(pair, counts, design.pairs, design.environment, len(design.names))


def _tau(part: Part, pair: _Pair, counts: Counts) -> Floats:
    valid = np.asarray(pair.valid[part.pairs].all(1), np.float32)
    agree = np.asarray(pair.order(pair.x, part.pairs) * pair.order(pair.y, part.pairs) * valid, np.float32)
    sums, total = (_pair_sums(counts, part.pairs, v, part.group, part.n_groups) for v in (agree, valid))
    return _mean(divide(sums, total))


def _weighted_pearson(x: Floats, y: Floats, weights: Counts) -> Floats:
    """Pearson correlation under each row of weights (resample, run)."""
    used = weights.any(0)
    x, y, w = x[used], y[used], weights[:, used].astype(np.float64)
    if not len(x) or np.isinf(x).any() or np.isinf(y).any():
        return np.full(len(weights), np.nan)
    x, y = ((v - v.mean()) / (np.abs(v - v.mean()).max() or 1.0) for v in (x / _size(x), y / _size(y)))
    total = w.sum(1)
    mx, my = divide(w @ x, total), divide(w @ y, total)
    xx, yy, xy = (divide(w @ product, total) for product in (x * x, y * y, x * y))
    spread_x, spread_y = xx - mx * mx, yy - my * my
    # A resample of one run drawn again and again has no spread but rounding.
    varied = _varies(x, w) & _varies(y, w)
    scale = np.sqrt(np.where(varied, spread_x * spread_y, 0.0).clip(0))
    return np.clip(divide(xy - mx * my, scale), -1, 1)


def _weighted_ranks(pair: _Pair, weights: Counts) -> tuple[Floats, Floats]:
    """Spearman's and Kendall's correlation under each row of weights (resample, run)."""
    order_x, order_y = pair.orders
    # The mean rank of a run is half the draws, plus half of those below minus those above it.
    # These ranks have mean 0 in every resample: what one pair adds to one run it takes from the other.
    rank_x, rank_y = (weights @ order_x.T).astype(np.float64), (weights @ order_y.T).astype(np.float64)
    products = [((weights * a) * b).sum(1) for a, b in ((rank_x, rank_y), (rank_x, rank_x), (rank_y, rank_y))]
    rho = divide(products[0], np.sqrt(products[1] * products[2]))
    agree = _form(weights, order_x * order_y)
    untied = _form(weights, np.abs(order_x)) * _form(weights, np.abs(order_y))
    return np.clip(rho, -1, 1), np.clip(divide(agree, np.sqrt(untied)), -1, 1)


def _information(pair: _Pair, counts: Counts, shared: Sequence[NDArray[np.int64]]) -> Floats:
    """Normalised mutual information of the two orders within groups of runs (resample,)."""
    weights = counts * pair.valid
    order_x, order_y = pair.orders
    told, asked = np.zeros(len(counts)), np.zeros(len(counts))
    for runs in (runs for runs in shared if len(runs) > 1):
        inside = np.ix_(runs, runs)
        drawn = weights[:, runs]
        agree = _form(drawn, order_x[inside] * order_y[inside])
        signed = _form(drawn, np.abs(order_x[inside] * order_y[inside]))
        # Both orders of each pair are counted, so V_y is a fair coin: one bit, of which the noise is lost.
        told += signed * (1 - _entropy(divide((signed + agree) / 2, signed)))
        asked += _form(drawn, np.abs(order_y[inside]))
    return divide(told, asked)


def _sign_errors(
    pair: _Pair, counts: Counts, pairs: NDArray[np.int64], where: NDArray[np.int64], n: int
) -> Floats:
    by_x, by_y = pair.order(pair.x, pairs), pair.order(pair.y, pairs)
    counted = (pair.valid[pairs].all(1) & (by_y != 0)).astype(np.float32)
    wrong, total = (
        _pair_sums(counts, pairs, v, where, n) for v in (counted * (1 - by_x * by_y) / 2, counted)
    )
    return divide(wrong, total)


def _form(weights: Counts, matrix: NDArray[np.float32]) -> Floats:
    """Quadratic form w·M·w of each row of weights."""
    return np.einsum("br,br->b", weights @ matrix, weights, dtype=np.float64)


def _pair_sums(
    counts: Counts,
    pairs: NDArray[np.int64],
    values: NDArray[np.floating[Any]],
    group: NDArray[np.int64],
    n: int,
) -> Floats:
    """Sums over each group of pairs of value times how often both runs are drawn: (resample, group)."""
    if not len(pairs):
        return np.zeros((len(counts), n))
    if len(counts) == 1:
        return np.bincount(group, counts[0, pairs].prod(1) * values, n).astype(np.float64)[None]
    sums = np.zeros((len(counts), n))
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        # A small matrix product for each group: laid out pair by pair, repeated runs take gigabytes.
        runs, place = np.unique(pairs[members], return_inverse=True)
        place = place.reshape(-1, 2)
        matrix = np.zeros((len(runs), len(runs)), np.float32)
        matrix[place[:, 0], place[:, 1]] = values[members]
        sums[:, group[members[0]]] = _form(counts[:, runs], matrix)
    return sums


def _entropy(p: Floats) -> Floats:
    """Entropy of a coin in bits; 0 where it is undefined, which only empty groups are."""
    inside = (p > 0) & (p < 1)
    q = np.where(inside, p, 0.5)
    return np.where(inside, -q * np.log2(q) - (1 - q) * np.log2(1 - q), 0.0)


def _mean(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))


def _least(values: Floats) -> Floats:
    least = np.where(np.isnan(values), np.inf, values).min(0)
    return np.where(np.isinf(least), np.nan, least)


def _quantile(values: Floats, share: float) -> Floats:
    """Quantile of the defined entries of each row, without interpolation: a value that occurred."""
    count = (~np.isnan(values)).sum(1)
    ordered = np.sort(values, axis=1)  # NaN sorts last
    place = np.maximum(np.ceil(share * count).astype(np.int64) - 1, 0)
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    return np.asarray(np.take_along_axis(ordered, place[:, None], 1)[:, 0])


def _percentile(values: Floats, defined: NDArray[np.bool_], share: float) -> Floats:
    columns = [column[rows] for column, rows in zip(values.T, defined.T, strict=True)]
    return np.array([np.percentile(column, share) if len(column) else np.nan for column in columns])


def _varies(x: Floats, weights: Floats) -> NDArray[np.bool_]:
    drawn = weights > 0
    return np.where(drawn, x, -np.inf).max(1) > np.where(drawn, x, np.inf).min(1)


def _size(x: Floats) -> float:
    return float(np.abs(x).max()) or 1.0


def _defined(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    both = ~(np.isnan(first) | np.isnan(second))
    return first[both], second[both]
