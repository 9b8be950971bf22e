"""The numbers that trackers are sent are those of the comparison, at the steps they belong to."""

import sys
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import analyze
import cli
from analyze.comparison.measures import series
from analyze.watch.trackers import name_of, tracker
from tests.synthetic import write_archive
from tracer.errors import MissingPackageError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "a.zarr"
    write_archive(path, steps=(0, 2, 4))
    return path


class Scalars(dict):
    def add_scalar(self, name, value, step):
        self[name, step] = value


class Log(list):
    def log(self, values, step):
        self.append((step, dict(values)))


def test_scalars_are_the_measures_step_by_step(run):
    results = analyze.run(run, ["stiffness", "margin"])
    writer, log = Scalars(), Log()
    count = analyze.mirror_metrics(results, writer)
    assert count == len(writer) == analyze.mirror_metrics(results, log) > 6
    cosine = results["stiffness"]["cosine"].sel(pair="train-train", layer="all", step=4)
    assert writer["stiffness/cosine/train-train/all", 4] == float(cosine)
    told = {name_of(label) for metric in results for label in series(results[metric], metric)}
    assert {name for name, _ in writer} <= told
    assert [step for step, _ in log] == [0, 2, 4]  # W&B takes steps in order only
    assert {(name, step): value for step, values in log for name, value in values.items()} == writer


def test_undefined_values_are_left_out_and_what_has_no_step_comes_at_the_end():
    data = xr.Dataset({"gamma": ("step", [1.0, np.nan]), "total": ((), 3.0)}, {"step": [0, 5]})
    writer = Scalars()
    assert analyze.mirror_metrics({"margin": data}, writer) == 2
    assert writer == {("margin/gamma", 0): 1.0, ("margin/total", 5): 3.0}


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="mirror= got a list"):
        analyze.mirror_metrics({}, [])


# Its own dependencies deprecate what they use.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_the_command_wrote(run, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `test` brings tensorboard")
    options = ["-o", str(tmp_path / "out"), "-m", "margin", "--to", "tensorboard", str(tmp_path / "logs")]
    result = CliRunner().invoke(cli.main, ["analyze", str(run), *options])
    assert result.exit_code == 0, result.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "logs").iterdir()
    read = EventAccumulator(str(folder)).Reload()
    values = analyze.load(tmp_path / "out")["margin"]["gamma"].sel(probe="train").values
    events = read.Tensors("margin/gamma/train")
    assert [event.step for event in events] == [0, 2, 4]
    assert [event.tensor_proto.float_val[0] for event in events] == pytest.approx(values.tolist(), rel=1e-6)


def test_a_file_is_no_place_for_tensorboard_and_said_before_anything_is_computed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("analyze.watch.trackers.find_spec", lambda kind: kind)
    (tmp_path / "file").touch()
    for place in ("file", "file/logs"):
        options = ["-o", str(tmp_path / "out"), "-m", "margin", "--to", "tensorboard", str(tmp_path / place)]
        result = CliRunner().invoke(cli.main, ["analyze", str(run), *options])
        assert result.exit_code == 1 and "is a file or below one" in result.stderr
    assert not (tmp_path / "out").exists()


def fake(name, **functions):
    module = ModuleType(name)
    vars(module).update(functions)
    return module


def test_wandb_and_mlflow_are_given_the_same(monkeypatch):
    told = []

    class Run(Log):
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            told.append(("finish", list(self)))

    started = fake(
        "mlflow",
        set_tracking_uri=lambda uri: told.append(uri),
        start_run=lambda run_name: told.append(run_name) or Run(),
        log_metrics=lambda values, step: told.append((values, step)),
    )
    modules = {"wandb": fake("wandb", init=lambda **asked: told.append(asked) or Run()), "mlflow": started}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("analyze.watch.trackers.find_spec", lambda kind: kind)
        with tracker(name, "place", "a") as one:
            one.log({"x": 1.0}, step=2)
    assert told == [
        {"project": "place", "name": "a"},
        ("finish", [(2, {"x": 1.0})]),
        *("place", "a", ({"x": 1.0}, 2)),
        ("finish", []),
    ]


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_computed(run, monkeypatch):
    monkeypatch.setattr("analyze.watch.trackers.find_spec", lambda kind: None)
    with (
        pytest.raises(MissingPackageError, match="--to wandb needs the package wandb: pip install wandb"),
        tracker("wandb", "p", "a"),
    ):
        raise AssertionError("not reached")
    result = CliRunner().invoke(cli.main, ["analyze", str(run), "--to", "mlflow", "uri"])
    assert result.exit_code == 1 and "--to mlflow needs the package mlflow" in result.stderr
    assert not run.with_suffix(".analysis").exists()
