import json
import math
import shutil

import numpy as np
import pytest
import xarray as xr

import analyze
from analyze import plot
from analyze.report.save import write_figure
from analyze.results import Results, load
from analyze.saved.store import ResultStore
from tests.synthetic import write_archive
from tracer.errors import MissingTraceError

NAMES = ["stiffness", "path_self_similarity", "margin"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "run.zarr"
    write_archive(path)
    return analyze.run(path, NAMES)


@pytest.fixture(scope="module")
def saved(results, tmp_path_factory):
    skipped = {"cka": "needs activations"}
    return Results(results, skipped, archive=results.archive).save(
        tmp_path_factory.mktemp("saved") / "analysis"
    )


def test_saved_results_load_identically(results, saved):
    loaded = load(saved)
    assert set(loaded) == set(NAMES) and loaded.skipped == {"cka": "needs activations"}
    for name in NAMES:
        xr.testing.assert_identical(loaded[name], results[name])


def test_saved_zarr_opens_with_plain_xarray(saved):
    tree = xr.open_datatree(saved / "results.zarr", engine="zarr")
    assert set(tree.children) == set(NAMES)
    assert tree["stiffness"]["cosine"].dims == ("step", "pair", "layer")


def test_directory_holds_tables_figures_and_a_report(results, saved):
    assert {path.name for path in (saved / "tables").iterdir()} == {f"{name}.csv" for name in NAMES}
    assert {path.name for path in (saved / "figures").iterdir()} == {f"{name}.svg" for name in NAMES}
    svg = (saved / "figures" / "stiffness.svg").read_text()
    assert "cosine stiffness" in svg, "text is text"
    rows = (saved / "tables" / "margin.csv").read_text().splitlines()
    assert rows[0].startswith("variable,step,probe") and len(rows) > 10
    assert (saved / "report.html").stat().st_size > 1000


def test_summary_is_strict_json_with_the_last_values(results, saved):
    text = (saved / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    entry = summary["metrics"]["margin"]
    gamma, last = entry["variables"]["gamma"], entry["summary"]["margin.gamma[train]"]["last"]
    assert last == pytest.approx(float(results["margin"]["gamma"].sel(probe="train")[-1]))
    assert gamma["dims"] == {"step": 5, "probe": 2} and gamma["n_nan"] == 0
    assert not any(
        "similarity.similarity" in name for name in summary["metrics"]["path_self_similarity"]["summary"]
    )
    assert summary["run_id"] == results["margin"].attrs["run_id"]
    assert summary["skipped"] == {"cka": "needs activations"}


def test_figures_are_drawn_again_only_for_other_results(results, saved):
    figure = saved / "figures" / "margin.svg"
    before = figure.stat().st_mtime_ns
    results.save(saved)
    assert figure.stat().st_mtime_ns == before
    other = results["margin"].assign_attrs(fingerprint="another")
    assert write_figure(analyze.available_metrics()["margin"], other, figure) == ""
    assert figure.stat().st_mtime_ns != before


def test_a_figure_that_cannot_be_drawn_costs_nothing_else(results, tmp_path):
    unusable = results["margin"].drop_vars("quantile")
    note = write_figure(analyze.available_metrics()["margin"], unusable, tmp_path / "x.svg")
    assert note.startswith("no figure: KeyError") and not (tmp_path / "x.svg").exists()
    assert write_figure(None, unusable, tmp_path / "x.svg") == "no figure: the metric has no plot"


def test_dataframe_has_one_row_a_value(results):
    table = results.to_dataframe()
    assert len(table) == sum(array.size for data in results.values() for array in data.data_vars.values())
    assert list(table.columns[:2]) == ["metric", "variable"] and table.columns[-1] == "value"
    row = table[
        (table.metric == "stiffness")
        & (table.variable == "sign")
        & (table.step == 4)
        & (table.pair == "train-test")
        & (table.layer == "fc1")
    ]
    expected = results["stiffness"]["sign"].sel(step=4, pair="train-test", layer="fc1")
    assert row.value.item() == expected.item()
    assert Results({}).to_dataframe().empty


def test_a_result_draws_its_own_figure(results):
    assert [axes.get_title() for axes in results.figure("margin").axes][1:] == [
        "margins, train",
        "margins, test",
    ]
    with pytest.raises(MissingTraceError, match="no result is called 'margins'"):
        results.figure("margins")


def test_mapping_names_what_is_missing(results):
    with_reason = Results(results, {"cka": "needs activations"})
    assert "cka" not in with_reason and len(with_reason) == 3
    with pytest.raises(MissingTraceError, match="cka was skipped: needs activations"):
        with_reason["cka"]
    with pytest.raises(MissingTraceError, match="did you mean 'margin'"):
        with_reason["margins"]
    assert "cka skipped" in repr(with_reason)
    assert "&lt;" in Results({}, {"<b>": "x"})._repr_html_()


def test_a_notebook_sees_results_of_which_no_value_is_read(saved):
    tree = xr.open_datatree(saved / "results.zarr", engine="zarr")
    lazy = {name: node.to_dataset() for name, node in tree.children.items()}
    for chunk in (saved / "results.zarr").rglob("c"):
        chunk.rename(chunk.with_name("gone"))
    try:
        page = Results(lazy, {"cka": "needs <activations>"})._repr_html_()
    finally:
        for chunk in (saved / "results.zarr").rglob("gone"):
            chunk.rename(chunk.with_name("c"))
    assert "cosine (step 5, pair 3, layer" in page and "1 skipped" in page and "&lt;activations&gt;" in page
    assert "color" not in page, "a notebook has its own colours"


def test_an_empty_directory_holds_no_results(tmp_path):
    with pytest.raises(MissingTraceError, match="holds no results"):
        load(tmp_path)


def test_half_written_results_do_not_count(results, tmp_path):
    store = ResultStore(tmp_path)
    store.save("margin", results["margin"])
    (store.root / "stiffness").mkdir()
    shutil.copytree(store.root / "margin", store.root / ".stiffness.new")  # of a process that was killed
    assert store.names() == ["margin"]
    assert store.load("margin", "another fingerprint") is None
    again = ResultStore(tmp_path, str(results["margin"].attrs["run_id"]))
    assert again.names() == ["margin"] and not (store.root / ".stiffness.new").exists()
    assert store.load("margin", results["margin"].attrs["fingerprint"]) is not None


def test_numbers_json_has_no_word_for(tmp_path):
    data = xr.Dataset(
        {"a": ("q", [math.nan, math.inf, 1.5])}, {"q": [0.1, 0.2, 0.3]}, {"summary": '{"a": {"q": "each"}}'}
    )
    Results({"made_up": data}).save(tmp_path)
    entry = json.loads((tmp_path / "summary.json").read_text())["metrics"]["made_up"]
    assert [ends["last"] for ends in entry["summary"].values()] == [None, "inf", 1.5]
    assert entry["note"] == "no figure: the metric has no plot"


def test_plot_helpers_survive_nothing_to_show():
    from matplotlib.figure import Figure

    axes = plot.panels(Figure(), 3, columns=2)
    assert len(axes) == 3
    plot.heat(axes[0], np.full((2, 2), np.nan), colorbar="x")
    plot.band(axes[1], [0, 1], [np.nan] * 2, [np.nan] * 2)
    plot.spread(axes[2], [0, 1], np.full((2, 3), np.nan), 10, 90)
    plot.step_axis(axes[1], [0])
    plot.legend(axes[2])
    assert plot.finite_limits([np.nan]) == (0.0, 1.0)
    log = plot.panels(Figure(), 1)[0]
    plot.step_axis(log, [0, 1, 2, 4, 8, 16, 32, 1000])
    assert log.get_xscale() == "symlog"


ODD = xr.Dataset(
    {
        "matrix": (("x", "y"), [[1.0, np.nan, -np.inf], [2.0, 3.0, 4.0]], {"units": "1", "long_name": "é"}),
        "flag": ("x", [True, False]),
        "one": ((), np.float32(2.5)),
        "byte": ("x", np.array([1, 255], np.uint8)),
        "none": ("nothing", np.zeros(0)),
        "turned": (("y", "x"), np.arange(6, dtype=">i8").reshape(2, 3).T),
    },
    coords={"x": [1, 2], "name": ("x", ["a", "bé"]), "layer": ((), "0.weight")},
    attrs={"n": np.int64(3), "list": [1, 2], "text": "ü"},
)


@pytest.mark.parametrize("metric", ["", "stiffness", "generalization"])
def test_files_made_in_memory_are_those_that_zarr_writes(everything, tmp_path, monkeypatch, metric):
    result = analyze.run(everything, [metric])[metric] if metric else ODD
    small, large = (ResultStore(tmp_path / name) for name in ("small", "large"))
    small.save("it", result)
    monkeypatch.setattr("analyze.saved.store.SMALL", -1)
    large.save("it", result)
    xr.testing.assert_identical(small.read("it"), large.read("it"))
    written = {path.relative_to(large.root) for path in large.root.rglob("*") if "c" in path.parts}
    objects = [name for name in written if (large.root / name).is_file()]
    assert len(objects) > 5
    for name in objects:
        assert (small.root / name).read_bytes() == (large.root / name).read_bytes(), name
