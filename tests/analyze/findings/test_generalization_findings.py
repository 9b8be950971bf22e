"""What is said of errors, losses and margins: of which examples, against what, and with an interval that holds."""

import numpy as np
import pytest
import xarray as xr

from analyze.findings import findings
from analyze.metrics.outcome.generalization import generalization
from analyze.metrics.outcome.margin import margin
from tests.analyze.findings import made


def said(results):
    return {one.name: one for one in findings(results)}


def outcome(probes, against="test"):
    """The finding of a classifier: by probe, its labels and answers (example,), the same at every step."""
    labels, answers = (np.concatenate([one[k] for one in probes.values()]) for k in (0, 1))
    names = np.repeat(list(probes), [len(one[0]) for one in probes.values()])
    right = np.tile((labels == answers).astype(float), (3, 1))
    right[:, answers < 0] = np.nan
    losses = np.where(np.isnan(right), np.nan, 2 - right)
    result = generalization(losses, names, names, correct=right, labels=labels, against=against)
    data = made.dataset(generalization, result).assign_attrs(result["attrs"])
    return said({"generalization": data})["generalization"]


def test_one_answer_to_everything_is_not_learned_by_heart_where_class_shares_differ():
    train, test = np.repeat([0, 1], [85, 15]), np.arange(300) % 10
    constant = outcome({"train": (train, 0 * train), "test": (test, 0 * test)})
    assert "by heart" not in constant.sentence
    assert (
        "not told to be better than guessing (15% wrong): nothing shows that it has learned"
        in constant.sentence
    )


def test_each_probe_is_held_against_its_own_labels():
    train, test = np.repeat([0, 1], [140, 60]), np.arange(300) % 10
    better = outcome({"train": (train, train), "test": (test, np.where(np.arange(300) % 3, test, 10))})
    told = "better than guessing (30% wrong on the training examples, 90% on the test examples)"
    assert told in better.sentence
    heart = outcome({"train": (train, train), "test": (test, test[::-1])})
    assert "learned by heart" in heart.sentence and f"no {told}" in heart.sentence


def test_unseen_examples_of_other_classes_are_no_proof_of_learning_by_heart():
    train, test = np.arange(200) % 10, np.where(np.arange(300) % 10, 3, 4)
    answers = np.where(np.arange(300) % 20 < 3, 5, test)
    text = outcome({"train": (train, train), "test": (test, answers)}).sentence
    assert "by heart" not in text
    assert "On examples it has not seen that is not told to be better than guessing (10% wrong)" in text


def test_a_few_unseen_examples_do_not_show_learning_by_heart():
    train, test = np.arange(200) % 10, np.arange(4)
    text = outcome({"train": (train, train), "test": (test, np.array([0, 1, 5, 5]))}).sentence
    assert "by heart" not in text and "not told to be better than guessing (75% wrong)" in text


def test_of_one_class_nothing_else_was_possible():
    train = np.zeros(100, int)
    text = outcome({"train": (train, train), "test": (train, train)}).sentence
    assert "guessing (0% wrong, as all are of one class): nothing shows that it has learned" in text
    both = np.arange(100) % 2
    text = outcome({"train": (both, both), "test": (train, train)}).sentence
    assert "by heart" not in text and "guessing (0% wrong, as all are of one class)" in text


def test_examples_without_a_loss_are_not_counted():
    train, test = np.arange(128) % 10, np.arange(200) % 10
    answers = np.where(np.arange(128) < 40, -1, train)
    one = outcome({"train": (train, answers), "test": (test, test)})
    assert "0.0% of 88 of the 128 training examples and 0.0% of 200 test examples wrong" in one.sentence
    assert one.n == 288 and one.examples.startswith("88 of the 128 training examples")
    wide = outcome({"train": (train[40:], answers[40:]), "test": (test, test)})
    assert one.intervals["train"] == wide.intervals["train"]


def test_losses_that_are_not_known_are_not_counted():
    loss = np.random.default_rng(0).uniform(0.5, 1.5, (3, 128)) * [[4.0], [1.0], [0.5]]
    loss[:, :40] = np.nan
    falling = said({"generalization": made.outcome(loss, loss)})["generalization"]
    assert "on 88 of the 128 training examples, down from" in falling.sentence and falling.n == 176
    rising = said({"generalization": made.outcome(loss, loss[::-1])})["turning point"]
    assert rising.sentence.startswith("The loss on 88 of the 128 test examples") and rising.n == 88


def test_losses_of_one_snapshot_are_told_with_their_gap_or_their_own_interval():
    loss = np.random.default_rng(1).uniform(0.5, 1.5, (3, 200))

    def at_start(train, test):
        return said({"generalization": made.outcome(train, test).isel(step=[0])})["generalization"]

    gap = at_start(loss, 3 * loss)
    assert "a generalization gap of" in gap.sentence and set(gap.intervals) == {"gap"}
    assert gap.sentence.startswith("After 0 updates the mean loss is") and gap.kind == "difference"
    alone = at_start(loss, None)
    interval = alone.intervals["train"]
    assert interval.low < loss[0].mean() < interval.high and alone.kind == "description"
    assert "1.01 (0.94 to 1.08) on 200 training examples." in alone.sentence


def test_only_the_probes_of_the_sentence_are_counted():
    labels = np.arange(100) % 5
    one = outcome(dict.fromkeys(("train", "val", "test"), (labels, labels)))
    assert one.n == 200 and one.examples == "100 training examples and 100 test examples"
    assert "validation" not in one.sentence and set(one.intervals) == {"train", "test", "gap"}


def test_the_gap_is_taken_against_the_split_that_was_asked_for():
    labels = np.arange(200) % 5
    probes = {"train": (labels, labels), "test": (labels, labels), "val": (labels, labels[::-1])}
    one = outcome(probes, against="val")
    assert "200 validation examples wrong: a generalization gap of 80.0" in one.sentence
    assert "test" not in one.sentence and one.intervals["gap"].value == pytest.approx(0.8)


def test_a_run_that_broke_down_is_not_said_to_have_worked_before():
    loss = np.random.default_rng(4).random((3, 200))
    loss[2] = np.nan
    sentence = said({"generalization": made.outcome(loss, loss)})["divergence"].sentence
    assert sentence.endswith("step 50 is the last with finite numbers.") and "works" not in sentence


def margins(values):
    """Results of margins (step, example) of training examples."""
    made_of = margin(values)
    variables = {
        name: (dims, made_of[name] if "step" not in dims else made_of[name][:, None])
        for name, dims in margin.card.variables.items()
        if dims != ("probe",)
    }
    count = {"n_examples": ("probe", [values.shape[1]])}
    data = xr.Dataset(variables | count, {"step": made.STEPS, "probe": ["train"], "q": made_of["q"]})
    told = {"probe_examples": f'{{"train": {values.shape[1]}}}'}
    return said({"margin": data.assign_attrs(made_of["attrs"] | told)})


def test_the_margin_is_told_with_the_interval_of_its_quantile():
    values = np.random.default_rng(0).normal(3, 1, (3, 2000))
    one = margins(values)["margin"]
    assert "All but the worst 5% of 2,000 training examples" in one.sentence
    assert one.intervals["gamma"].low < np.quantile(values[-1], 0.05) < one.intervals["gamma"].high
    assert "margin" not in margins(values[:, :40])


def test_a_margin_of_two_humps_is_not_told_to_be_above_0():
    rng = np.random.default_rng(0)
    for _ in range(20):
        wrong = rng.random((3, 1000)) < 0.055
        one = margins(np.where(wrong, rng.normal(-1, 0.3, wrong.shape), rng.normal(5, 0.7, wrong.shape)))
        interval = one["margin"].intervals["gamma"]
        assert interval.low <= -1 + 0.3 * 1.3352 <= interval.high and "not above 0" in one["margin"].sentence


def test_margins_that_are_not_known_are_not_counted():
    values = np.random.default_rng(0).normal(3, 1, (3, 500))
    values[:, :100] = np.nan
    one = margins(values)["margin"]
    assert one.n == 400 and "400 of the 500 training examples" in one.sentence


def test_one_update_is_one_update():
    results = {"generalization": made.outcome(np.ones((3, 9)) * np.arange(9), None).isel(step=[1])}
    results["generalization"] = results["generalization"].assign_coords(step=[1])
    assert said(results)["generalization"].sentence.startswith("After 1 update the mean loss")


def test_a_gap_has_as_many_digits_as_its_interval_and_one_sign():
    def text(n, train, test):
        made_of = {
            name: (np.zeros(n, int), (np.arange(n) < k).astype(int))
            for name, k in (("train", train), ("test", test))
        }
        return outcome(made_of).sentence

    small = text(100_000, 50, 100)
    assert "0.05% of 100,000 training examples and 0.10% of 100,000 test examples" in small
    assert "a generalization gap of 0.05 percentage points (0.01 to 0.10)" in small
    assert "fewer of the test examples, by 10.0 percentage points (7.8 to 12.2)" in text(10_000, 3000, 2000)
