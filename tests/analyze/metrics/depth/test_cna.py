import numpy as np
import pytest

import analyze
from analyze.metrics.depth.cna import cna
from tests.oracles.cna import cna as slow
from tests.synthetic import write_archive


def test_three_examples_by_hand():
    result = cna(np.array([[1.0, 2.0, 0.0]]), np.array([1.0, 2.0, 3.0]), np.array([3.0, 3.0, 4.0]))
    np.testing.assert_allclose(result["pearson"], [-0.5])
    np.testing.assert_allclose(result["spearman"], [-0.5])
    assert result["n_examples"].tolist() == [3] and np.isnan(result["loss"]).all()


def test_agrees_with_the_definition_on_an_archive(tmp_path):
    write_archive(tmp_path / "run.zarr", probes={"train": 16, "test": 12})
    results = analyze.run(tmp_path / "run.zarr", ["cna", "complexity", "depth_slope", "generalization"])
    result, alpha, beta = results["cna"], results["complexity"]["entropy"], results["depth_slope"]["slope"]
    for probe in ("train", "test"):
        rows = beta["probe"].values == probe
        for step in result["step"].values:
            expected = slow(alpha.values[rows].tolist(), beta.sel(step=step).values[rows].tolist())
            np.testing.assert_allclose(result["pearson"].sel(step=step, probe=probe), expected, rtol=1e-9)
    np.testing.assert_array_equal(result["loss"], results["generalization"]["loss"])


@pytest.mark.parametrize(
    ("slope", "alpha"),
    [([1.0, 1.0, 1.0], [1, 2, 3]), ([1.0, 2.0, 3.0], [0.1] * 3), ([1.0, np.nan, np.nan], [1, 2, 3])],
)
def test_no_variation_is_undefined(slope, alpha):
    result = cna(np.array([slope]), np.array(alpha, float), np.array(alpha, float))
    assert np.isnan(result["pearson"]).all() and np.isnan(result["spearman"]).all()


def test_undefined_examples_are_left_out_and_counted():
    slope = np.array([[1.0, 2.0, np.nan, 5.0]])
    alpha = np.array([2.0, 1.0, 9.0, 0.0])
    result, kept = cna(slope, alpha, alpha), [0, 1, 3]
    np.testing.assert_allclose(result["pearson"], cna(slope[:, kept], alpha[kept], alpha[kept])["pearson"])
    assert result["n_examples"].tolist() == [3]


def test_affine_changes_of_either_side_do_not_matter():
    rng = np.random.default_rng(0)
    slope, alpha = rng.normal(size=(2, 9)), rng.random(9)
    expected = cna(slope, alpha, alpha)["pearson"]
    np.testing.assert_allclose(cna(3 * slope - 1, alpha / 7 + 2, alpha)["pearson"], expected, rtol=1e-12)
    np.testing.assert_allclose(cna(-slope, alpha, alpha)["pearson"], -expected, rtol=1e-12)


def test_compression_can_take_the_place_of_entropy():
    rng = np.random.default_rng(1)
    slope, entropy, ratio = rng.normal(size=(1, 9)), rng.random(9), rng.random(9)
    chosen = cna(slope, entropy, ratio, alpha="compression")
    np.testing.assert_array_equal(chosen["pearson"], cna(slope, ratio, ratio)["pearson"])
    assert chosen["attrs"] == {"alpha": "compression"}
