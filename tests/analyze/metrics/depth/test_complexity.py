import math
import zlib

import numpy as np
import pytest

from analyze.metrics.depth.complexity import complexity
from tests.oracles.complexity import entropy


def test_two_levels_are_one_bit_and_one_level_none():
    inputs = np.array([[0.0, 1.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.1, 0.2, 1.0]])
    result = complexity(inputs)
    np.testing.assert_allclose(result["entropy"], [1.0, 0.0, 2.0])
    assert result["attrs"]["range"] == "0 to 1" and result["attrs"]["source"] == "inputs"


@pytest.mark.parametrize("bins", [7, 1000])
def test_agrees_with_counting_value_by_value(bins):
    inputs = np.random.default_rng(0).normal(size=(6, 2, 5, 5))
    result = complexity(inputs, bins=bins)
    low, high = inputs.min(), inputs.max()
    expected = [entropy(row.ravel().tolist(), low, high, bins) for row in inputs]
    np.testing.assert_allclose(result["entropy"], expected, rtol=1e-12)
    assert result["attrs"]["range"] == f"{low:g} to {high:g}"


def test_each_of_256_levels_has_its_own_bin():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for raw in (pixels, pixels / 255, (pixels / 255).astype(np.float32)):
        assert complexity(np.zeros((1, 16, 16)), raw=raw)["entropy"].item() == 8.0


def test_raw_comes_before_inputs():
    raw = np.random.default_rng(1).random((3, 8))
    first, second = complexity(raw), complexity(10 * raw - 4, raw=raw)
    np.testing.assert_array_equal(first["entropy"], second["entropy"])
    np.testing.assert_array_equal(first["compression"], second["compression"])
    assert second["attrs"]["source"] == "raw"


def test_compression_is_that_of_the_bytes():
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 9, 9), dtype=np.uint8)
    result = complexity(pixels, level=6)
    expected = [len(zlib.compress(image.tobytes(), 6)) / image.size for image in pixels]
    np.testing.assert_array_equal(result["compression"], expected)
    np.testing.assert_array_equal(complexity(pixels / 255, level=6)["compression"], expected)


def test_png_compresses_a_gradient_image_better_than_noise():
    noise = np.random.default_rng(3).integers(0, 256, (16, 16), dtype=np.uint8)
    ramp = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    result = complexity(np.stack([noise, ramp])[:, None], codec="png")
    assert result["compression"][1] < result["compression"][0]
    colour = complexity(np.repeat(noise[None, None], 3, axis=1), codec="png")
    assert np.isfinite(colour["compression"]).all()
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4\); use zlib"):
        complexity(np.zeros((1, 2, 4, 4)), codec="png")
    with pytest.raises(ValueError, match="'zlib' or 'png'"):
        complexity(np.zeros((1, 4)), codec="lzma")


def test_values_that_are_not_finite_are_undefined():
    result = complexity(np.array([[0.0, np.nan], [0.0, np.inf], [0.0, 1.0]]))
    assert [math.isnan(value) for value in result["entropy"]] == [True, True, False]
    assert np.isnan(result["compression"][:2]).all()
    assert (complexity(np.full((2, 3), 7.0))["entropy"] == 0).all()


def test_order_of_pixels_does_not_change_the_entropy():
    rng = np.random.default_rng(4)
    inputs = rng.random((3, 50))
    shuffled = inputs[:, rng.permutation(50)]
    np.testing.assert_array_equal(complexity(inputs)["entropy"], complexity(shuffled)["entropy"])
