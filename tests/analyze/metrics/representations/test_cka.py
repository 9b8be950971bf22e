import numpy as np
import pytest
import xarray as xr

import analyze
from analyze.metrics.representations.cka import cka, linear_cka, plot_cka
from analyze.plot import draw
from tests.oracles.cka import linear_cka as slow
from tests.oracles.cka import unbiased_cka as slow_unbiased
from tests.synthetic import write_archive


def representations(rng, steps=3, examples=12, units=(4, 30)):
    values = [rng.normal(size=(steps, examples, n)).astype(np.float32) for n in units]
    return values, [site[0].copy() for site in values], [site[-1].copy() for site in values]


def test_by_hand():
    # |Y'X|² = (1·1 + 1·1)² = 4 from a site of one unit, |X'X| = 2, |Y'Y| = |diag(2, 6)|.
    x, y = [[-1.0], [1.0], [0.0]], [[-1.0, 1.0], [1.0, 1.0], [0.0, -2.0]]
    assert linear_cka(x, y) == pytest.approx(4 / (2 * np.sqrt(4 + 36)))


def test_agrees_with_cross_covariances():
    rng = np.random.default_rng(0)
    values, first, last = representations(rng)
    result = cka(values, first, last)
    for step in range(3):
        for a in range(2):
            assert result["to_first"][step, a] == pytest.approx(
                slow(*map(np.float64, (values[a][step], first[a])))
            )
            assert result["to_last"][step, a] == pytest.approx(
                slow(*map(np.float64, (values[a][step], last[a])))
            )
            for b in range(2):
                expected = slow(values[a][step].astype(float), values[b][step].astype(float))
                assert result["between"][step, a, b] == pytest.approx(expected)


def test_unbiased_agrees_with_the_average_over_four_examples():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(7, 3))
    y = x @ rng.normal(size=(3, 2)) + 0.5 * rng.normal(size=(7, 2))
    assert linear_cka(x, y, estimator="unbiased") == pytest.approx(slow_unbiased(x, y))


def test_unbiased_is_near_zero_for_unrelated_wide_representations_and_biased_is_not():
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(size=(20, 200)), rng.normal(size=(20, 200))) for _ in range(10)]
    biased = np.mean([linear_cka(x, y) for x, y in pairs])
    unbiased = np.mean([linear_cka(x, y, estimator="unbiased") for x, y in pairs])
    assert biased > 0.8 and abs(unbiased) < 0.05


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_identical_snapshots_give_exactly_one(estimator):
    one = np.random.default_rng(3).normal(size=(1, 9, 33)).astype(np.float32)
    values = np.repeat(one, 4, axis=0)
    result = cka([values], [values[0]], [values[-1].copy()], estimator=estimator)
    assert (
        (result["to_first"] == 1).all() and (result["to_last"] == 1).all() and (result["between"] == 1).all()
    )


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_rotation_scale_shift_and_order_of_examples_do_not_matter(estimator):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(10, 5)), rng.normal(size=(10, 3))
    plain = linear_cka(x, y, estimator=estimator)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    order = rng.permutation(10)
    moved = linear_cka((1e-6 * x @ rotation + 3e-6)[order], (7 * y - 1)[order], estimator=estimator)
    assert moved == pytest.approx(plain, rel=1e-9)


def test_constant_and_broken_representations_are_undefined_and_counted():
    rng = np.random.default_rng(5)
    values, first, last = representations(rng, steps=2)
    values[1][0] = np.float32(0.1)
    values[0][1, 3, 2] = np.nan
    result = cka(values, first, last)
    assert result["n_undefined"].tolist() == [1, 1]
    assert np.isnan(result["between"][0]).tolist() == [[False, True], [True, True]]
    assert np.isnan(result["to_last"]).tolist() == [[False, True], [True, False]]
    assert result["attrs"]["refused_at_first_snapshot"] == "none"
    flat = cka([first[0][None] * 0], [first[0] * 0], last[:1])
    assert flat["attrs"]["refused_at_first_snapshot"] == "1 of 1 sites: the same for every example"


def test_too_few_examples_for_the_unbiased_estimator_and_an_unknown_one():
    assert np.isnan(linear_cka([[1.0], [2.0], [4.0]], [[1.0], [2.0], [4.0]], estimator="unbiased"))
    with pytest.raises(ValueError, match="'biased' and 'unbiased', got 'fair'"):
        linear_cka([[1.0], [2.0]], [[1.0], [2.0]], estimator="fair")


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    whole = analyze.run(tmp_path / "run.zarr", ["cka"])["cka"]
    blocks = analyze.run(tmp_path / "run.zarr", ["cka"], memory=20_000)["cka"]
    np.testing.assert_array_equal(whole["to_last"], blocks["to_last"])
    own = whole["to_first"].isel(step=0).values
    assert (own[~np.isnan(own)] == 1).all()
    figure = draw(cka.card.plot, whole)
    assert "each site with its last snapshot" in {axes.get_title() for axes in figure.axes}


def test_all_maps_share_one_scale_from_the_least_value_shown_to_1():
    sites = ["a", "b"]
    maps = {
        "between": (("step", "probe", "site", "site_2"), np.full((2, 1, 2, 2), 0.8)),
        "to_first": (("step", "probe", "site"), [[[1.0, 1.0]], [[0.9, 0.6]]]),
        "to_last": (("step", "probe", "site"), np.ones((2, 1, 2))),
    }
    figure = draw(
        plot_cka, xr.Dataset(maps, {"step": [0, 9], "site": sites, "site_2": sites, "probe": ["train"]})
    )
    drawn = [one.get_clim() for axes in figure.axes[:4] for one in (*axes.images, *axes.collections)]
    assert len(set(drawn)) == 1 and 0.5 < drawn[0][0] < 0.6 and drawn[0][1] == 1.0
