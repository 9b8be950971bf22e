import numpy as np
import pytest

from analyze.arrays import View, closure
from analyze.arrays.classes import class_labels, class_margins, class_scores, classes_in, correct_share
from analyze.arrays.derived import cosines
from analyze.engine.plan import make_plan
from analyze.metrics.gradients.stiffness import stiffness
from tests.fake_archive import fake_archive
from tracer.errors import MissingTraceError

PROBES, COUNTS = ("train", "test"), (9, 5)


@pytest.fixture
def archive():
    return fake_archive()


@pytest.fixture
def view(archive):
    return View(archive, PROBES, COUNTS, steps=(1, 2), lead=0)


def mask(archive, site, step):
    """Mask (example, unit) of the view's examples, as recorded."""
    parts = zip(PROBES, COUNTS, strict=True)
    return np.concatenate([archive.probes[name].masks[site, step][:count] for name, count in parts]).astype(
        int
    )


def test_path_counts_and_overlaps_join_probes_of_odd_sizes(archive, view):
    for position, (step, before) in enumerate(((1, 0), (2, 1))):
        for s, site in enumerate(("relu", "relu#2")):
            now, then = mask(archive, site, step), mask(archive, site, before)
            expected = {
                "path_count": now.sum(1),
                "path_count_previous": then.sum(1),
                "path_common": (now * then).sum(1),
                "overlap": now @ now.T,
                "overlap_previous": then @ then.T,
                "overlap_joint": (now * then) @ (now * then).T,
            }
            for name, values in expected.items():
                np.testing.assert_array_equal(view.get(name)[position, s], values, err_msg=name)


def test_counts_are_the_diagonals_of_overlaps_made_already(archive, view):
    other = View(archive, PROBES, COUNTS, steps=(1, 2), lead=0)
    for count, gram in (("path_count", "overlap"), ("path_common", "overlap_joint")):
        counted = view.get(count)
        other.get(gram)
        np.testing.assert_array_equal(other.get(count), counted)
        assert counted.dtype == other.get(count).dtype == np.int64


def test_unit_count_leaves_out_examples_beyond_the_view(archive, view):
    both = np.concatenate([mask(archive, site, 1).sum(0) for site in ("relu", "relu#2")])
    np.testing.assert_array_equal(view.get("unit_count")[0], both)


def test_first_snapshot_has_no_path_before_it(archive):
    view = View(archive, PROBES, COUNTS, steps=(0, 1))
    assert not view.get("overlap_previous")[0].any() and not view.get("path_common")[0].any()
    np.testing.assert_array_equal(view.get("overlap_previous")[1], view.get("overlap")[0])


def test_some_sites_alone(archive, view):
    alone = View(archive, PROBES, COUNTS, steps=(1, 2), lead=0, sites=(1,))
    np.testing.assert_array_equal(alone.get("overlap_joint"), view.get("overlap_joint")[:, 1:])
    assert alone.get("site").tolist() == ["relu#2"] and view.get("site").tolist() == ["relu", "relu#2"]


def test_gram_follows_the_order_of_the_view(archive, view):
    stored = archive.gram(2)  # the test probe comes first there
    rows = np.r_[5 + np.arange(9), np.arange(5)]
    np.testing.assert_array_equal(view.get("gram")[1, 0], stored[0][np.ix_(rows, rows)])
    np.testing.assert_allclose(view.get("gram")[1, 2], stored.sum(0)[np.ix_(rows, rows)])
    np.testing.assert_array_equal(view.get("norms2")[0], np.diagonal(view.get("gram")[0], axis1=1, axis2=2))


def test_plan_puts_train_first_and_takes_the_smallest_capture(archive):
    plan = make_plan(stiffness.card, {}, archive, {})
    assert plan.views == ((("train", "test"), (11, 5)),) and plan.steps == (0, 1, 2, 3)


def test_views_hand_out_arrays_that_cannot_be_written(view):
    with pytest.raises(ValueError, match="read-only"):
        view.get("cosine")[0] = 0
    with pytest.raises(MissingTraceError, match="no array is called 'grams'; did you mean 'gram'"):
        view.get("grams")
    assert {source.name for source in closure(["overlap_previous"])} >= {"bits", "overlap", "site_slices"}


def test_cosine_of_tiny_gradients_does_not_underflow():
    g = np.array([[1e-160, 0.0], [1e-160, 1e-160], [0.0, 0.0]])
    value = cosines(g @ g.T)
    np.testing.assert_allclose(value[0, 1], np.sqrt(0.5), rtol=1e-6)
    assert np.isnan(value[2]).all()


def test_labels_of_every_kind():
    assert class_labels(np.array([2, 0])).tolist() == [2, 0]
    assert class_labels(np.array([[1.0], [0.0]])).tolist() == [1, 0]
    assert class_labels(np.array([[0.1, 0.9]])).tolist() == [1]
    for targets in (np.array([0.5, 1.5]), np.array([[2.0, 3.0]])):
        with pytest.raises(MissingTraceError, match="are not classes"):
            class_labels(targets)


def test_where_the_loss_leaves_out_all_there_is_no_class():
    assert classes_in(np.array([3, -100])).tolist() == [3]
    with pytest.raises(MissingTraceError, match="the loss leaves out every example"):
        classes_in(np.array([-100, -100]))


def test_margin_of_one_output_and_of_foreign_labels():
    labels = np.array([1, 0])
    alone = class_scores(np.array([[[3.0], [3.0]]]), labels)
    np.testing.assert_array_equal(class_margins(alone, labels), [[3.0, -3.0]])
    scores = np.array([[[1.0, np.nan], [1.0, 2.0], [4.0, 1.0]]])
    np.testing.assert_array_equal(class_margins(scores, np.array([0, -100, 0])), [[np.nan, np.nan, 3.0]])


def test_correct_of_images_sequences_and_broken_outputs():
    scores = np.array([[[1.0, 1.0], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, 0.0]]])
    np.testing.assert_array_equal(correct_share(scores, np.array([0, 0, 0, 0])), [[1.0, np.nan, np.nan, 0.0]])
    tokens = np.zeros((1, 1, 3, 4))
    tokens[0, 0, :, 2] = 1.0  # (step, example, position, class): class 2 everywhere
    np.testing.assert_allclose(correct_share(tokens, np.array([[2, 1, -100]])), [[0.5]])
    pixels = np.moveaxis(tokens, 3, 2)  # (step, example, class, position)
    np.testing.assert_allclose(correct_share(pixels, np.array([[2, 2, 2]])), [[1.0]])
    with pytest.raises(MissingTraceError, match="are not classes of outputs"):
        correct_share(tokens, np.array([[2, 1]]))
