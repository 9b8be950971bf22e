import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import analyze
from analyze.metrics.outcome.generalization import generalization, plot_generalization
from tests.oracles.generalization import generalization as slow
from tests.synthetic import write_archive
from tracer.archive import open as open_archive

PROBE = np.array(["train"] * 3 + ["test"] * 2)


def test_two_probes_by_hand():
    losses = np.array([[1.0, 2.0, 3.0, 5.0, 7.0]])
    correct = np.array([[1.0, 1.0, 0.0, 0.0, 0.0]])
    result = generalization(losses, PROBE, PROBE, correct=correct)
    assert result["probe"] == ["train", "test"]
    np.testing.assert_allclose(result["loss"], [[2.0, 6.0]])
    np.testing.assert_allclose(result["error"], [[1 / 3, 1.0]])
    np.testing.assert_allclose([result["gap_loss"], result["gap_error"]], [[4.0], [2 / 3]])
    assert result["n_examples"].tolist() == [3, 2]
    np.testing.assert_allclose(result["loss_error"], [[1 / np.sqrt(3), 1.0]])


def test_agrees_with_lists_on_an_archive(tmp_path):
    write_archive(tmp_path / "run.zarr")
    result, archive = analyze.run(tmp_path / "run.zarr", ["generalization"])["generalization"], None
    archive = open_archive(tmp_path / "run.zarr")
    for name, probe in archive.probes.items():
        for step in result["step"].values:
            expected = slow(probe.losses(step).tolist(), probe.outputs(step).tolist(), probe.targets.tolist())
            at = result.sel(step=step, probe=name)
            np.testing.assert_allclose([at["loss"], at["error"], at["guessing_error"]], expected, rtol=1e-12)


def test_undefined_losses_are_left_out_and_counted():
    losses = np.array([[1.0, np.nan, 3.0, np.nan, np.nan]])
    result = generalization(losses, PROBE, PROBE)
    np.testing.assert_array_equal(result["loss"], [[2.0, np.nan]])
    assert result["n_undefined"].tolist() == [[1, 2]]
    assert np.isnan(result["error"]).all() and np.isnan(result["gap_loss"]).all()


def test_guessing_is_held_against_the_labels_that_answers_are_known_of():
    labels, correct = np.array([0, 0, 1, 1, 2]), np.array([[1.0, np.nan, 1.0, 0.0, 0.0]] * 2)
    correct[1] = np.nan
    result = generalization(np.ones((2, 5)), PROBE, PROBE, correct=correct, labels=labels)
    np.testing.assert_allclose(result["guessing_error"], [[0.5, 0.5], [np.nan, np.nan]])
    assert result["n_classified"].tolist() == [[2, 2], [0, 0]]
    assert np.isnan(generalization(np.ones((2, 5)), PROBE, PROBE, correct=correct)["guessing_error"]).all()


@pytest.mark.parametrize(("against", "gap"), [("val", 4.0), ("test", np.nan)])
def test_gap_needs_both_splits(against, gap):
    split = np.where(PROBE == "test", "val", "train")
    losses = np.array([[1.0, 2.0, 3.0, 5.0, 7.0]])
    result = generalization(losses, PROBE, split, against=against)
    np.testing.assert_array_equal(result["gap_loss"], [gap])
    assert result["attrs"] == {"against": against, "formula": f"gap = {against} - train"}


def test_doubling_every_example_changes_nothing():
    losses = np.random.default_rng(0).random((2, 5))
    once, twice = (generalization(np.tile(losses, k), np.tile(PROBE, k), np.tile(PROBE, k)) for k in (1, 2))
    np.testing.assert_allclose(once["loss"], twice["loss"])


@pytest.mark.parametrize(("correct", "titles"), [(None, 2), (np.ones((1, 5)), 3)])
def test_what_is_no_classifier_has_no_panel_of_errors(correct, titles):
    made = generalization(np.ones((1, 5)), PROBE, PROBE, correct=correct)
    names = {name: (dims, made[name]) for name, dims in generalization.card.variables.items()}
    figure = Figure()
    plot_generalization(xr.Dataset(names, {"probe": made["probe"], "step": [0]}), figure)
    assert len(figure.axes) == titles
