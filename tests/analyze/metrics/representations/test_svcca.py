import numpy as np
import pytest

import analyze
from analyze.metrics.representations.svcca import canonical_correlations, subspace, svcca
from analyze.plot import draw
from tests.oracles.svcca import canonical_correlations as slow
from tests.oracles.svcca import reduced
from tests.synthetic import write_archive


def low_rank(rng, examples, rank, units, noise=1e-3):
    """A representation whose variance lies in `rank` directions, most of it."""
    signal = rng.normal(size=(examples, rank)) @ rng.normal(size=(rank, units))
    return signal + noise * rng.normal(size=(examples, units))


def test_by_hand():
    # One direction each; centred (−1, 1, 0, 0) and (−1, 1, −1, 1): cosine 2 / (√2 · 2).
    x, y = np.array([[-1.0], [1], [0], [0]]), np.array([[-1.0], [1], [-1], [1]])
    result = svcca([x[None], y[None]], [x, y], [x, y])
    assert result["between"][0, 0, 1] == pytest.approx(1 / np.sqrt(2))
    assert result["n_directions"].tolist() == [[1, 1]]


@pytest.mark.parametrize("units", [6, 60])
def test_agrees_with_whitened_covariances_of_the_main_directions(units):
    rng = np.random.default_rng(0)
    x, y = low_rank(rng, 40, 4, units, noise=0.3), low_rank(rng, 40, 3, units, noise=0.3)
    result = svcca([x[None], y[None]], [x, y], [y, x], keep=0.9)
    kept = [reduced(values, 0.9) for values in (x, y)]
    assert result["n_directions"].tolist() == [[values.shape[1] for values in kept]]
    expected = slow(*kept).mean()
    np.testing.assert_allclose([result["between"][0, 1, 0], *result["to_last"][0]], [expected] * 3, rtol=1e-9)


def test_all_directions_agree_with_whitened_covariances():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 5))
    y = np.concatenate([x[:, :2] @ rng.normal(size=(2, 2)), rng.normal(size=(30, 2))], axis=1)
    got = canonical_correlations(subspace(x, None), subspace(y, None))
    np.testing.assert_allclose(got, slow(x, y), atol=1e-9)
    np.testing.assert_allclose(got[:2], 1, atol=1e-12)


@pytest.mark.parametrize("units", [3, 50])
def test_identical_snapshots_give_exactly_one(units):
    values = np.repeat(low_rank(np.random.default_rng(2), 20, 3, units)[None], 3, axis=0).astype(np.float32)
    result = svcca([values], [values[0]], [values[-1].copy()])
    assert (
        (result["between"] == 1).all() and (result["to_first"] == 1).all() and (result["to_last"] == 1).all()
    )


def test_rotation_scale_shift_and_order_of_examples_do_not_matter():
    rng = np.random.default_rng(3)
    x, y = low_rank(rng, 30, 4, 8), low_rank(rng, 30, 4, 40)
    rotation, order = np.linalg.qr(rng.normal(size=(8, 8)))[0], rng.permutation(30)
    plain = svcca([x[None], y[None]], [x, y], [x, y])["between"]
    x, y = (5 * x @ rotation + 2)[order], y[order]
    np.testing.assert_allclose(svcca([x[None], y[None]], [x, y], [x, y])["between"], plain, rtol=1e-9)


def test_directions_that_fill_the_space_of_the_examples_are_refused():
    rng = np.random.default_rng(4)
    full, narrow = rng.normal(size=(10, 300)), rng.normal(size=(10, 2))
    result = svcca([full[None], narrow[None]], [full, narrow], [full, narrow], keep=1.0)
    assert np.isnan(result["between"][0]).tolist() == [[True, True], [True, False]]
    assert result["n_directions"].tolist() == [[0, 2]] and result["n_undefined"].tolist() == [1]
    assert "9 directions fill the space of 10 examples" in subspace(full, 1.0).refused


@pytest.mark.parametrize("keep", [0, 1.5])
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        subspace(np.eye(4), keep)


def test_constant_and_broken_representations_are_refused():
    constant, broken = np.full((6, 2), 0.1), np.full((6, 2), np.inf)
    assert subspace(constant, 0.99).refused == "the same for every example"
    assert subspace(broken, 0.99).refused == "not finite"
    result = svcca([constant[None], broken[None]], [constant, broken], [constant, broken])
    assert np.isnan(result["between"]).all() and result["n_undefined"].tolist() == [2]


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    whole = analyze.run(tmp_path / "run.zarr", ["svcca"])["svcca"]
    blocks = analyze.run(tmp_path / "run.zarr", ["svcca"], memory=6000)["svcca"]
    np.testing.assert_array_equal(whole["to_last"], blocks["to_last"])
    own = whole["to_first"].isel(step=0).values
    assert (own[~np.isnan(own)] == 1).all()
    figure = draw(svcca.card.plot, whole)
    assert "each site with its last snapshot" in {axes.get_title() for axes in figure.axes}
