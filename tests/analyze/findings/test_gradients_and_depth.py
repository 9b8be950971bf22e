"""Findings of gradients and paths: no claim that chance, undefined values or the spacing of snapshots would make."""

import re

import numpy as np
import pytest
import xarray as xr

from analyze.findings import evidence, findings, intervals
from analyze.findings.intervals import FEWEST, Interval
from tests.analyze.findings import made

LABELS = np.repeat(np.arange(made.CLASSES), 10)


def said(results):
    return {one.name: one for one in findings(results)}


def axis(n, dim=20):
    return np.broadcast_to(np.eye(dim)[0], (n, dim))


@pytest.mark.parametrize("n", [5, 16, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 8))])
def test_few_examples_on_one_side_by_chance_are_no_claim(n):
    rng = np.random.default_rng(n)
    for _ in range(10):
        # Gradients along one line, either way, as of one output: the mean cosine of all there might be is 0.
        few = rng.choice([-1.0, 1.0], (n, 1)) * axis(n) + 0.02 * rng.normal(size=(n, 20))
        many = axis(40) + 0.3 * rng.normal(size=(40, 20))
        alone = said(made.gradients(few)).get("stiffness")
        assert alone is None or not alone.intervals["cosine"].excludes(0)
        cross = said(made.gradients(many, test=few))["stiffness"].intervals
        assert not any(cross[name].excludes(0) for name in ("train_test", "less") if name in cross)
        assert n >= FEWEST or (alone is None and "train_test" not in cross)


def test_as_many_gradients_one_way_as_the_other_do_not_oppose_each_other():
    rng = np.random.default_rng(10)
    vectors = np.repeat([[1.0], [-1.0]], 8, axis=0) * axis(16) + 0.02 * rng.normal(size=(16, 20))
    found = said(made.gradients(vectors))["stiffness"]
    assert (
        found.values["cosine"] < -0.06 and found.kind == "no difference" and "neither agree" in found.sentence
    )


def test_the_error_of_sketches_is_part_of_the_interval():
    results = made.gradients(np.random.default_rng(11).normal(size=(40, 6)) + 1.0)
    exact = said(results)["stiffness"]
    stiffness = results["stiffness"]
    stiffness["cosine_sketch_error"] = 0 * stiffness["cosine"] + 1.0
    sketched = said(results)["stiffness"]
    assert exact.intervals["cosine"].excludes(0) and not sketched.intervals["cosine"].excludes(0)
    assert "Gradients were sketched" in sketched.sentence and "sketched" not in exact.sentence


@pytest.mark.parametrize("per_class", [5, 16, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 8))])
def test_no_pair_of_classes_agrees_for_certain_by_chance(per_class):
    rng = np.random.default_rng(per_class)
    labels = np.repeat(np.arange(8), per_class)
    for _ in range(8):
        found = said(made.gradients(rng.normal(size=(len(labels), 2)), labels)).get("class_stiffness")
        assert found is None or (found.kind == "no difference" and "one by one" not in found.sentence)


def test_of_few_examples_of_a_class_no_cell_is_told_though_all_agree():
    rng = np.random.default_rng(0)
    centres = np.eye(made.CLASSES) + 1.0
    for size, told in ((5, False), (16, True)):
        labels = np.repeat(np.arange(made.CLASSES), size)
        results = made.gradients(made.of_classes(rng, labels, centres, 0.01), labels)
        sentence = said(results)["class_stiffness"].sentence
        assert ("one by one" in sentence) is told
    assert "over 16 and 16 examples" in sentence


def test_the_side_with_few_examples_decides_what_is_told_of_train_and_test():
    rng = np.random.default_rng(1)
    train = rng.normal(size=(60, 6)) + 1.0
    for n in (4, 30):
        found = said(made.gradients(train, test=rng.normal(size=(n, 6)) + 1.0))["stiffness"]
        assert ("train_test" in found.intervals) is (n >= FEWEST)
    assert "over pairs with 30 test examples" in found.sentence


@pytest.mark.parametrize("runs", [7, pytest.param(20, marks=pytest.mark.slow)])
def test_shares_of_pairs_that_are_all_alike_have_an_interval(runs):
    rng = np.random.default_rng(2)
    misses = 0
    for n in (13, 20, 40):
        for _ in range(runs):
            # One example in 40 opposes all others: 95 % of the pairs help.
            odd = np.where(rng.random((n, 1)) < 0.025, -1.0, 1.0)
            found = said(made.gradients(odd * axis(n) + 0.05 * rng.normal(size=(n, 20))))["stiffness"]
            helps, harms = (found.intervals[name] for name in ("pairs that help", "pairs that harm"))
            misses += not helps.low <= 0.95 <= helps.high
            assert 0 <= helps.low < helps.high <= 1 and 0 <= harms.low < harms.high <= 1
            assert helps.value < 1 or "balance of both kinds" not in found.sentence
    assert misses == 0


def test_a_share_of_0_is_no_part_of_a_balance():
    rng = np.random.default_rng(3)
    vectors = np.eye(40) + 0.001 * rng.random((40, 40))
    vectors[0] += rng.normal(size=40)
    results = made.gradients(vectors)
    results["stiffness"]["cosine_error"][:] = 1.0
    results["stiffness"]["sign"][:] = 1.0
    found = said(results)["stiffness"]
    assert "neither agree" in found.sentence and found.intervals["pairs that harm"].value == 0.0
    assert "balance" not in found.sentence and " A step on one example lowers" in found.sentence


@pytest.mark.parametrize("left_out", [0.0, np.nan])
def test_examples_without_a_gradient_are_counted_apart(left_out):
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(64, 5)) + 1.0
    whole = said(made.gradients(vectors[:44]))["stiffness"]
    vectors[44:] = left_out
    found = said(made.gradients(vectors))["stiffness"]
    assert found.n == 44 and found.intervals["pairs that help"] == whole.intervals["pairs that help"]
    assert found.intervals["cosine"].high == pytest.approx(whole.intervals["cosine"].high)
    why = "the gradients of 20 are undefined" if np.isnan(left_out) else "20 had no gradient to follow"
    assert f"; {why}." in found.sentence
    shares = [float(share) for share in re.findall(r"([−\d.]+)%", found.sentence.replace("−", "-"))]
    assert len(shares) == 6 and all(0 <= share <= 100 for share in shares)
    assert abs(shares[0] + shares[3] - 100) <= 1


@pytest.mark.parametrize("left_out", [0.0, np.nan])
def test_classes_count_the_examples_with_a_gradient(left_out):
    rng = np.random.default_rng(5)
    vectors = made.of_classes(rng, LABELS, np.eye(made.CLASSES) + 1.0, 0.01)
    vectors[::2] = left_out  # leaves five of a class
    found = said(made.gradients(vectors, LABELS))["class_stiffness"]
    assert found.n == 25 and "one by one" not in found.sentence


def test_where_training_ends_without_gradients_the_last_step_that_had_them_is_told():
    rng = np.random.default_rng(6)
    start = rng.normal(size=(30, 4)) + 1.0
    found = said(made.gradients(np.zeros((30, 4)), start=start))["stiffness"]
    assert found.sentence.startswith("At step 0 ") and found.n == 30
    assert "At step 100 no two training examples have a gradient to follow." in found.sentence
    seven = np.where(np.arange(30)[:, None] < 7, start, 0.0)
    text = said(made.gradients(seven, start=start))["stiffness"].sentence
    assert "At step 100 only 7 of 30 training examples have a gradient to follow." in text
    broken = said(made.gradients(start * np.nan, start=start))["stiffness"].sentence
    assert "to follow" not in broken


def test_classes_at_one_snapshot_are_apart_by_their_labels_alone():
    vectors = made.of_classes(np.random.default_rng(7), LABELS, np.eye(made.CLASSES) - 0.25, 0.1)
    results = made.gradients(vectors, LABELS, start=vectors)
    first, last = ({"class_stiffness": results["class_stiffness"].isel(step=[k])} for k in (0, -1))
    at_start = said(first)["class_stiffness"]
    assert at_start.kind == "no difference" and "Labels alone set them apart" in at_start.sentence
    later = said(last)["class_stiffness"]
    assert later.kind == "no difference" and "Labels alone may set them apart" in later.sentence


def paths(steps, similarity, **attrs):
    """`path_self_similarity` of 60 examples at one site, with this mean at each step."""
    rng = np.random.default_rng(8)
    values = np.clip(
        np.asarray(similarity)[:, None, None] + 0.02 * rng.normal(size=(len(steps), 1, 60)), 0, 1
    )
    coords = {"step": steps, "site": ["a"], "example": range(60)}
    data = xr.Dataset({"similarity": (("step", "site", "example"), values)}, coords, attrs)
    return said({"path_self_similarity": data}).get("path_self_similarity")


def test_comparisons_over_unlike_times_are_not_held_against_each_other():
    assert paths([0, 100, 200, 300, 400, 405], [np.nan, 0.8, 0.8, 0.8, 0.8, 0.95]) is None
    assert paths([0, 1, 2, 4, 8, 16, 32], [np.nan, 0.9, 0.95, 0.8, 0.7, 0.6, 0.5]) is None
    assert paths([0, 5], [np.nan, 0.9]) is None
    settling = paths([0, 100, 200, 300, 400, 405], [np.nan, 0.6, 0.7, 0.8, 0.9, 0.99]).sentence
    assert "with its own 100 updates before went from 0.60 (step 100) to 0.9" in settling
    assert "(step 400)" in settling and "settle" in settling
    restless = paths([0, 16, 32, 48], [np.nan, 0.9, 0.8, 0.7]).sentence
    assert "own 16 updates before" in restless and "grow more restless" in restless


def test_the_last_snapshot_compared_with_itself_is_not_told_as_settling():
    values = [0.3, 0.5, 0.8, 1.0]
    assert paths([0, 10, 20, 30], values, against="last") is None
    assert paths([0, 10, 20, 30], values, against="previous") is not None


def test_paths_that_no_example_changes_have_an_interval():
    found = paths([0, 10, 20], [np.nan, 0.5, 9.0])
    assert found.intervals["last"].value == 1.0 > found.intervals["last"].low and "settle" in found.sentence


def test_no_interval_where_nothing_varied_or_the_examples_are_too_few():
    assert intervals.mean(0.5, 0.0, 100) is None and intervals.mean(0.5, 0.1, np.nan) is None
    assert intervals.sample(np.full(50, 0.3)) is None and intervals.sample(np.arange(FEWEST - 1)) is None
    assert 2.0 ** (1 - FEWEST) <= intervals.ALPHA < 2.0 ** (2 - FEWEST)
    rng = np.random.default_rng(9)
    for n in (5, 8, 16):
        pearson = [np.corrcoef(rng.normal(size=(2, n)))[0, 1] for _ in range(1500)]
        assert sum(intervals.correlation(r, n).excludes(0) for r in pearson) <= 1


def test_a_number_has_as_many_digits_as_its_interval():
    assert evidence.told(Interval(-0.2371, -0.237100001, -0.237099999)) == "−0.24 (−0.24 to −0.24)"
    points = evidence.told(Interval(0.0, -0.0004, 0.002), 1, 100, " points")
    assert points == "0.00 points (−0.04 to 0.20)"
    assert evidence.percent(20 / 50_000) == "0.04%" and evidence.percent(1 - 20 / 50_000) == "99.96%"
    assert [evidence.percent(x, 0) for x in (0.025, 0.05, -0.0, 0.0, 1.0)] == [
        "2.5%",
        "5%",
        "0%",
        "0%",
        "100%",
    ]
    assert evidence.percent(-0.11, 0) == "−11%" and evidence.percent(np.nan) == "nan%"
    assert evidence.told_share(Interval(0.9999, 0.9, 1.0)) == "99.99% (90.00% to 100.00%)"
