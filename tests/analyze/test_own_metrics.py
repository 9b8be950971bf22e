"""A metric of one's own, defined in a cell of a notebook, is a metric like any other."""

import json

import numpy as np
import pytest

import analyze
from analyze.report.listing import card_row, card_text
from tests.synthetic import write_archive
from tracer.errors import MissingTraceError

CELL = """
from analyze import metric


def size(losses):
    return SCALE * abs(losses)


@metric(reads=("losses",), variables={"worst": ("step",)}, title="Worst loss of mine")
def worst_of_mine(losses, *, power=1):
    'Largest loss of any example.'
    return {"worst": size(losses).max(-1) ** power}


def plot_worst_of_mine(result, figure):
    figure.subplots().plot(result["step"], result["worst"])
"""


def cell(scale=1, text=CELL):
    """What a notebook makes of a cell: functions of `__main__`, without a file."""
    names = {"__name__": "__main__"}
    exec(compile(text.replace("SCALE", str(scale)), "<cell>", "exec"), names)
    return names["worst_of_mine"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "run.zarr"
    write_archive(path, steps=(0, 2, 4))
    return path


def test_it_is_computed_drawn_saved_and_reported(run, tmp_path):
    results = analyze.run(run, [cell(), "el2n"])
    with analyze.run(run, ["el2n"]).archive as archive:
        losses = [np.concatenate([p.losses(step) for p in archive.probes.values()]) for step in (0, 2, 4)]
    assert results["worst_of_mine"]["worst"].values == pytest.approx([values.max() for values in losses])
    (axes,) = results.figure("worst_of_mine").axes
    assert len(axes.lines) == 1
    page = (results.save(tmp_path / "out") / "report.html").read_text()
    assert "Worst loss of mine" in page and "Largest loss of any example." in page
    assert (tmp_path / "out" / "figures" / "worst_of_mine.svg").is_file()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "worst_of_mine" in summary["metrics"] and "worst_of_mine" not in summary.get("figures", {})
    assert analyze.load(tmp_path / "out")["worst_of_mine"].identical(results["worst_of_mine"])


def test_it_needs_no_reference(run):
    card = cell().card
    assert card.reference == () and card_row(card)["source"] == "" and "Worst loss of mine" in card_text(card)
    assert analyze.run(run, [cell()])["worst_of_mine"].attrs["reference"] == ""


@pytest.mark.parametrize(
    "changed",
    [
        cell(2),  # only a constant, of a function that the metric calls
        cell(text=CELL.replace("abs(losses)", "(losses)")),
        cell(text=CELL.replace("power=1", "power=2")),
        cell(text=CELL.replace(".max(-1)", ".min(-1)")),
    ],
)
def test_a_cell_that_was_changed_is_computed_again(run, tmp_path, changed):
    before = analyze.run(run, [cell()], output=tmp_path)["worst_of_mine"]
    assert cell().card.source == cell().card.source
    analyze.run(run, [cell()], output=tmp_path)
    assert cell().card.source != changed.card.source
    after = analyze.run(run, [changed], output=tmp_path)["worst_of_mine"]
    assert after.attrs["fingerprint"] != before.attrs["fingerprint"]


def test_a_result_says_which_run_it_is_of(run):
    results = analyze.run(run, ["el2n", cell()])
    told = results["el2n"].attrs
    assert (told["run"], told["path"]) == ("run", str(run))
    assert json.loads(told["attributes"])["optimizer"] == "SGD"
    table = results.to_dataframe("worst_of_mine")
    assert table["metric"].unique().tolist() == ["worst_of_mine"] and len(table) == 3
    assert table.attrs["run"] == "run"
    assert set(results.to_dataframe()["metric"]) == {"el2n", "worst_of_mine"}
    with pytest.raises(MissingTraceError, match="no result is called 'el2'"):
        results.to_dataframe("el2")


def test_rows_are_a_table_where_one_is_wanted(run):
    with analyze.run(run, ["el2n"]).archive as archive:
        table = archive.rows.to_dataframe()
        assert table.index.name == "step" and table.index.tolist() == [0, 1, 2, 3, 4]
        assert np.array_equal(table["loss"], archive.rows["loss"], equal_nan=True)
        assert np.array_equal(table["lr"], archive.rows["lr"][:, 0])
        assert archive.rows.loc[2:, "loss"].tolist() == table["loss"].tolist()[2:]
        assert "<table" in archive.rows._repr_html_() and not hasattr(archive.rows, "no_such_thing")
        assert isinstance(archive.rows["loss"], np.ndarray)
