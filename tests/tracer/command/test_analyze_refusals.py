"""What `tracer analyze` and its Python twin do not take: runs of one place, snapshots that are none, options."""

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import analyze
import cli
from analyze.command.analysis import analyze_one
from tests.damage import files_of
from tests.synthetic import write_archive
from tracer.archive import open as open_archive
from tracer.errors import ArgumentError, MissingTraceError
from tracer.share.attributes import set_attributes

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished archive of four updates, with snapshots at 0, 2 and 4."""
    path = tmp_path_factory.mktemp("refusals") / "a.zarr"
    write_archive(path, steps=(0, 2, 4))
    return path


def tracer(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def told(result):
    return " ".join(result.stderr.split())


def test_two_runs_whose_results_would_go_to_one_place_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "a.zarr")
    assert tracer("pack", run, "-o", tmp_path / "a.zip").exit_code == 0
    result = tracer("analyze", tmp_path, "-m", "margin")
    assert result.exit_code == 2 and f"would both go to {tmp_path / 'a.analysis'}; give one" in told(result)
    assert not (tmp_path / "a.analysis").exists()


def test_a_run_that_is_named_twice_is_taken_once(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent)
    names = ("a.zarr", "./a.zarr", run, f"../{run.parent.name}/a.zarr/", f"file://{run}")
    result = tracer("analyze", *names, "-m", "margin", "-o", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr.count("report: ") == 1, told(result)


WRITING = [
    ("analyze", "RUN", "-m", "margin", "-o"),
    ("pack", "RUN", "-o"),
    ("unpack", "RUN", "-o"),
    ("export", "RUN"),
    ("pull", "RUN"),
    ("import", "RUN/zarr.json"),
]


@pytest.mark.parametrize("command", WRITING, ids=[command[0] for command in WRITING])
def test_what_is_written_here_is_given_no_url(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    result = tracer(*(part.replace("RUN", str(run)) for part in command), "s3://bucket/a.zarr")
    assert result.exit_code == 1 and "cannot write into 's3:/" in told(result), told(result)
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_written_into_an_archive(run, tmp_path):
    shutil.copytree(run, tmp_path / "b.zarr")
    before = files_of(tmp_path)
    result = tracer("analyze", run, "-m", "margin", "-o", tmp_path / "b.zarr")
    assert result.exit_code == 1 and "b.zarr' is an archive; choose another place for the results" in told(
        result
    )
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("asked", "got"), [("5", "5"), ("-1", "-1"), ("0,999999", "999999"), ("7,8,9,10", "7, 8, 9, ...")]
)
def test_a_step_without_a_snapshot_is_refused_before_anything_is_computed(run, tmp_path, asked, got):
    result = tracer("analyze", run, "--snapshots", asked, "-m", "margin", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"snapshots got {got}, expected few, all, or steps of snapshots, of which" in told(result)
    assert "has 3: 0, 2, 4" in told(result) and not (tmp_path / "out" / "results.zarr").exists()


@pytest.mark.parametrize("snapshots", [[], "some", [3], ["0"], (0, 999999), np.array([1])])
def test_python_refuses_such_snapshots_too(run, snapshots):
    with pytest.raises(ArgumentError, match=r"snapshots got .* has 3: 0, 2, 4$"):
        analyze.run(run, ["margin"], snapshots=snapshots)


def test_a_metric_that_has_none_of_the_chosen_snapshots_says_so(everything):
    archive = open_archive(everything)
    weights = set(archive.steps("weights").tolist())
    archive._source.steps = moved(archive._source.steps, "weights", min(weights) + 1)
    with pytest.raises(MissingTraceError, match=r"was asked for at \d+, and what it reads is recorded at "):
        analyze.run(archive, ["sharpness"], snapshots=[min(weights)])


def moved(steps, stream, first):
    """Steps of an archive without those of a stream before one."""
    return lambda path: steps(path)[steps(path) >= first] if path == stream else steps(path)


@pytest.mark.parametrize("patience", [math.nan, -1.0])
def test_a_patience_that_is_no_time_is_refused(run, patience):
    with pytest.raises(ArgumentError, match="patience is a number of seconds, 0 or more, got"):
        analyze.run(run, patience=patience)
    result = tracer("analyze", run, "--patience", patience)
    assert result.exit_code == 2 and "--patience" in told(result)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "stiffness.zero=foo",
            "option 'zero' of metric 'stiffness' got 'foo', expected one of 'nan', 'as_zero'",
        ),
        ("cka.estimator=1", "got 1, expected one of 'biased', 'unbiased'"),
        ("margin.q=[]", "got [], expected one value or more, such as [0.01, "),
    ],
)
def test_a_value_that_an_option_cannot_have_is_a_usage_error(setting, sentence):
    result = tracer("analyze", "run.zarr", "--set", setting)
    assert result.exit_code == 2 and sentence in told(result)


def test_python_refuses_such_options_too(run):
    with pytest.raises(ArgumentError, match="expected one of 'nan', 'as_zero'"):
        analyze.run(run, ["stiffness"], options={"stiffness": {"zero": "foo"}})


def test_a_run_whose_name_is_no_utf_8_is_analyzed(run, tmp_path):
    place = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.zarr"))
    shutil.copytree(run, place)
    set_attributes(place, {"title": ""})
    result = tracer("analyze", place, "-m", "margin", "--jobs", "1")
    assert result.exit_code == 0, told(result)
    page = place.with_suffix(".analysis") / "report.html"
    assert "\\udcff.zarr" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("force", [False, True])
def test_nothing_of_a_run_that_was_replaced_stays(run, tmp_path, force):
    target, place = tmp_path / "a.analysis", tmp_path / "a.zarr"
    shutil.copytree(run, place)
    analyze_one(str(place), target, apart=False, metrics=["margin", "stiffness"])
    (target / "figures" / "mine.svg").write_text("not of any metric")
    assert {file.name for file in target.glob("*/stiffness.*")} == {"stiffness.csv", "stiffness.svg"}
    shutil.rmtree(place)
    write_archive(place, steps=(0, 2), seed=1)
    analyze_one(str(place), target, force, apart=False, metrics=["margin"])
    assert not list(target.glob("**/stiffness*")) and (target / "tables" / "margin.csv").is_file()
    assert "stiffness.csv" not in (target / "digests.json").read_text()
    assert (target / "figures" / "mine.svg").is_file() and set(analyze.load(target)) == {"margin"}
