"""Findings say what is so, only where the numbers allow it, and do not contradict each other."""

import re

import numpy as np
import pytest
import xarray as xr

from analyze.findings import findings, intervals
from analyze.findings.evidence import ends
from analyze.report.save import summary
from analyze.results import Results
from tests.analyze.findings import made

CENTRES = np.eye(made.CLASSES)
LABELS = np.repeat(np.arange(made.CLASSES), 20)


def said(results):
    return {one.name: one for one in findings(results)}


def test_two_runs_of_opposite_truth_get_opposite_sentences():
    rng = np.random.default_rng(0)
    honest = said(made.classified(rng, 0.0, 0.06))["generalization"]
    by_heart = said(made.classified(rng, 0.0, 0.8))["generalization"]
    assert (
        "a generalization gap of" in honest.sentence
        and "That is better than guessing (80% wrong)" in honest.sentence
    )
    assert "it has learned by heart" in by_heart.sentence and "no better than guessing" in by_heart.sentence
    assert "by heart" not in honest.sentence
    assert honest.kind == by_heart.kind == "difference" and honest.n == 1000
    assert honest.intervals["gap"].high < by_heart.intervals["gap"].low


def test_a_gap_that_may_be_chance_is_no_gap():
    few = said(made.classified(np.random.default_rng(1), 0.1, 0.14, 50, 50))["generalization"]
    assert few.kind == "no difference" and "no gap between them can be told" in few.sentence
    many = said(made.classified(np.random.default_rng(1), 0.1, 0.14, 8000, 8000))["generalization"]
    assert many.kind == "difference" and "a generalization gap of" in many.sentence


def test_an_untrained_network_is_said_to_be_one():
    text = said(made.classified(np.random.default_rng(2), 0.8, 0.8))["generalization"].sentence
    assert "nothing shows that it has learned from them" in text and "by heart" not in text


def test_one_probe_and_regression_have_findings_too():
    rng = np.random.default_rng(3)
    loss = np.array([[4.0], [1.0], [0.5]]) * rng.uniform(0.5, 1.5, (3, 200))
    alone = said({"generalization": made.outcome(loss, None)})["generalization"]
    assert "200 training examples, down from" in alone.sentence and alone.kind == "difference"
    flat = said({"generalization": made.outcome(rng.random((3, 200)), rng.random((3, 90)))})["generalization"]
    assert flat.kind == "no difference" and "no gap can be told" in flat.sentence
    apart = said({"generalization": made.outcome(loss, 4 * loss)})["generalization"]
    assert "a generalization gap of" in apart.sentence


def test_a_training_that_breaks_down_is_said_to_have():
    loss = np.random.default_rng(4).random((3, 200))
    assert "divergence" not in said({"generalization": made.outcome(loss, loss)})
    later = np.where(np.arange(3)[:, None] == 2, np.nan, loss)
    results = {"generalization": made.outcome(later, later)}
    before, first = results["generalization"]["step"].values[1:].tolist()
    sentence = findings(results)[0].sentence
    assert f"From step {first} on" in sentence and f"step {before} is the last" in sentence
    never = {"generalization": made.outcome(loss * np.nan, loss * np.inf)}
    assert [one.sentence for one in findings(never)] == [
        "The mean loss is no finite number at any snapshot: nothing can be said of what the network has learned."
    ]
    one_probe = {"generalization": made.outcome(later, loss)}
    assert "divergence" not in said(one_probe)


def test_of_answers_at_every_token_loss_and_perplexity_are_told_and_no_share_of_examples():
    results = made.classified(np.random.default_rng(6), 0.2, 0.4)
    assert "wrong" in said(results)["generalization"].sentence
    perplexity = np.exp(results["generalization"]["loss"])
    results["token_prediction"] = perplexity.to_dataset(name="perplexity")
    sentence = said(results)["generalization"].sentence
    last = float(perplexity.sel(probe="test", step=100))
    assert f"(perplexity {last:.3g}) on" in sentence and "wrong" not in sentence
    assert "mean loss of a token is" in sentence


def test_texts_that_are_right_in_part_and_losses_of_any_size_are_told_as_such():
    rng = np.random.default_rng(12)
    loss = {probe: 1000 * rng.uniform(3, 4, (3, 150)) for probe in ("train", "test")}
    parts = made.outcome(loss["train"], loss["test"], rng.random((3, 300)))
    text = said({"generalization": parts})["generalization"].sentence
    assert re.match(
        r"After 100 updates the network gets on average [\d.]+% of each of 150 training examples", text
    )
    losses = made.outcome(loss["train"], loss["test"] + 500)
    text = said({"generalization": losses})["generalization"].sentence
    assert re.search(r"gap of \d{3} \(\d{3} to \d{3}\)", text), "no digits that the interval leaves uncertain"


def test_a_test_loss_that_rises_again_is_told_with_its_best_step():
    rng = np.random.default_rng(4)
    noise = rng.uniform(0.8, 1.2, (3, 300))
    results = {"generalization": made.outcome(noise * [[2.0], [1.0], [0.1]], noise * [[2.0], [1.0], [1.5]])}
    rise = said(results)["turning point"]
    assert (
        "least at step 50" in rise.sentence
        and rise.refines == "generalization"
        and rise.intervals["rise"].low > 0
    )
    steady = {"generalization": made.outcome(noise, noise * [[2.0], [1.5], [1.0]])}
    assert "turning point" not in said(steady)


def test_examples_that_help_each_other_and_the_share_of_pairs():
    rng = np.random.default_rng(5)
    text = said(made.gradients(rng.normal(size=(80, 6)) + 1.0))["stiffness"]
    assert "two training examples agree on average" in text.sentence and text.kind == "difference"
    assert "The mean cosine was 0.00 at step 0." in text.sentence
    helps = text.intervals["pairs that help"]
    assert helps.low < helps.value < helps.high and f"in {100 * helps.value:.0f}% (" in text.sentence
    assert text.examples == "80 training examples" and text.n == 80


def test_a_mean_of_zero_is_balance_and_not_absence():
    rng = np.random.default_rng(6)
    text = said(made.gradients(rng.normal(size=(80, 5))))["stiffness"].sentence
    assert "neither agree nor oppose each other" in text and "balance of both kinds: " in text
    assert "hardly" not in text


def test_classes_refine_the_mean_and_never_deny_it():
    rng = np.random.default_rng(7)
    centres = CENTRES - 1.3 / made.CLASSES
    results = made.gradients(made.of_classes(rng, LABELS, centres, 0.05), LABELS)
    found = said(results)
    text = found["class_stiffness"]
    assert text.refines == "stiffness" and text.sentence.startswith(
        "Behind this mean, gradients of one class agree"
    )
    assert "those of two classes oppose each other" in text.sentence
    assert "the classes of 0 of 10 pairs agree for certain and those of 10 oppose" in text.sentence
    assert text.kind == "difference" and "They were 0.00 and 0.00 at step 0." in text.sentence
    del results["stiffness"]
    assert said(results)["class_stiffness"].sentence.startswith("Gradients of one class")


def test_what_labels_alone_do_to_a_network_that_has_learned_nothing_is_no_difference():
    rng = np.random.default_rng(11)
    labels = rng.permutation(LABELS)
    signals = (
        np.eye(made.CLASSES)[labels] - 1 / made.CLASSES + 0.1 * rng.normal(size=(len(labels), made.CLASSES))
    )
    again = signals + 0.01 * rng.normal(size=signals.shape)
    untrained = said(made.gradients(again, labels, start=signals))["class_stiffness"]
    assert untrained.kind == "no difference" and "labels alone set them apart" in untrained.sentence
    trained = said(made.gradients(0.1 * signals + rng.normal(size=signals.shape), labels, start=signals))
    assert "labels alone" not in trained["class_stiffness"].sentence


def test_two_classes_are_one_pair_of_which_nothing_more_is_said():
    rng = np.random.default_rng(12)
    labels = np.repeat([0, 1], 40)
    text = said(made.gradients(made.of_classes(rng, labels, CENTRES, 0.1), labels))[
        "class_stiffness"
    ].sentence
    assert "those of two classes" in text and "one by one" not in text


def test_shuffled_labels_show_no_difference_between_classes():
    rng = np.random.default_rng(8)
    vectors = made.of_classes(rng, LABELS, CENTRES)
    true = said(made.gradients(vectors, LABELS))["class_stiffness"]
    shuffled = said(made.gradients(vectors, rng.permutation(LABELS)))["class_stiffness"]
    assert true.kind == "difference" and shuffled.kind == "no difference"
    assert "no difference can be told" in shuffled.sentence and "one by one" not in shuffled.sentence


def test_classes_that_are_two_names_of_one_are_found():
    rng = np.random.default_rng(9)
    centres = (CENTRES - 1 / made.CLASSES)[[0, 0, 1, 2, 3]]
    text = said(made.gradients(made.of_classes(rng, LABELS, centres, 0.05), LABELS))[
        "class_stiffness"
    ].sentence
    assert (
        "classes of 1 of 10 pairs agree for certain and those of 9 oppose each other" in text
        and "classes 0 and 1 agree most" in text
        and "oppose each other most" in text
    )


def test_what_a_step_does_to_unseen_examples_is_told_apart():
    rng = np.random.default_rng(10)
    train = rng.normal(size=(60, 6)) + 1.0
    other = said(made.gradients(train, test=rng.normal(size=(60, 6)) - 1.0))["stiffness"].sentence
    assert "a training and a test example oppose each other" in other and "less than two training" in other
    same = said(made.gradients(train, test=rng.normal(size=(60, 6)) + 1.0))["stiffness"].sentence
    assert "a training and a test example agree" in same and "no difference from two training" in same


def noise(seed):
    """A run in which nothing is different from anything else."""
    rng = np.random.default_rng(seed)
    vectors, labels = rng.normal(size=(90, 40)), rng.integers(0, 4, 90)
    results = made.gradients(vectors, labels, test=rng.normal(size=(60, 40)))
    wrong = rng.random((3, 600)) < 0.7
    losses = rng.exponential(size=(3, 600))
    results["generalization"] = made.outcome(losses[:, :400], losses[:, 400:], 1.0 - wrong)
    slope, alpha = rng.normal(size=(3, 400)), rng.normal(size=400)
    pearson = [[np.corrcoef(row, alpha)[0, 1]] for row in slope]
    results["cna"] = labelled({"pearson": pearson, "n_examples": [[400]] * 3}, probe=["train"])
    errors = rng.binomial(30, 0.4, (3, 10)) / 30
    results["error_by_complexity"] = labelled({"error": errors}, group=np.arange(10)).assign(
        n_examples=("group", [30] * 10)
    )
    similarity = rng.beta(8, 2, (3, 2, 200))
    similarity[0] = np.nan
    results["path_self_similarity"] = labelled(
        {"similarity": similarity}, site=["a", "b"], example=np.arange(200)
    )
    return results


def labelled(variables, **coords):
    return xr.Dataset(
        {name: (("step", *coords), np.asarray(values, float)) for name, values in variables.items()},
        {"step": made.STEPS, **coords},
    )


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 40), marks=pytest.mark.slow)])
def test_runs_of_noise_give_no_finding_of_a_difference(seeds):
    for seed in seeds:
        found = findings(noise(seed))
        assert [one.sentence for one in found if one.kind == "difference"] == []
        assert {"generalization", "stiffness", "class_stiffness"} <= {one.name for one in found}


def test_depth_complexity_and_paths_are_told_where_there_is_something():
    results = noise(0)
    results["cna"]["pearson"][:] = 0.4
    results["error_by_complexity"]["error"][:] = np.linspace(0.0, 0.9, 10)
    results["path_self_similarity"]["similarity"][1] *= 0.5
    results["path_self_similarity"]["similarity"][-1, 1] *= 0.9
    found = said(results)
    assert "the more its layer sums grow with depth" in found["cna"].sentence
    assert "wrong more often: of the 30 most complex" in found["error_by_complexity"].sentence
    assert "Paths through the network settle" in found["path_self_similarity"].sentence
    assert "at site b it is less than elsewhere, by" in found["path_self_similarity"].sentence


@pytest.mark.parametrize(
    "name", ["generalization", "stiffness", "class_stiffness", "cna", "path_self_similarity"]
)
def test_undefined_values_make_no_sentence(name):
    results = noise(0)
    blank = {key: array * np.nan for key, array in results[name].items() if array.dtype.kind == "f"}
    results[name] = results[name].assign(blank)
    assert name not in said(results)
    del results[name]
    assert name not in said(results)


def test_findings_travel_with_results_and_their_summary():
    results = Results(made.classified(np.random.default_rng(0), 0.0, 0.06))
    (first, *_) = results.findings
    (kept, *_) = summary(results, {})["findings"]
    assert (
        kept["sentence"] == first.sentence and kept["intervals"]["gap"]["low"] == first.intervals["gap"].low
    )
    assert kept["n"] == 1000 and kept["examples"] == "500 training examples and 500 test examples"


def test_which_examples_are_some_of_those_watched():
    results = noise(0)
    assert said(results)["stiffness"].examples == "90 of the 400 training examples"


def test_a_probe_of_which_fewer_were_recorded_is_told_whole():
    results = made.classified(np.random.default_rng(0), 0.0, 0.06)
    results["generalization"].attrs["probe_examples"] = '{"train": 1200, "test": 500}'
    text = said(results)["generalization"].sentence
    assert "of 500 of the 1,200 training examples" in text and "of 500 test examples" in text


def test_intervals_of_shares_hold_what_they_promise():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        one, two = (intervals.share(rng.binomial(40, p) / 40, 40) for p in (0.05, 0.3))
        inside += not intervals.difference_of_shares(one, two).below(0.25)
        inside += not intervals.difference_of_shares(one, two).above(0.25)
    assert inside == 600
    assert intervals.share(np.nan, 10) is None and intervals.mean(0.1, np.nan, 50) is None


def test_ends_skip_undefined_values():
    series = xr.DataArray([np.nan, 1.0, 2.0, np.nan], coords={"step": [0, 1, 2, 3]}, dims="step")
    assert ends(series).first_step == 1 and ends(series).last == 2.0
    assert ends(series * np.nan) is None


def test_an_interval_does_not_leave_what_is_possible():
    near = np.stack([np.full(30, np.nan), np.linspace(0.4, 0.5, 30), np.where(np.arange(30) == 7, 0.7, 1.0)])[
        :, None
    ]
    data = xr.Dataset(
        {"similarity": (("step", "site", "example"), near)},
        coords={"step": [0, 1, 2], "site": ["a"], "example": range(30)},
    )
    finding = said({"path_self_similarity": data})["path_self_similarity"]
    assert finding.intervals["last"].high == 1.0 and "0.99 (0.95 to 1.00)" in finding.sentence
