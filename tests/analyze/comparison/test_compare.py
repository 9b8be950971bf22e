import functools
import itertools
import json
import shutil
from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import analyze
import cli
from analyze import plot
from analyze.comparison import figures, measures, runs
from analyze.engine.distribute import Workers, complete
from analyze.engine.fingerprint import sources
from analyze.report.save import summary
from analyze.results import Results, load
from analyze.saved import seals
from analyze.saved.seals import Seals
from analyze.saved.store import ResultStore
from tests.synthetic import write_archive
from tracer.errors import ArchiveError, MissingTraceError

STEPS = [0, 10, 40]
PROBES = ["train", "test"]


def results(gap, cosine, ratio=None):
    """Results of a run that ends with this gap and this stiffness."""
    path = np.array([0.0, 0.5, 1.0])
    train, test = 0.5 - 0.5 * path, 0.5 - (0.5 - gap) * path
    error = ("step", "probe"), np.stack([train, test], 1)
    loss = ("step", "probe"), np.stack([train, [1.0, 0.2, 0.4 + gap]], 1)
    one = {
        "error": error,
        "loss": loss,
        "gap_error": ("step", test - train),
        "gap_loss": ("step", gap * path),
    }
    pair = ["train-train", "train-test"]
    values = cosine * np.ones((3, 2, 2)) * np.array([1, 2, 3])[:, None, None] * np.array([10, 1])
    stiff = {"cosine": (("step", "pair", "layer"), values), "n_pairs": ("pair", [3, 9])}
    made = {
        "generalization": xr.Dataset(one, {"step": STEPS, "probe": PROBES}),
        "stiffness": xr.Dataset(stiff, {"step": STEPS, "pair": pair, "layer": ["fc", "all"]}),
    }
    if ratio is not None:
        made["path_overlap_ratio"] = xr.Dataset({"ratio_mean": ((), ratio)})
    for name, data in made.items():
        made[name] = data.assign_attrs(
            created="now", fingerprint=f"{name}{gap}{cosine}", archive_digest="d", sources=sources()
        )
    return made


def fake(folder, name, attributes, *, stored=True, **numbers):
    """A saved analysis without its archive; with `stored=False` only what the last values are read from."""
    analysis = folder / f"{name}.analysis"
    made = results(**numbers)
    for metric, data in made.items():
        if stored:
            ResultStore(analysis).save(metric, data)
        else:
            group = analysis / "results.zarr" / metric
            group.mkdir(parents=True)
            (group / "zarr.json").write_text(json.dumps({"attributes": data.attrs}))
            Seals(analysis).seal(f"results.zarr/{metric}")
    with patch("analyze.report.save.findings", return_value=[]):  # a comparison reads none
        (analysis / "summary.json").write_text(json.dumps(summary(Results(made), {})))
    facts = {"title": name, "digest": "d", "attributes": attributes}
    (analysis / runs.FACTS).write_text(json.dumps(facts))
    return analysis


def grid(folder, n_seeds=1, **options):
    """Runs over width x lr, whose gap falls with width and whose stiffness follows it but for noise."""
    rng = np.random.default_rng(0)
    paths = []
    for width, lr, seed in itertools.product([32, 64, 128], [0.1, 0.01], range(n_seeds)):
        gap = 0.4 - 0.1 * np.log2(width / 32) - lr + rng.normal(0, 0.01)
        numbers = {"gap": gap, "cosine": -gap + rng.normal(0, 0.02), "ratio": 0.5 + gap}
        name = f"w{width}-lr{lr}-s{seed}"
        attributes = {"width": width, "lr": lr, "seed": seed, "n_parameters": 10 * width, "optimizer": "SGD"}
        paths.append(fake(folder, name, attributes, **numbers, **options))
    return paths


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    return analyze.compare(grid(folder), bootstrap=100), folder


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Analyses of twelve runs, of which two each differ by their seed."""
    return grid(tmp_path_factory.mktemp("seeds"), n_seeds=2)


def test_table_holds_attributes_targets_and_measures(compared):
    comparison, _ = compared
    table = comparison.table
    assert table.index.name == "run" and len(table) == 6
    row = table.loc["w64-lr0.01-s0"]
    assert row["width"] == 64 and row["lr"] == 0.01 and row["optimizer"] == "SGD"
    assert row["gap_error"] == row["test_error"] and row["test_loss"] == pytest.approx(0.4 + row["gap_error"])
    assert comparison.measures == [
        "generalization.error[train]",
        "generalization.loss[train]",
        "path_overlap_ratio.ratio_mean",
        "stiffness.cosine[train-train, all]",
        "stiffness.cosine[train-test, all]",
    ]


def test_correlations_name_axes_and_environments(compared):
    data = compared[0].correlations
    assert data.attrs["axes"] == "width, lr" and data["axis"].values.tolist() == ["width", "lr"]
    assert "width 32 → 128 (lr 0.01)" in data["environment"].values and data.sizes["environment"] == 2 * 3 + 3
    tau = data["value"].sel(measure="path_overlap_ratio.ratio_mean", target="gap_error")
    assert tau.sel(statistic=["pearson", "kendall", "granulated"]).values == pytest.approx([1, 1, 1])
    assert tau.sel(statistic=["cmi", "sign_error_mean", "sign_error_max"]).values == pytest.approx([1, 0, 0])
    assert (data["n_runs"] == 6).all() and (data["n_undefined"] == 0).all()
    constant = data["value"].sel(measure="generalization.error[train]", target="gap_error")
    assert np.isnan(constant.sel(statistic="kendall")), "every run fits its training data"


def test_runs_in_another_order_give_the_same_numbers(compared):
    comparison, folder = compared
    again = analyze.compare(sorted(folder.glob("*.analysis"), reverse=True), bootstrap=0)
    xr.testing.assert_allclose(
        again.correlations["value"].sel(measure=comparison.measures), comparison.correlations["value"]
    )
    assert (again.correlations["n_resamples"] == 0).all() and again.correlations["low"].isnull().all()


def test_the_same_seed_gives_the_same_intervals(seeds):
    again = analyze.compare(seeds, bootstrap=100, jobs=2)
    once_more = analyze.compare(seeds, bootstrap=100)
    xr.testing.assert_identical(again.correlations, once_more.correlations)
    one = once_more.correlations.sel(statistic="pearson")
    inside = (one["low"] <= one["value"]) & (one["value"] <= one["high"])
    assert (inside | one["value"].isnull()).all() and int(inside.sum()) >= 12


def test_time_of_measures_and_of_targets(tmp_path):
    fake(tmp_path, "a", {}, gap=0.1, cosine=0.5)
    fake(tmp_path, "b", {}, gap=0.2, cosine=0.25)
    paths = sorted(tmp_path.glob("*.analysis"))
    label = "stiffness.cosine[train-test, all]"

    def at(when):
        table = analyze.compare(paths, measures=["stiffness"], at=when, bootstrap=0).table
        return table[label].tolist(), table["gap_error"].round(12).tolist()

    assert at("final") == ([1.5, 0.75], [0.1, 0.2])
    assert at("best") == ([1.0, 0.5], [0.05, 0.1]), "test loss is least at step 10, and so is taken the gap"
    assert at("early") == ([1.0, 0.5], [0.1, 0.2]), "a quarter of 40 steps; the gap is that of the end"
    assert at("mid") == at(39) == at(10) == at("early")
    assert at(5) == ([0.5, 0.25], [0.1, 0.2])
    undefined, _ = at(-1)
    assert np.isnan(undefined).all()
    with pytest.raises(ValueError, match="'final', 'best', 'early', 'mid' or a step, got 'last'"):
        at("last")


def test_kept_series_are_read_again_only_for_other_results(tmp_path, monkeypatch):
    paths = [fake(tmp_path, name, {}, gap=0.1, cosine=0.5) for name in "ab"]
    first = analyze.compare(paths, at="best", bootstrap=0).table
    monkeypatch.setattr(ResultStore, "read", lambda self, name: pytest.fail(f"{name} is read again"))
    assert analyze.compare(paths, at="best", bootstrap=0).table.equals(first)
    monkeypatch.undo()
    shutil.rmtree(paths[0])
    fake(tmp_path, "a", {}, gap=0.3, cosine=0.5)
    assert analyze.compare(paths, at="best", bootstrap=0).table["gap_error"].iloc[0] == pytest.approx(0.15)


def test_measures_of_results_and_of_their_summary_agree():
    for name, data in results(0.1, 0.5, 0.7).items():
        entry = summary(Results({name: data}), {})["metrics"][name]
        expected = {label: values[-1] for label, (_, values) in measures.series(data, name).items()}
        assert measures.final_of_summary(entry) == pytest.approx(expected) and expected


@pytest.mark.usefixtures("undrawn")
def test_a_missing_analysis_is_computed_and_saved(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_archive(tmp_path / f"{name}.zarr", seed=seed)
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    comparison = analyze.compare(paths, measures=["stiffness.cosine", "cka"], bootstrap=0)
    found = analyze.run(paths[1], ["stiffness"])["stiffness"]
    expected = float(found["cosine"].sel(pair="train-test", layer="all")[-1])
    assert comparison.table.loc["b", "stiffness.cosine[train-test, all]"] == pytest.approx(expected)
    assert comparison.table["batch_size"].notna().all()
    assert not any(label.startswith("margin") for label in comparison.measures), "only what was asked for"
    kept = load(tmp_path / "b.analysis")
    assert {"generalization", "stiffness"} <= set(kept) and (tmp_path / "b.analysis/report.html").is_file()
    ResultStore(tmp_path / "b.analysis").read("stiffness")
    shutil.rmtree(tmp_path / "a.zarr")
    again = analyze.compare([tmp_path / "a.analysis", paths[1]], measures=["stiffness.cosine"], bootstrap=0)
    assert again.table["stiffness.cosine[train-test, all]"].equals(
        comparison.table["stiffness.cosine[train-test, all]"]
    )


def test_what_a_run_cannot_have_is_undefined_and_told(tmp_path):
    paths = [fake(tmp_path, name, {}, gap=0.1 * k, cosine=k) for k, name in enumerate("abc", start=1)]
    paths.append(fake(tmp_path, "d", {}, gap=0.4, cosine=4, ratio=0.9))
    comparison = analyze.compare(paths, bootstrap=10)
    assert "path_overlap_ratio" in comparison.skipped["a"] and not comparison.skipped["d"]
    one = comparison.correlations.sel(measure="path_overlap_ratio.ratio_mean", target="gap_error")
    assert int(one["n_runs"]) == 1 and int(one["n_undefined"]) == 3 and one["value"].isnull().all()


def test_results_of_an_earlier_commit_do_not_count(tmp_path):
    write_archive(tmp_path / "a.zarr")
    fake(tmp_path, "a", {}, gap=0.9, cosine=9.0)
    (tmp_path / "a.analysis" / runs.FACTS).unlink()
    run = runs.Run.at(tmp_path / "a.zarr")
    assert run.stored(["generalization", "stiffness"]) == {}
    complete(run.computing(["generalization"], Workers()))
    assert set(run.stored(["generalization", "stiffness"])) == {"generalization"}


@pytest.mark.parametrize("n_seeds", [2, pytest.param(34, marks=pytest.mark.slow)])
def test_many_saved_analyses_open_no_archive(tmp_path, monkeypatch, n_seeds):
    paths = grid(tmp_path, n_seeds=n_seeds, stored=False)
    reads = []
    real = type(tmp_path).read_text
    monkeypatch.setattr("tracer.archive.open", lambda path: pytest.fail(f"{path} is opened"))
    monkeypatch.setattr(type(tmp_path), "read_text", lambda self, **o: reads.append(self) or real(self, **o))
    comparison = analyze.compare(paths, measures=["stiffness"], bootstrap=20)
    assert len(comparison.table) == 6 * n_seeds and comparison.correlations.attrs["axes"] == "width, lr"
    # Facts, the attributes of three results, the summary, which says twice what is in it, and digests of each store.
    assert len([place for place in reads if tmp_path in place.parents]) <= 9 * len(paths)
    tau = comparison.correlations["value"].sel(statistic="granulated", target="gap_error")
    assert (tau.sel(measure="stiffness.cosine[train-test, all]") < -0.3).all()


def test_results_that_are_not_compared_are_not_read(tmp_path, monkeypatch):
    paths = grid(tmp_path, n_seeds=1, stored=False)
    looked = []
    real = seals.digest_of
    monkeypatch.setattr(seals, "digest_of", lambda path: looked.append(path.name) or real(path))
    analyze.compare(paths, measures=["stiffness"], bootstrap=0)
    assert sorted(looked) == ["generalization"] * len(paths) + ["stiffness"] * len(paths)


def test_axes_are_free_to_vary():
    lr, width = [1, 1, 2, 2], [8, 16, 8, 16]
    table = {
        "lr": lr,
        "width": width,
        "n_parameters": [80, 320, 80, 320],
        "name": list("abcd"),
        "optimizer": ["SGD"] * 4,
    }
    assert runs.choose_axes(table) == ["lr", "width"]
    assert runs.choose_axes({"lr": [1, None, 2, 2]}) == []


def test_given_attributes_axes_and_environments(tmp_path):
    paths = [
        fake(tmp_path, name, {}, gap=gap, cosine=gap)
        for name, gap in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)
    ]
    added = {
        name: {"data": data, "depth": k % 2}
        for k, (name, data) in enumerate(zip("abcd", "mmss", strict=True))
    }
    comparison = analyze.compare(
        paths, attributes=added, axes=["depth"], environments="data", measures=["stiffness"], bootstrap=0
    )
    data = comparison.correlations
    assert data["environment"].values.tolist() == ["m", "s"] and data["axis"].values.tolist() == ["depth"]
    assert data["sign_error"].sel(target="gap_error").values.ravel().tolist() == [0, 0, 0, 0]
    with pytest.raises(MissingTraceError, match="no run has an attribute called 'widht'"):
        analyze.compare(paths, axes=["widht"], bootstrap=0)
    with pytest.raises(MissingTraceError, match="names the run 'x', which is not compared"):
        analyze.compare(paths, attributes={"x": {}}, bootstrap=0)


def test_refusals_name_what_is_meant(compared, tmp_path):
    _, folder = compared
    paths = sorted(folder.glob("*.analysis"))
    with pytest.raises(MissingTraceError, match=r"no target is called 'gap_eror'; did you mean 'gap_error'"):
        analyze.compare(paths, against=["gap_eror"])
    with pytest.raises(MissingTraceError, match=r"no run has a measure called 'stiffness\.cosin'"):
        analyze.compare(paths, measures=["stiffness.cosin"])
    with pytest.raises(MissingTraceError, match="no metric is called 'stifness'; did you mean 'stiffness'"):
        analyze.compare(paths, measures=["stifness"])
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        analyze.compare(paths[:1])
    with pytest.raises(ValueError, match="2 runs are called"):
        analyze.compare([paths[0], fake(tmp_path, paths[0].stem, {}, gap=0.1, cosine=1)])
    with pytest.raises(ArchiveError):
        analyze.compare([paths[0], tmp_path / "nowhere.zarr"])


@pytest.mark.usefixtures("undrawn")
def test_runs_that_cannot_be_read_are_named_and_the_rest_is_compared(tmp_path):
    folder = tmp_path / "runs"
    for name in ("a", "b", "lost"):
        write_archive(folder / f"{name}.zarr", steps=(0, 2), seed=ord(name[0]))
    (folder / "lost.zarr" / "probes" / "train" / "outputs" / "step" / "c.0").unlink()
    shutil.copytree(folder / "a.zarr", folder / "torn.zarr")
    (folder / "torn.zarr" / "zarr.json").write_text("{")
    (folder / "cut.zip").write_text("PK")
    made = CliRunner().invoke(cli.main, ["compare", str(folder), "-m", "generalization", "--format", "json"])
    assert made.exit_code == 1 and {row["runs"] for row in json.loads(made.stdout)} <= {0, 2}
    comparison = analyze.compare(folder, measures=["generalization"], bootstrap=0)
    torn, lost, cut, *_ = comparison.notes
    assert comparison.table.index.tolist() == ["a", "b"] and comparison.unread == [torn, lost]
    assert [line for line in made.stderr.splitlines() if line.startswith("Error")] == [
        f"Error: {torn}",
        f"Error: {lost}",
    ]
    assert torn.startswith(f"{folder / 'torn.zarr'} is left out: ") and "is not an archive" in torn
    assert lost.startswith(f"{folder / 'lost.zarr'} is left out: object ") and "tracer verify" in lost
    assert "cut.zip: it is no whole zip file" in cut
    shutil.rmtree(folder / "b.zarr"), shutil.rmtree(folder / "b.analysis")
    with pytest.raises(ArchiveError, match=r"two runs, of which 1 can be compared: .*torn\.zarr is left out"):
        analyze.compare(folder, measures=["generalization"], bootstrap=0)


def test_saved_files_are_complete_and_self_contained(compared, tmp_path):
    comparison, folder = compared
    (folder / "w32-lr0.1-s0.analysis" / "report.html").write_text("report")
    out = comparison.save(folder / "out")
    html = (out / "comparison.html").read_text()
    assert "../w32-lr0.1-s0.analysis/report.html" in html and html.count("<svg") == 6
    known = ("https://arxiv.org", "http-equiv", "http://www.w3.org/2000/svg")
    assert "http" not in functools.reduce(lambda text, name: text.replace(name, ""), known, html)
    assert html.count("<script") == 1  # the page's own
    assert {path.stem for path in (out / "figures").iterdir()} == {
        "bars",
        "scatters",
        "environments",
        "over_training",
        "over_training_2",
        "path_overlap",
    }
    kept = json.loads(
        (out / "comparison.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON")
    )
    cell = kept["correlations"]["path_overlap_ratio.ratio_mean"]["gap_error"]
    assert (
        cell["kendall"]["value"] == pytest.approx(1) and cell["n_runs"] == 6 and len(cell["sign_error"]) == 9
    )
    assert kept["runs"]["w64-lr0.1-s0"]["width"] == 64
    lines = (out / "correlations.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * 4 * 8 and "measure,target,statistic,value,low,high" in lines[0]
    assert (out / "runs.csv").read_text().startswith("run,title,width")


def test_notebook_view_reads_nothing_and_escapes(compared, monkeypatch):
    comparison, _ = compared
    monkeypatch.setattr(type(comparison.runs[0].analysis), "read_text", lambda *a, **o: pytest.fail("read"))
    assert "path_overlap_ratio.ratio_mean" in comparison._repr_html_() and "6 runs" in repr(comparison)


@pytest.mark.usefixtures("undrawn")
def test_foreign_names_are_only_shown(tmp_path):
    paths = [
        fake(tmp_path, f"<i>{k}", {"note": f"<b>{k}", "lr": k % 2}, gap=0.1 * k, cosine=k) for k in (1, 2, 3)
    ]
    comparison = analyze.compare(paths, bootstrap=0)
    html = (comparison.save(tmp_path / "out") / "comparison.html").read_text()
    assert "<i>1" not in html and "&lt;i&gt;1" in html


@pytest.mark.usefixtures("undrawn")
def test_command_prints_rows_and_writes_the_page(seeds, tmp_path):
    runs = [str(path) for path in seeds]
    settings = ["--against", "gap_error", "-m", "stiffness", "--bootstrap", "20", "--format"]
    outcome = CliRunner().invoke(cli.main, ["compare", *runs, *settings, "json", "-o", str(tmp_path / "out")])
    assert outcome.exit_code == 0, outcome.output
    rows = json.loads(outcome.stdout)
    assert {row["target"] for row in rows} == {"gap_error"} and len(rows) == 2
    assert rows[0]["runs"] == 12 and rows[0]["kendall_low"] <= rows[0]["kendall"] <= rows[0]["kendall_high"]
    assert (tmp_path / "out" / "comparison.html").is_file() and "comparison.html" in outcome.stderr
    table = CliRunner().invoke(cli.main, ["compare", *runs, *settings, "csv", "--at", "10"])
    assert table.stdout.startswith("measure,target,pearson,spearman,kendall") and table.exit_code == 0
    refused = CliRunner().invoke(cli.main, ["compare", *runs, "--at", "last"])
    assert refused.exit_code == 1 and "got 'last'" in refused.stderr


def test_the_bars_and_their_words_are_within_the_figure(compared):
    figure = plot.styled(lambda figure: figures.bars(compared[0], figure, "gap_error"))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for text in (axes.xaxis.label, *axes.get_yticklabels()):
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text.get_text()
    assert axes.bbox.width > 0.4 * figure.bbox.width
