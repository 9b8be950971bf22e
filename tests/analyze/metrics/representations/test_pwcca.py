import numpy as np
import pytest

import analyze
from analyze.metrics.representations.pwcca import pwcca
from analyze.plot import draw
from tests.oracles.pwcca import pwcca as slow
from tests.synthetic import write_archive


def between(x, y, **options):
    return pwcca([x[None], y[None]], [x, y], [y, x], **options)


def test_by_hand():
    # Orthogonal units (1, 1, −1, −1) and 3 (1, −1, 1, −1); the other site holds the second exactly.
    x = np.array([[1.0, 3], [1, -3], [-1, 3], [-1, -3], [0, 0]])
    y = np.array([[1.0], [-1], [1], [-1], [0]])
    shared = np.array([[1.0, 0], [-1, 0], [1, 1], [-1, 1], [0, -2]])
    assert between(x, y)["between"][0, 0, 1] == pytest.approx(1)
    # The second unit of x, of length 6, is there (correlation 1); the first, of length 2, by 2 / (2 √6).
    assert between(x, shared)["between"][0, 0, 1] == pytest.approx((6 + 2 / np.sqrt(6)) / 8)


def test_agrees_with_canonical_directions_of_the_units():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4)) * [1, 2, 3, 4]
    y = x @ rng.normal(size=(4, 6)) + 2 * rng.normal(size=(30, 6))
    result = between(x, y)
    assert result["between"][0, 0, 1] == pytest.approx(slow(x, y), rel=1e-9)
    assert result["between"][0, 1, 0] == pytest.approx(slow(y, x), rel=1e-9)
    np.testing.assert_allclose(result["to_last"][0], [slow(x, y), slow(y, x)], rtol=1e-9)
    assert result["n_directions"].tolist() == [[4, 6]]


def test_identical_snapshots_give_exactly_one():
    values = np.repeat(np.random.default_rng(1).normal(size=(1, 20, 7)), 3, axis=0).astype(np.float32)
    result = pwcca([values], [values[0]], [values[-1].copy()])
    assert all((result[name] == 1).all() for name in ("between", "to_first", "to_last"))


def test_no_more_examples_than_units_is_refused_unless_reduced():
    rng = np.random.default_rng(2)
    wide, narrow = rng.normal(size=(12, 2)) @ rng.normal(size=(2, 12)), rng.normal(size=(12, 3))
    result = between(wide, narrow)
    assert np.isnan(result["between"][0]).tolist() == [[True, True], [True, False]]
    assert np.isnan(result["to_last"]).all()
    assert result["n_directions"].tolist() == [[0, 3]] and result["n_undefined"].tolist() == [1]
    assert result["attrs"]["refused_at_first_snapshot"] == "1 of 2 sites: 12 examples <= 12 units"
    assert between(wide, narrow, keep=0.99)["n_directions"].tolist() == [[2, 3]]


def test_dead_units_and_the_order_of_examples_and_units_do_not_matter():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(25, 4)), rng.normal(size=(25, 3))
    plain = between(x, y)["between"]
    padded = np.concatenate([x, np.full((25, 2), 0.1)], axis=1)
    order = rng.permutation(25)
    moved = between(padded[order][:, rng.permutation(6)] + 5, 3 * y[order])["between"]
    np.testing.assert_allclose(moved, plain, rtol=1e-9)


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    whole = analyze.run(tmp_path / "run.zarr", ["pwcca"])["pwcca"]
    blocks = analyze.run(tmp_path / "run.zarr", ["pwcca"], memory=6000)["pwcca"]
    np.testing.assert_array_equal(whole["to_last"], blocks["to_last"])
    own = whole["to_first"].isel(step=0).values
    assert (own[~np.isnan(own)] == 1).all()
    figure = draw(pwcca.card.plot, whole)
    assert "each site with its last snapshot" in {axes.get_title() for axes in figure.axes}
