import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from analyze.arrays.derived import cosines
from analyze.metrics.gradients.neighbourhood_stiffness import (
    neighbour_weights,
    neighbourhood_stiffness,
    plot_neighbourhood_stiffness,
    positions,
)
from tests.oracles import neighbourhood_stiffness as slow

LAYERS = np.array(["fc", "all"])


def made(n=20, seed=0):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(2, n, 6)) + 0.5
    gradients[1, 3] = 0.0
    return gradients, rng.normal(size=(n, 4)), rng.permutation(100)[:n]


def computed(gradients, inputs, ids, **options):
    gram = gradients @ gradients.swapaxes(1, 2)
    gram = np.stack([gram * 0, gram], axis=1)
    return neighbourhood_stiffness(cosines(gram), gram, inputs, ids, LAYERS, **options)


def test_four_points_by_hand():
    inputs = np.array([[0.0], [1.0], [2.5], [10.0]])
    gradients = np.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]])
    result = computed(gradients, inputs, np.arange(4), neighbours=2)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(result["cosine"], [[half / 2, half, half / 2, -half / 2]], atol=1e-15)
    np.testing.assert_allclose(result["sign"], [[0.5, 1.0, 0.5, -0.5]])


@pytest.mark.parametrize("which", [{"k": 3}, {"k": 50}, {"radius": 1.5}])
@pytest.mark.parametrize("kernel", ["uniform", "gaussian"])
def test_agrees_with_one_example_at_a_time(which, kernel):
    gradients, inputs, ids = made()
    options = {"radius": which.get("radius"), "neighbours": which.get("k", 10), "kernel": kernel}
    result = computed(gradients, inputs, ids, **options)
    width = slow.median_distance(inputs.tolist(), ids, **which) if kernel == "gaussian" else None
    for kind in ("cosine", "sign"):
        for step, i in np.ndindex(result[kind].shape):
            rows = gradients[step].tolist()
            expected = slow.stiffness(rows, inputs.tolist(), ids, i, kind, width, **which)
            expected = np.nan if expected is None else expected
            assert result[kind][step, i] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_zero_gradient_has_no_cosine_but_sign_zero():
    gradients, inputs, ids = made()
    result = computed(gradients, inputs, ids)
    assert np.isnan(result["cosine"][1, 3]) and result["sign"][1, 3] == 0
    assert result["n_neighbours"][1, 3] == 0 and result["n_neighbours"][0, 3] == 10


def test_equally_near_examples_go_by_id_and_duplicates_are_neighbours():
    inputs = np.array([[0.0], [1.0], [-1.0], [1.0]])
    weights = neighbour_weights(inputs, np.array([9, 5, 3, 1]), 2, None, "uniform")
    np.testing.assert_array_equal(weights[0], [0, 0, 1, 1])
    np.testing.assert_array_equal(weights[1], [1, 0, 0, 1])


def test_examples_at_one_point_weigh_the_same_with_a_kernel():
    weights = neighbour_weights(np.zeros((4, 2)), np.arange(4), 2, None, "gaussian")
    assert weights.sum() == 8 and set(np.unique(weights)) == {0.0, 1.0}


def test_order_of_examples_does_not_matter():
    gradients, inputs, ids = made()
    order = np.random.default_rng(1).permutation(len(ids))
    plain, other = computed(gradients, inputs, ids), computed(gradients[:, order], inputs[order], ids[order])
    for name in ("cosine", "sign"):
        np.testing.assert_allclose(plain[name][:, order], other[name], rtol=1e-12)


def test_same_gradients_are_fully_stiff():
    _, inputs, ids = made()
    result = computed(np.ones((1, 20, 4)), inputs, ids)
    np.testing.assert_array_equal(result["cosine"], 1.0)


def test_nothing_within_the_radius_is_undefined():
    gradients, inputs, ids = made()
    result = computed(gradients, inputs, ids, radius=1e-9)
    assert np.isnan(result["cosine"]).all() and np.isnan(result["sign"]).all()


def test_unknown_kernel_is_refused():
    gradients, inputs, ids = made()
    with pytest.raises(ValueError, match="'uniform' or 'gaussian', got 'box'"):
        computed(gradients, inputs, ids, kernel="box")


def test_positions_keep_two_inputs_and_project_more():
    rng = np.random.default_rng(2)
    flat = rng.normal(size=(9, 2))
    np.testing.assert_array_equal(positions(flat)[0], flat)
    turned = flat @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    shown, share = positions(turned)
    assert share == pytest.approx(1.0)
    lengths = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (flat, shown)]
    np.testing.assert_allclose(*lengths, atol=1e-12)
    line, share = positions(np.arange(4.0)[:, None])
    np.testing.assert_allclose(line, [[-1.5, 0], [-0.5, 0], [0.5, 0], [1.5, 0]], atol=1e-12)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("neighbours", [3, 50])
def test_an_input_that_is_not_finite_is_no_neighbour(broken, neighbours):
    gradients, inputs, ids = made(8)
    inputs[2, 1] = broken
    rest = np.delete(np.arange(8), 2)
    whole = computed(gradients, inputs, ids, neighbours=neighbours)
    other = computed(gradients[:, rest], inputs[rest], ids[rest], neighbours=neighbours)
    for name in ("cosine", "sign", "n_neighbours"):
        np.testing.assert_allclose(whole[name][:, rest], other[name])
    assert np.isnan(whole["cosine"][:, 2]).all() and not whole["n_neighbours"][:, 2].any()
    assert np.isnan(whole["position"][2]).all()
    np.testing.assert_allclose(whole["position"][rest], other["position"])


def test_colours_are_fitted_to_what_is_shown():
    result = xr.Dataset(
        {
            "cosine": (("step", "example"), [[0.02, -0.05, np.nan]]),
            "position": (("example", "component"), np.eye(3, 2)),
        },
        {"step": [0]},
    )
    figure = Figure()
    plot_neighbourhood_stiffness(result, figure)
    assert figure.axes[0].collections[0].get_clim() == (-0.05, 0.05)
