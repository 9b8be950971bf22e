import numpy as np
import pytest

import analyze
import tracer
from analyze.arrays import View
from analyze.metrics.gradients import gsnr as module
from analyze.metrics.gradients.gsnr import gsnr, of_factors, signal_to_noise
from analyze.plot import draw
from tests.oracles.gsnr import gsnr as slow
from tests.synthetic import write_archive

LAYERS = {"conv": ["conv.weight", "conv.bias"], "fc": ["fc.weight"]}


def gradients(rng, steps=2, examples=6):
    shapes = {"conv.weight": (2, 3), "conv.bias": (2,), "fc.weight": (4, 2)}
    return [
        {name: rng.normal(1, 2, size=(examples, *shape)).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(steps)
    ]


def test_by_hand():
    # Means 2 and 0, variances 1 and 4; the third does not vary.
    ratio = signal_to_noise([[1.0, -2.0, 5.0], [3.0, 2.0, 5.0]])
    np.testing.assert_array_equal(ratio, [4, 0, np.nan])
    result = gsnr([{"w": [[1.0, -2.0, 5.0], [3.0, 2.0, 5.0]]}], {"fc": ["w"]})
    assert result["median"].tolist() == [[2, 2]] and result["mean"].tolist() == [[2, 2]]
    assert result["lower"].tolist() == [[1, 1]] and result["upper"].tolist() == [[3, 3]]
    assert result["n_undefined"].tolist() == [[1, 1]] and result["n_parameters"].tolist() == [[3, 3]]


def test_agrees_with_one_parameter_at_a_time(monkeypatch):
    monkeypatch.setattr(module, "COLUMNS", 3)
    steps = gradients(np.random.default_rng(0))
    result = gsnr(steps, LAYERS)
    for step, tensors in enumerate(steps):
        flat = {name: values.reshape(len(values), -1) for name, values in tensors.items()}
        conv = slow(np.concatenate([flat["conv.weight"], flat["conv.bias"]], axis=1))
        fc = slow(flat["fc.weight"])
        expected = [np.median(conv), np.median(fc), np.median(conv + fc)]
        np.testing.assert_allclose(result["median"][step], expected, rtol=1e-12)
        np.testing.assert_allclose(
            result["mean"][step], [np.mean(conv), np.mean(fc), np.mean(conv + fc)], rtol=1e-12
        )


def test_a_constant_gradient_has_no_ratio_although_its_variance_rounds():
    constant = np.full((7, 3), np.float32(0.1))
    result = gsnr([{"w": constant}], {"fc": ["w"]})
    assert np.isnan(result["median"]).all() and result["n_undefined"].tolist() == [[3, 3]]


def test_one_example_and_gradients_that_are_not_finite_are_undefined():
    assert np.isnan(signal_to_noise([[1.0, 2.0]])).all()
    assert np.isnan(signal_to_noise([[np.inf, 1.0], [2.0, 3.0]])).tolist() == [True, False]


def test_layers_without_recorded_gradients_are_undefined():
    result = gsnr([{"w": [[1.0], [2.0]]}], {"lstm": ["lstm.weight"], "fc": ["w"]})
    assert np.isnan(result["median"][0]).tolist() == [True, False, False]
    assert result["n_parameters"].tolist() == [[0, 1, 1]]


def test_order_of_examples_and_scale_of_the_loss_do_not_matter():
    rng = np.random.default_rng(1)
    steps = gradients(rng, steps=1)
    order = rng.permutation(6)
    mixed = [{name: 8 * values[order] for name, values in tensors.items()} for tensors in steps]
    plain, changed = gsnr(steps, LAYERS), gsnr(mixed, LAYERS)
    for name in ("median", "lower", "upper", "mean"):
        np.testing.assert_allclose(plain[name], changed[name], rtol=1e-12)


def test_gradients_may_be_consumed_step_by_step():
    steps = gradients(np.random.default_rng(2), steps=3)
    np.testing.assert_array_equal(gsnr(iter(steps), LAYERS)["median"], gsnr(steps, LAYERS)["median"])
    assert gsnr([], LAYERS)["median"].shape == (0, 3)


def test_large_mean_small_variance_keeps_its_digits():
    ratio = signal_to_noise(np.array([[1e4], [1e4 + 1]], np.float32))
    assert ratio.item() == pytest.approx(10000.5**2 / 0.25, rel=1e-12)


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["gsnr"])["gsnr"]
    figure = draw(gsnr.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"signal-to-noise ratio", "step"} <= labels


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5, 1e-9, 0.0])
def test_factors_give_what_the_gradients_give_in_float64(spread):
    rng = np.random.default_rng(3)
    a, z = rng.normal(1, 1, (9, 5)), rng.normal(1, 1, (9, 4))
    a[:], z[:] = a[:1] + spread * (a - a[:1]), z[:1] + spread * (z - z[:1])
    a, z = a.astype(np.float32), z.astype(np.float32)
    z[:, 1], a[:, 2], z[4, 3] = 0.0, 0.0, np.nan  # a dead unit, an input that is always 0, and no number
    rows = z[:, :, None].astype(np.float64) * a[:, None, :].astype(np.float64)
    expected = signal_to_noise(rows)
    np.testing.assert_allclose(of_factors(a, z), expected, rtol=2e-9)
    assert np.isnan(expected).sum() >= 5 + 3 + 4


def test_stored_factors_are_used_and_agree_with_rebuilt_gradients(everything):
    archive = tracer.open(everything)
    view = View(archive, ("train",), (9,), steps=(3,))
    gradients = view.get("gradients")[0]
    names = [name for name in gradients if gradients.linear_factors(name) is not None]
    assert sorted(names) == ["0.weight", "2.weight", "4.weight"]
    for name in names:
        found, expected = of_factors(*gradients.linear_factors(name)), signal_to_noise(gradients[name])
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-3)
