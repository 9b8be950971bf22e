"""How far a run is and how its loss stands: that of a run that diverged is no number of before."""

import inspect
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from tests.synthetic import diverging, write_archive
from tracer.archive import open as open_archive
from tracer.archive.summary import progress_of, summarize

NAN, INF = np.nan, np.inf


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A finished archive of eight updates."""
    place = tmp_path_factory.mktemp("progress") / "a.zarr"
    write_archive(place)
    return place


@pytest.mark.parametrize(
    ("losses", "state", "expected"),
    [
        ([3, 2, 1, 1, 1, 1, 1, 0.5], "complete", 0.5),
        ([3, 2, 9, NAN, NAN, NAN, NAN, NAN], "complete", "NaN since 4"),
        ([3, 2, 9, INF, NAN, NAN, NAN, NAN], "recording", "NaN since 4"),
        ([3, 2, 9, 9, 9, 9, 9, NAN], "complete", "NaN since 8"),
        ([3, 2, 1, 1, 1, 1, 1, NAN], "interrupted", 1),  # its last update was, before its loss was told
        ([3, 2, 9, 9, 9, 9, 9, INF], "interrupted", "NaN since 8"),
        ([3, NAN, 2, 1, 1, 1, 1, 0.5], "complete", 0.5),
        ([NAN, 2, NAN, 1, NAN, 1, NAN, 1], "complete", 1),
        ([NAN, NAN, 2, NAN, NAN, 1, NAN, NAN], "complete", 1),  # told at every third
        ([NAN, 2, NAN, 1, NAN, NAN, NAN, NAN], "complete", "NaN since 5"),
        ([NAN] * 8, "complete", None),  # never told
    ],
)
def test_a_loss_that_is_due_and_lacks_is_nan(path, losses, state, expected):
    archive = open_archive(path)
    archive.rows["loss"] = np.array([NAN, *losses], float)
    archive._source.attributes["tracer"]["state"] = state
    assert archive.state == state and progress_of(archive)["loss"] == expected


def test_a_run_without_updates_has_no_loss(tmp_path):
    write_archive(tmp_path / "a.zarr", steps=(0,))
    assert progress_of(open_archive(tmp_path / "a.zarr"))["loss"] is None


@pytest.mark.parametrize("last", [NAN, INF])
def test_times_that_are_none_give_no_duration(path, last):
    archive = open_archive(path)
    archive.rows["time"][-1] = last
    assert progress_of(archive)["seconds"] is None
    assert summarize(archive)["trained"]["seconds"] is None


def test_folders_within_folders_are_measured_without_end(path, tmp_path):
    deep = tmp_path / "a.zarr"
    shutil.copytree(path, deep)
    known = summarize(open_archive(deep))["recorded"]
    inner = deep / "steps" / "/".join("a" * 400)
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"12345")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    try:
        told = summarize(open_archive(deep))["recorded"]
    finally:
        sys.setrecursionlimit(before)
    assert (told["bytes"], told["files"]) == (known["bytes"] + 5, known["files"] + 1)


def test_list_and_info_say_since_when(tmp_path, monkeypatch):
    diverging(monkeypatch, after=3)
    write_archive(tmp_path / "a.zarr")
    listed = CliRunner().invoke(cli.main, ["list", str(tmp_path)])
    assert "NaN since 4" in listed.stdout
    shown = CliRunner().invoke(cli.main, ["info", str(tmp_path / "a.zarr")])
    last = summarize(open_archive(tmp_path / "a.zarr"))["trained"]["last_loss"]
    assert last.startswith("NaN since update 4, or not given; ") and last in shown.stdout
