import numpy as np
import pytest

import analyze
from analyze.arrays.classes import class_scores
from analyze.metrics.examples.el2n import el2n
from analyze.plot import draw
from tests.oracles.el2n import el2n as slow
from tests.synthetic import write_archive
from tracer.errors import MissingTraceError


def test_by_hand():
    # Probabilities 3/4 and 1/4.
    outputs = np.log([[[3.0, 1.0], [3.0, 1.0]]])
    result = el2n(outputs, [0, 1])
    np.testing.assert_allclose(result["score"], [[np.sqrt(2) / 4, 3 * np.sqrt(2) / 4]])
    assert result["mean"].item() == pytest.approx(np.sqrt(2) / 2)
    assert result["std"].item() == pytest.approx(np.sqrt(2) / 4) and result["n_undefined"].item() == 0


def test_agrees_with_one_example_at_a_time():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(0, 3, size=(3, 6, 4)), rng.integers(0, 4, 6)
    expected = [[slow(row, label) for row, label in zip(rows, labels, strict=True)] for rows in outputs]
    np.testing.assert_allclose(el2n(outputs, labels)["score"], expected, rtol=1e-12)


def test_extremes_do_not_overflow():
    outputs = np.array([[[1e5, 0.0], [0.0, 1e5]]], np.float32)
    np.testing.assert_allclose(el2n(outputs, [0, 0])["score"], [[0, np.sqrt(2)]])


def test_one_output_is_the_logit_of_class_one():
    outputs = np.array([[[0.7], [-2.0]]])
    two = np.concatenate([np.zeros_like(outputs), outputs], axis=-1)
    for alone in (outputs, outputs[..., 0]):
        scores = class_scores(alone, np.array([1, 0]))
        np.testing.assert_array_equal(el2n(scores, [1, 0])["score"], el2n(two, [1, 0])["score"])


def test_undefined_cases_are_counted_and_left_out_of_the_mean():
    outputs = np.array([[[0.0, 0.0], [np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0]]])
    result = el2n(outputs, [0, 0, 0, -100])
    assert np.isnan(result["score"][0]).tolist() == [False, True, True, True]
    assert result["n_undefined"].item() == 3 and result["mean"].item() == pytest.approx(np.sqrt(0.5))


def test_relabelling_classes_and_permuting_examples():
    rng = np.random.default_rng(1)
    outputs, labels = rng.normal(size=(2, 8, 3)), rng.integers(0, 3, 8)
    classes, order = np.array([2, 0, 1]), rng.permutation(8)
    plain = el2n(outputs, labels)["score"]
    renamed = el2n(outputs[..., np.argsort(classes)], classes[labels])["score"]
    np.testing.assert_allclose(plain, renamed, rtol=1e-12)
    np.testing.assert_array_equal(plain[:, order], el2n(outputs[:, order], labels[order])["score"])


def test_outputs_that_are_no_class_scores_are_refused():
    with pytest.raises(MissingTraceError, match="several answers"):
        class_scores(np.zeros((1, 2, 3, 4)), np.zeros((2, 4), int))


def test_through_the_engine_and_as_a_figure(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    result = analyze.run(tmp_path / "run.zarr", ["el2n"])["el2n"]
    figure = draw(el2n.card.plot, result)
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert {"EL2N", "examples"} <= labels
