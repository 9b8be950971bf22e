"""The command line: data on stdout, notes on stderr, exit codes, errors in one sentence."""

import csv
import io
import json

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import analyze
import cli
from tests.synthetic import write_archive


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished archive of eight updates."""
    path = tmp_path_factory.mktemp("cli") / "tiny.zarr"
    write_archive(path)
    return path


def tracer(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", ["", *cli.main.commands])
def test_every_command_has_help(name):
    result = tracer(*filter(None, [name, "-h"]))
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage:")
    assert "--debug" in result.stdout


@pytest.mark.parametrize("name", ["analyze", "info", "metrics"])
def test_commands_with_data_share_the_format_option(name):
    assert "--format [table|json|csv]" in tracer(name, "--help").stdout


def test_a_misspelt_command_is_corrected():
    result = tracer("analize")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "analyze" in result.stderr


# -- info ----------------------------------------------------------------------------------------


def test_info_tells_what_was_trained_and_recorded(run):
    result = tracer("info", run)
    assert (result.exit_code, result.stderr) == (0, "")
    for text in ("(complete)", "Synthetic", "cross_entropy", "weight 8×6, bias 8", "gradients", "run_id"):
        assert text in result.stdout


def test_info_as_json_and_csv_hold_the_same(run):
    tree = json.loads(tracer("info", run, "--format", "json").stdout)
    assert tree["state"] == "complete"
    assert tree["trained"]["updates"] == 8
    assert tree["recorded"]["bytes"] == sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    assert {(row["stream"], row["probe"]) for row in tree["streams"]} >= {("masks", "train"), ("gram", None)}
    assert [probe["examples"] for probe in tree["probes"]] == [16, 12]
    flat = {row["field"]: row["value"] for row in rows(tracer("info", run, "--format", "csv").stdout)}
    assert flat["trained.updates"] == "8"
    assert flat["probes.1.probe"] == "test"


@pytest.mark.parametrize("command", ["info", "analyze"])
def test_a_path_without_an_archive_is_refused_in_one_sentence(command, tmp_path):
    result = tracer(command, tmp_path / "absent.zarr")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert "absent.zarr" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--debug", "info"], ["info", "--debug"]])
def test_debug_shows_the_exception(arguments, tmp_path):
    result = tracer(*arguments, tmp_path / "absent.zarr")
    assert type(result.exception).__name__ == "ArchiveError"


# -- metrics -------------------------------------------------------------------------------------


def test_metrics_lists_every_metric_with_its_source():
    listed = {row["metric"]: row for row in json.loads(tracer("metrics", "--format", "json").stdout)}
    assert listed.keys() == analyze.available_metrics().keys()
    assert set(listed["stiffness"]) == {"metric", "title", "formula", "reads", "cost", "source"}
    assert "arXiv:1901.09491" in listed["stiffness"]["source"]
    table = tracer("metrics").stdout.splitlines()
    assert len(table) == len(listed) + 1


def test_metrics_with_a_name_shows_the_whole_card():
    text = tracer("metrics", "stiffness").stdout
    card = analyze.available_metrics()["stiffness"]
    for part in (card.title, card.formula, card.reading, card.cost, *card.variables, *card.options):
        assert part in text
    assert ">>>" not in text


def test_bibtex_holds_each_publication_once():
    text = tracer("metrics", "--bibtex").stdout
    keys = {reference.key for card in analyze.available_metrics().values() for reference in card.reference}
    assert text.count("@") == len(keys)
    assert "fort2019stiffness" in tracer("metrics", "stiffness", "--bibtex").stdout


@pytest.mark.parametrize("arguments", [["metrics", "stiffnes"], ["analyze", "run.zarr", "-m", "stiffnes"]])
def test_a_misspelt_metric_is_a_usage_error_with_a_hint(arguments):
    result = tracer(*arguments)
    assert result.exit_code == 2
    assert "did you mean 'stiffness'?" in result.stderr


def test_metric_names_complete_with_their_titles():
    complete = ShellComplete(cli.main, {}, "tracer", "_TRACER_COMPLETE")
    items = complete.get_completions(["analyze", "run.zarr", "-m"], "gradient_c")
    assert {item.value: item.help for item in items} == {
        name: card.title
        for name, card in analyze.available_metrics().items()
        if name.startswith("gradient_c")
    }
    assert len(items) == 2


# -- analyze -------------------------------------------------------------------------------------


def test_analyze_writes_beside_the_run_and_prints_the_values(run):
    result = tracer("analyze", run, "-m", "stiffness", "-m", "el2n", "--format", "csv")
    assert result.exit_code == 0, result.stderr
    listed = rows(result.stdout)
    assert {row["metric"] for row in listed} == {"stiffness", "el2n"}
    assert -1 <= float(listed[0]["last"]) <= 1
    target = run.with_suffix(".analysis")
    assert f"report: {target / 'report.html'}" in result.stderr
    assert "Stiffness" in (target / "report.html").read_text()


@pytest.mark.parametrize(
    ("run", "place"),
    [
        ("runs/a.zarr", "runs/a.analysis"),
        ("runs/a.zarr/", "runs/a.analysis"),
        ("a.zip", "a.analysis"),
        ("run.3", "run.3.analysis"),
        ("s3://bucket/runs/a.zarr", "a.analysis"),
    ],
)
def test_results_go_beside_a_local_run_and_here_for_a_remote_one(run, place):
    assert cli._beside(run).as_posix() == place


def test_a_rerun_computes_nothing_unless_forced(run, tmp_path):
    def computed(*more):
        tracer("analyze", run, "-o", tmp_path / "out", "-m", "el2n", *more)
        return analyze.load(tmp_path / "out")["el2n"].attrs["created"], marker.stat().st_mtime_ns

    marker = tmp_path / "out" / "results.zarr" / "el2n" / "zarr.json"
    first = computed()
    assert computed() == first
    assert computed("--force")[0] >= first[0]


def test_options_are_set_by_metric_and_name(run, tmp_path):
    result = tracer(
        "analyze",
        run,
        "-o",
        tmp_path,
        "-m",
        "stiffness",
        "--set",
        "stiffness.zero=as_zero",
        "--format",
        "json",
    )
    assert result.exit_code == 0, result.stderr
    assert '"zero": "as_zero"' in analyze.load(tmp_path)["stiffness"].attrs["options"]


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("stiffness.zer=1", "did you mean 'zero'?"),
        ("stifness.zero=1", "did you mean 'stiffness'?"),
        ("zero=1", "METRIC.OPTION=VALUE"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(setting, hint):
    result = tracer("analyze", "run.zarr", "--set", setting)
    assert result.exit_code == 2
    assert hint in result.stderr


def test_a_memory_that_is_no_size_is_a_usage_error():
    result = tracer("analyze", "run.zarr", "--memory", "much")
    assert result.exit_code == 2
    assert "2GB" in result.stderr


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """An archive without Gram matrices."""
    path = tmp_path_factory.mktemp("poor") / "poor.zarr"
    write_archive(path, gram=False, steps=(0, 2))
    return path


def test_what_cannot_be_computed_is_told_line_by_line(poor, tmp_path, monkeypatch):
    cards = analyze.available_metrics()
    chosen = {name: cards[name] for name in ("stiffness", "el2n")}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: chosen)
    result = tracer("analyze", poor, "-o", tmp_path)
    assert result.exit_code == 0
    assert "skipped stiffness: " in result.stderr
    assert "stiffness" not in result.stdout
    assert "el2n" in result.stdout


def test_naming_a_metric_that_cannot_be_computed_is_an_error(poor, tmp_path):
    result = tracer("analyze", poor, "-o", tmp_path, "-m", "stiffness")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: stiffness")
    assert len(result.stderr.splitlines()) == 1
