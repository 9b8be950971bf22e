"""What tells a metric in a few numbers: declared by each, and the same wherever it is shown."""

import json

import numpy as np
import pytest
import xarray as xr

import analyze
from analyze.reference import FORT_2019
from analyze.report.listing import card_text, result_rows
from analyze.report.save import summary
from analyze.results import Results
from analyze.summary import declared, lines, usual

STEPS = [0, 10, 40]
CARDS = analyze.available_metrics()


def losses():
    """Two probes whose losses part, over three snapshots."""
    values = np.array([[2.3, 2.3], [0.5, np.nan], [0.087, 0.865]])
    return xr.Dataset({"loss": (("step", "probe"), values)}, {"step": STEPS, "probe": ["train", "test"]})


@pytest.mark.parametrize("name", CARDS)
def test_every_metric_declares_what_tells_it(name):
    told = CARDS[name].summary
    assert told, f"{name} declares no summary= of its decorator: which variables tell it, along which labels"
    assert set(told) <= set(CARDS[name].variables)


def test_train_and_test_are_two_numbers_and_never_their_mean():
    results = Results({"generalization": losses()})
    table = results.summary()
    assert table.index.tolist() == ["generalization.loss[train]", "generalization.loss[test]"]
    assert table["last"].tolist() == [0.087, 0.865] and table["first"].tolist() == [2.3, 2.3]
    assert table["undefined"].tolist() == [0, 1] and table["of"].tolist() == ["train", "test"]


def test_terminal_table_and_json_say_the_same():
    results = Results({"generalization": losses()})
    rows = {row["of"]: row["last"] for row in result_rows(results)}
    saved = summary(results, {})["metrics"]["generalization"]["summary"]
    assert rows == {"train": 0.087, "test": 0.865}
    assert (
        [ends["last"] for ends in saved.values()] == list(rows.values()) == results.summary()["last"].tolist()
    )


def test_examples_are_averaged_within_their_probe():
    slope = np.array([[1.0, 3.0, 10.0], [2.0, np.nan, 20.0]])
    probes = {"example_probe": ("example", ["train", "train", "test"])}
    data = xr.Dataset({"slope": (("step", "example"), slope)}, {"step": [0, 1], **probes})
    found = lines("depth_slope", data)
    assert [(line.of, line.first, line.last, line.n) for line in found] == [
        ("train", 2, 2, 1),
        ("test", 10, 20, 1),
    ]


def test_the_whole_network_the_last_site_and_chosen_labels():
    values = np.arange(12.0).reshape(1, 2, 2, 3)
    data = xr.Dataset(
        {"gain": (("step", "layer", "site", "sigma"), values)},
        {"step": [4], "layer": ["fc", "all"], "site": ["a", "b"], "sigma": [0.1, 0.5, 1.0]},
        {"summary": json.dumps({"gain": {"sigma": ["0.5", "last", "9"]}})},
    )
    assert [(line.label, line.last) for line in lines("m", data)] == [
        ("m.gain[all, last, 0.5]", 10.0),
        ("m.gain[all, last, last]", 11.0),
    ]


def test_a_number_without_steps_has_no_first():
    (line,) = lines("m", xr.Dataset({"ratio": ((), 2.0)}))
    assert np.isnan(line.first) and line.last == 2.0 and line.row()["first"] is None


def test_what_undefined_numbers_give():
    data = xr.Dataset({"a": ("step", [np.nan, 1.0, np.nan])}, {"step": STEPS})
    (line,) = lines("m", data)
    assert line.first == 1.0 and np.isnan(line.last) and (line.n, line.row()["undefined"]) == (None, 2)
    assert lines("m", xr.Dataset({"a": (("step", "probe"), np.empty((3, 0)))}, {"step": STEPS})) == []


def test_a_metric_that_declares_nothing_is_told_by_the_usual_labels():
    assert list(
        usual({"a": ("step", "layer"), "a_std": ("step",), "n_a": (), "m": ("label", "label_2")})
    ) == ["a"]


@pytest.mark.parametrize("held", ["[1]", '{"b": {}}', '{"loss": {"q": "each"}}', "{", '"loss"', "3"])
def test_a_foreign_declaration_that_means_nothing_is_not_used(held):
    assert len(lines("m", losses().assign_attrs(summary=held))) == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"gain": {}},
            r"has to say which labels of 'sigma' tell 'gain'; write summary={'gain': {'sigma': 'first'}}",
        ),
        ({"gian": {}}, r"names 'gian', which is none of its variables \(gain\)"),
        ({"gain": {"rho": "first"}}, "names 'rho', which it does not have"),
        ({"gain": {"sigma": "mean"}}, "takes the mean of 'gain' over 'sigma', whose entries are not alike"),
    ],
)
def test_a_declaration_that_says_nothing_is_refused_in_a_sentence(given, sentence):
    with pytest.raises(TypeError, match=sentence):
        declared("m", {"gain": ("step", "sigma")}, given)


def test_the_decorator_refuses_it_where_the_metric_is_defined():
    with pytest.raises(TypeError, match="metric 'made_up': summary= names 'b'"):

        @analyze.metric(
            reads=("losses",), variables={"a": ("step",)}, title="A", reference=FORT_2019, summary=("b",)
        )
        def made_up(losses):
            """Nothing."""
            return {"a": losses}


def test_a_number_says_how_many_examples_are_behind_it_where_they_are_counted():
    counted = losses().assign(n_examples=("probe", [1297, 500]), other=("step", [1.0, 2.0, 3.0]))
    found = {line.label: line.n for line in lines("m", counted)}
    assert found == {"m.loss[train]": 1297, "m.loss[test]": 500, "m.other": None}
    table = Results({"m": counted}).summary()
    assert table["n"].tolist()[:2] == [1297, 500] and table["n"].isna().tolist() == [False, False, True]


def test_a_card_fits_the_terminal_it_is_printed_on():
    for width in (40, 80):
        text = card_text(CARDS["cna"], width).splitlines()
        assert max(len(line) for line in text if "://" not in line and "analyze." not in line) <= width
    assert "Correlation, over the examples of a probe" in card_text(CARDS["cna"], 80)
