"""Curves across runs: the table is the stored values, bands are of the runs there are, figures show both."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import analyze
from analyze.comparison.curves import Curves, gathered
from analyze.comparison.patterns import runs_at
from tests.analyze.comparison.test_compare import grid
from tests.synthetic import write_archive
from tracer.errors import ArchiveError, MissingTraceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Analyses of 3 widths x 2 rates x 2 seeds, without their archives."""
    place = tmp_path_factory.mktemp("grid")
    grid(place, n_seeds=2)
    return place


@pytest.fixture(scope="module")
def drawn(folder):
    return analyze.curves(f"{folder}/*.analysis", "stiffness.cosine", pair="train-train", by="width")


def test_the_table_is_tidy_and_says_which_run_and_how_it_was_made(drawn, folder):
    table = drawn.table
    assert list(table.columns[:4]) == ["run", "path", "step", "epoch"] and table.columns[-1] == "value"
    assert {"width", "lr", "seed", "optimizer"} <= set(table.columns) and "pair" not in table
    assert len(table) == 12 * 3
    one = table[table["run"] == "w64-lr0.01-s1"]
    assert one["path"].unique().tolist() == [str(folder / "w64-lr0.01-s1.analysis")]
    assert one["step"].tolist() == [0, 10, 40] and one["width"].unique().tolist() == [64]
    stored = analyze.load(folder / "w64-lr0.01-s1.analysis")["stiffness"]["cosine"]
    assert np.array_equal(one["value"], stored.sel(pair="train-train", layer="all"))


def test_bands_are_mean_lowest_and_highest_of_each_group(drawn):
    bands = drawn.bands()
    assert bands["width"].drop_duplicates().tolist() == [128, 32, 64]
    one = bands[(bands["width"] == 32) & (bands["step"] == 40)].iloc[0]
    values = drawn.table.query("width == 32 and step == 40")["value"]
    assert one["n_runs"] == len(values) == 4
    assert [one["mean"], one["low"], one["high"]] == pytest.approx(
        [values.mean(), values.min(), values.max()]
    )


def two(first, second, width=(1, 1)):
    """Two runs with snapshots and values of their own."""
    made = [
        xr.Dataset({"pearson": ("step", np.array(values, float))}, {"step": steps})
        for steps, values in (first, second)
    ]
    return [(f"r{k}", "", {"width": width[k]}, data) for k, data in enumerate(made)]


def test_runs_with_other_snapshots_meet_between_them_and_not_beyond_their_ends():
    runs = two(([0, 10], [0, 10]), ([0, 4, 20], [2, 2, np.nan]))
    bands = gathered(runs, "minibatch_cna", "pearson", by="width").bands()
    assert bands["step"].tolist() == [0, 4, 10]  # nothing is known of step 20: its only value is undefined
    assert bands["mean"].tolist() == [1, 3, 10] and bands["n_runs"].tolist() == [2, 2, 1]
    assert bands["low"].tolist() == [0, 2, 10] and bands["high"].tolist() == [2, 4, 10]


def test_a_run_without_the_attribute_is_a_group_of_its_own():
    runs = two(([0], [1]), ([0], [2]))
    runs[1] = (*runs[1][:2], {"lr": 0.1}, runs[1][3])
    made = gathered(runs, "minibatch_cna", "pearson", by="width")
    assert made.bands()["width"].tolist() == [1, "not said"]
    assert made.figure()


def test_labels_that_are_left_are_panels_and_of_a_network_without_a_whole_the_last_part_counts(folder):
    both = analyze.curves(f"{folder}/*s0.analysis", "generalization.error", x="step")
    assert both.labels == ("probe",) and len(both.figure().axes) == 2
    assert [axes.get_title() for axes in both.figure().axes] == ["train", "test"]
    array = ("step", "probe", "site"), np.array([[[1.0, 3.0]], [[2.0, np.nan]]])
    data = xr.Dataset({"mean": array}, {"step": [0, 1], "probe": ["train"], "site": ["a", "b"]})
    made = gathered([("r", "", {}, data)], "path_self_similarity", "mean", labels={"probe": "train"})
    assert made.table["value"].dropna().tolist() == [3] and made.note == "last site"


def test_a_figure_has_a_line_a_group_and_a_band_where_runs_repeat(drawn):
    (axes,) = drawn.figure().axes
    assert len(axes.lines) == 3 and len(axes.collections) == 3
    assert [text.get_text() for text in drawn.figure().legends[0].get_texts()] == [
        "width 32",
        "width 64",
        "width 128",
    ]
    first, last = (axes.lines[k].get_color() for k in (0, 2))  # widths 32 and 128: dark to light
    assert sum(first[:3]) < sum(last[:3])
    assert "<svg" in drawn._repr_html_()


def test_what_is_undefined_everywhere_is_a_panel_that_says_so():
    columns = {name: ["a", "a"] for name in ("run", "path", "measure")}
    nothing = pd.DataFrame({**columns, "step": [0, 1], "epoch": [0.0, 1.0], "value": [np.nan, np.nan]})
    for labels in ((), ("measure",)):
        (axes,) = Curves(nothing, "gap", by=(), labels=labels).figure().axes
        assert [text.get_text() for text in axes.texts] == ["undefined"]


def test_curves_are_saved_by_the_ending_of_the_path(drawn, tmp_path):
    assert drawn.save(tmp_path / "a.svg").read_text().startswith("<?xml")
    assert drawn.save(tmp_path / "a.csv").read_text().splitlines()[0].startswith("run,path,step,epoch,")
    with pytest.raises(ValueError, match=r"as \.svg or \.csv, got 'a\.doc'"):
        drawn.save(tmp_path / "a.doc")


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        ("stifness.cosine", {}, "did you mean 'stiffness'"),
        ("stiffness.cosin", {}, "did you mean 'cosine'"),
        ("stiffness", {}, "which variable of stiffness: stiffness.cosine"),
        ("stiffness.cosine", {"by": "widht"}, "did you mean 'width'"),
        ("stiffness.cosine", {"pair": "train-trian"}, "did you mean 'train-train'"),
        ("stiffness.cosine", {"probe": "train"}, "has no probe; known: pair, layer"),
        ("path_overlap_ratio.ratio_mean", {}, "one value a run, not a curve"),
        ("margin.gamma", {}, "none of 4 runs has margin: not in"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(folder, measure, options, message):
    with pytest.raises(MissingTraceError, match=message):
        analyze.curves(f"{folder}/w32-*.analysis", measure, **options)


@pytest.mark.usefixtures("undrawn")
def test_an_archive_is_analyzed_where_it_must_be_and_its_analysis_is_the_same_run(tmp_path):
    write_archive(tmp_path / "runs" / "a.zarr", steps=(0, 2, 4))
    made = analyze.curves(tmp_path / "runs", "cna.pearson", probe="train", x="epoch")
    assert made.table["run"].unique().tolist() == ["a"] and made.table["epoch"].tolist() == [0, 1, 1]
    assert [run.path for run in runs_at(f"{tmp_path}/runs/*").runs] == [str(tmp_path / "runs" / "a.zarr")]
    again = analyze.curves([tmp_path / "runs" / "a.analysis"], "cna.pearson", probe="train", x="epoch")
    assert again.table.equals(made.table)


def test_a_pattern_or_directory_without_runs_is_a_sentence(tmp_path):
    with pytest.raises(
        ArchiveError, match=r"no archive and no analysis matches .*none\*'; check the pattern"
    ):
        runs_at(f"{tmp_path}/none*")
    with pytest.raises(ArchiveError, match="holds no archives"):
        runs_at(tmp_path)
