"""What `tracer watch` knows of runs: facts and metrics as they land, whatever becomes of the runs."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import analyze
from analyze.engine.blocks import Worker
from analyze.watch import survey as module
from analyze.watch.charts import CHARTS
from analyze.watch.survey import METRICS, Survey, report_of
from tests.synthetic import diverging, write_archive
from tracer.archive import Archive, ranks
from tracer.archive import open as open_archive
from tracer.errors import ArchiveError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory of two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    write_archive(folder / "a.zarr", steps=(0, 2, 4, 8))
    write_archive(folder / "deep" / "b.zarr", steps=(0, 4), seed=1)
    return folder


@pytest.fixture
def watched():
    """Makes surveys, which are closed at the end."""
    made = []

    def make(place, **options):
        made.append(Survey(str(place), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def margin_alone(monkeypatch):
    """One metric, for tests of what becomes of runs."""
    monkeypatch.setattr(module, "METRICS", ("margin",))


@pytest.fixture(scope="module")
def looked(runs):
    """A survey of both runs that has looked at them, how the directory was before, and what was kept then."""
    before = content(runs)
    survey = Survey(str(runs))
    survey.look()
    yield survey, before, any(survey._folder.iterdir())
    survey.close()


def content(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def lines(survey, name, **asked):
    charts = {chart["name"]: chart for chart in survey.curves(**asked)}
    return charts[name]["lines"] if name in charts else []


def test_facts_and_curves_are_those_of_the_archive_and_of_an_analysis(runs, looked):
    survey, *_ = looked
    a, b = survey.state()["runs"]
    assert [a["name"], b["name"]] == ["a", "b"] and survey.state()["trouble"] == ""
    assert (a["state"], a["updates"], a["epochs"], a["snapshots"], a["computing"]) == (
        "complete",
        8,
        2,
        4,
        False,
    )
    results = analyze.run(runs / "a.zarr", METRICS)
    error = results["generalization"]["error"]
    assert a["test_error"] == pytest.approx(float(error.sel(probe="test")[-1]))
    assert a["gap"] == pytest.approx(float(results["generalization"]["gap_error"][-1]))
    (first, _) = lines(survey, "stiffness")
    assert (first["group"], first["x"]) == ("a", [0, 2, 4, 8])
    cosine = results["stiffness"]["cosine"].sel(pair="train-train", layer="all")
    assert first["y"] == pytest.approx(cosine.values.tolist(), rel=1e-5)
    assert lines(survey, "test_error")[0]["y"] == pytest.approx(
        error.sel(probe="test").values.tolist(), rel=1e-5
    )
    with open_archive(runs / "a.zarr") as archive:
        losses = archive.rows["loss"]
    assert lines(survey, "training_loss")[0]["y"] == pytest.approx(
        losses[np.isfinite(losses)].tolist(), rel=1e-5
    )
    assert lines(survey, "stiffness", x="epoch")[0]["x"] == sorted(
        set(results["stiffness"]["epoch"].values.tolist())
    )
    assert {chart["name"] for chart in survey.curves()} <= {chart.name for chart in CHARTS}


def test_runs_of_one_value_of_an_attribute_are_one_band(looked):
    survey, *_ = looked
    assert survey.state()["varied"] == ["steps"]  # the synthetic card says how many updates there were
    bands = lines(survey, "stiffness", by="steps")
    assert [(band["group"], band["n"]) for band in bands] == [(4, 1), (8, 1)]
    together = lines(survey, "stiffness", by="optimizer")
    assert [(band["group"], band["n"], band["x"]) for band in together] == [("SGD", 2, [0, 2, 4, 8])]
    assert all(
        low <= mean <= high
        for low, mean, high in zip(*(together[0][k] for k in ("low", "y", "high")), strict=True)
    )
    assert lines(survey, "stiffness", by="nothing") == lines(survey, "stiffness")


def test_what_is_known_is_not_computed_again(runs, watched, monkeypatch):
    """Of a run that grows by a snapshot one snapshot is computed; of one that does not, nothing."""
    seen, limit = Counter(), [4]
    original, opened, stamp = Worker.compute, module.open_archive, module._stamp

    def compute(self, block):
        seen.update(step for _ in block.names for step in block.steps)
        return original(self, block)

    def until(path):
        archive = opened(path)
        ranks.cut(archive._source, limit[0])
        return archive

    monkeypatch.setattr(Worker, "compute", compute)
    monkeypatch.setattr(module, "open_archive", until)
    monkeypatch.setattr(module, "_stamp", lambda path: (stamp(path), limit[0]))
    monkeypatch.setattr(Archive, "digest", property(lambda self: f"of step {limit[0]}"))
    survey = watched(runs / "a.zarr")
    survey.look()
    assert set(seen) == {0, 2, 4} and survey.state()["runs"][0]["updates"] == 4
    version = survey.version
    seen.clear()
    survey.look()
    assert not seen and survey.version == version
    limit[0] = 8
    survey.look()
    assert set(seen) <= {8, 4} and seen[8] >= len(METRICS) - 1  # a comparison in time reads the one before
    assert lines(survey, "margin")[0]["x"] == [0, 2, 4, 8] and survey.version > version


@pytest.mark.usefixtures("margin_alone")
def test_a_run_that_is_damaged_deleted_replaced_or_begins_costs_no_other(tmp_path, watched):
    write_archive(tmp_path / "a.zarr", steps=(0, 2))
    survey = watched(tmp_path)
    survey.look()
    write_archive(tmp_path / "b.zarr", steps=(0, 2), state="recording")
    root = tmp_path / "a.zarr" / "zarr.json"
    whole = root.read_bytes()
    root.write_text("{")
    survey.look()
    a, b = survey.state()["runs"]
    assert a["state"] == "unreadable" and "zarr.json" in a["note"]
    assert (b["name"], b["state"]) == ("b", "recording") and lines(survey, "margin")[-1]["group"] == "b"
    root.write_bytes(whole)
    survey.look()
    assert survey.state()["runs"][0]["state"] == "complete"
    shutil.rmtree(tmp_path / "b.zarr")
    survey.look()
    assert [run["name"] for run in survey.state()["runs"]] == ["a"] and len(lines(survey, "margin")) == 1
    shutil.rmtree(tmp_path / "a.zarr")
    write_archive(tmp_path / "a.zarr", steps=(0, 3), seed=5)
    survey.look()
    assert lines(survey, "margin")[0]["x"] == [0, 3]
    shutil.rmtree(tmp_path)
    survey.look()
    assert survey.state()["runs"] == [] and "there is no directory" in survey.state()["trouble"]


def test_a_run_whose_metrics_fail_says_so_and_keeps_its_facts(runs, watched, monkeypatch):
    def fail(*args, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(module, "Session", fail)
    survey = watched(runs)
    survey.look()
    run = survey.state()["runs"][0]
    assert run["note"] == "MemoryError: no room" and run["updates"] == 8 and not run["computing"]


def test_those_that_train_come_first_and_each_has_its_turn(tmp_path, watched, monkeypatch):
    for name, state in (("a", "complete"), ("b", "recording"), ("c", "complete")):
        write_archive(tmp_path / f"{name}.zarr", steps=(0, 1), state=state)
    order = []

    def compute(self, run):
        order.append(run.name)
        run.due, run.computed = run.name == "b" and len(order) < 4, len(order)  # b goes on meanwhile

    monkeypatch.setattr(Survey, "_compute", compute)
    watched(tmp_path).look()
    assert order == ["b", "a", "c", "b"]


def test_nothing_is_written_to_the_directory(runs, looked, tmp_path):
    _, before, kept = looked
    assert content(runs) == before and kept
    survey = Survey(str(tmp_path))
    assert survey._folder.exists()
    survey.close()
    assert not survey._folder.exists()


@pytest.mark.usefixtures("margin_alone")
def test_links_that_are_not_followed_are_told(runs, watched, tmp_path):
    (tmp_path / "linked.zarr").symlink_to(next(runs.glob("*.zarr")))
    survey = watched(tmp_path)
    survey.look()
    assert "1 link to an archive is not followed (linked.zarr)" in survey.state()["trouble"]


@pytest.mark.usefixtures("margin_alone")
def test_runs_at_a_url_are_watched_too(runs, watched):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(runs / "a.zarr"), "/watched/runs/a.zarr", recursive=True)
    survey = watched("memory://watched/runs")
    survey.look()
    (run,) = survey.state()["runs"]
    assert (run["name"], run["updates"], run["note"]) == ("a", 8, "")
    assert lines(survey, "margin") and report_of(next(iter(survey.runs.values())), survey.place) is None
    memory.rm("/watched", recursive=True)


@pytest.mark.usefixtures("margin_alone")
def test_only_a_report_within_the_directory_is_served(tmp_path, watched):
    write_archive(tmp_path / "runs" / "a.zarr", steps=(0, 2))
    survey = watched(tmp_path / "runs")
    survey.look()
    (run,) = survey.runs.values()
    assert report_of(run, survey.place) is None
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    analysis = tmp_path / "runs" / "a.analysis"
    analysis.mkdir()
    (analysis / "report.html").symlink_to(secret)
    assert report_of(run, survey.place) is None
    (analysis / "report.html").unlink()
    (analysis / "report.html").write_text("report")
    assert report_of(run, survey.place).read_text() == "report"
    analysis.rename(tmp_path / "elsewhere")
    analysis.symlink_to(tmp_path / "elsewhere")
    assert report_of(run, survey.place) is None


def test_a_place_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(ArchiveError, match="there is no directory and no archive at"):
        Survey(str(tmp_path / "none"))


@pytest.mark.usefixtures("margin_alone")
def test_a_name_that_is_no_utf_8_is_a_run_like_any_other(tmp_path, watched):
    write_archive(tmp_path / "a.zarr", steps=(0, 2))
    (tmp_path / "a.zarr").rename(Path(os.fsdecode(bytes(tmp_path) + b"/\xff.zarr")))
    survey = watched(tmp_path)
    survey.look()
    (run,) = survey.state()["runs"]
    assert (run["state"], run["note"], run["computing"]) == ("complete", "", False)
    assert run["name"] == r"\udcff" and lines(survey, "margin")


def test_whatever_ends_a_look_is_told_and_the_next_look_comes(runs, watched, monkeypatch):
    survey = watched(runs)
    told, looks = [], iter([RuntimeError("nobody foresaw it"), None])

    def read():
        told.append(survey.state()["trouble"])
        if failure := next(looks):
            raise failure
        return iter(())

    def wait(seconds):
        if len(told) == 2:
            survey._ended.set()

    monkeypatch.setattr(survey, "_read", read)
    monkeypatch.setattr(survey._ended, "wait", wait)
    version = survey.version
    survey._go()
    assert told == ["", "the last look ended early: RuntimeError: nobody foresaw it"]
    assert survey.state()["trouble"] == "" and survey.version == version + 2


@pytest.mark.usefixtures("margin_alone")
def test_the_loss_of_a_run_that_diverged_is_no_number_of_before(tmp_path, watched, monkeypatch):
    diverging(monkeypatch, after=3)
    write_archive(tmp_path / "a.zarr", steps=(0, 8))
    survey = watched(tmp_path)
    survey.look()
    assert survey.state()["runs"][0]["loss"] == "NaN since 4"
