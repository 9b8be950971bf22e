"""Findings are computed: other numbers give other sentences, undefined ones give none."""

import numpy as np
import pytest
import xarray as xr

from analyze.report.findings import ends, findings
from tests import report_data as data


def sentences(results):
    return {finding.metric: finding.sentence for finding in findings(results)}


def test_a_run_that_generalizes_is_told_from_one_that_learned_by_heart():
    honest, by_heart = sentences(data.honest()), sentences(data.by_heart())
    assert honest.keys() == by_heart.keys()
    assert "0.0% of the training examples and 3.0% of the test examples" in honest["generalization"]
    assert "gap of 3.0 percentage points" in honest["generalization"]
    assert "carries over" in honest["generalization"]
    assert "gap of 89.0 percentage points" in by_heart["generalization"]
    assert "by heart" in by_heart["generalization"]
    assert "helps the others a little, and the same holds for unseen ones" in honest["stiffness"]
    assert "it raises that of unseen ones" in by_heart["stiffness"]
    assert "γ = 3.50" in honest["margin"]
    assert "undefined" in by_heart["margin"]


def test_the_numbers_are_those_of_the_results():
    found = {finding.metric: finding.values for finding in findings(data.honest())}
    assert found["stiffness"] == {"first": 0.9, "last": 0.1, "train_test": 0.08}
    assert found["class_stiffness"] == {"within": 0.5, "between": -0.1}
    assert found["generalization"]["gap"] == pytest.approx(0.03)


def test_most_telling_first():
    assert next(iter(sentences(data.honest()))) == "generalization"


@pytest.mark.parametrize("metric", data.honest())
def test_without_a_metric_nothing_is_said_about_it(metric):
    results = data.honest()
    del results[metric]
    assert sentences(results).keys() == results.keys()


@pytest.mark.parametrize("metric", data.honest())
def test_undefined_values_make_no_sentence(metric):
    results = data.honest()
    results[metric] = results[metric].where(False) if metric != "stiffness" else _blank(results[metric])
    assert metric not in sentences(results)


def _blank(dataset):
    return dataset.assign(cosine=dataset["cosine"] * np.nan)


def test_an_untrained_network_is_said_to_be_one():
    results = data.honest() | {"generalization": data.generalization([0.9] * 4, [0.91] * 4)}
    assert "not learned its training labels yet" in sentences(results)["generalization"]


def test_the_restless_site_is_named():
    mean = data.series([np.nan, 0.5, 0.6, 0.7], probe=["train"], site=["early", "late"])
    mean = mean.where(mean["site"] != "late", mean + 0.2)
    text = sentences({"path_self_similarity": xr.Dataset({"mean": mean})})["path_self_similarity"]
    assert "still changing" in text
    assert "site early still moves most (0.70)" in text


def test_a_detour_is_told():
    results = {"stiffness": data.stiffness([0.0, 0.3, 0.1, 0.02], [0.0, 0.1, 0.1, 0.0])}
    assert "rose from 0.00 (step 0) to 0.30 (step 10) and fell to 0.02" in sentences(results)["stiffness"]


@pytest.mark.parametrize(
    ("value", "words"), [(0.6, "strongly more"), (-0.35, "clearly less"), (0.02, "no differently")]
)
def test_the_words_for_cna_follow_its_value(value, words):
    assert words in sentences({"cna": data.cna([0.0, 0.0, 0.0, value])})["cna"]


def test_ends_skip_undefined_values():
    assert ends(data.series([np.nan, 1.0, 2.0, np.nan])).change == 1.0
    assert ends(data.series([np.nan] * 4)) is None
