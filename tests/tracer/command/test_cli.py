"""The command line: data on stdout, notes on stderr, exit codes, errors in one sentence."""

import csv
import io
import json
import shlex
import shutil
import sys

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import analyze
import cli
from analyze.command.analysis import beside
from tests.synthetic import write_archive
from tracer.archive import open as open_archive

pytestmark = pytest.mark.usefixtures("undrawn")
OWN = """
from analyze import metric


@metric(reads=("losses",), variables={"worst": ("step",)}, title="Worst loss")
def my_metric(losses, *, k=1):
    'The k-th largest loss of any example.'
    return {"worst": -__import__("numpy").sort(-losses, axis=-1)[:, k - 1]}


def plot_my_metric(result, figure):
    figure.subplots().plot(result["step"], result["worst"])
"""


def forget(module):
    """As if the module had never been loaded."""
    if module in sys.modules:
        sys.path.remove(sys.modules.pop(module).__file__.rpartition("/")[0])


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


def commands():
    return [(name, line) for name in cli.main.commands for line in shown(cli.main.commands[name])]


def shown(command):
    return [line.strip() for line in command.epilog.splitlines() if line.strip().startswith("tracer ")]


@pytest.mark.parametrize("name", cli.main.commands)
def test_every_help_ends_with_examples_of_that_very_command(name):
    assert all(line.split()[1] == name for line in shown(cli.main.commands[name]))
    assert tracer(name, "-h").stdout.rstrip().splitlines()[-1].strip() in shown(cli.main.commands[name])


@pytest.mark.parametrize(("name", "line"), commands())
def test_every_example_of_a_help_can_be_typed(name, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_metric.py").write_text(OWN)
    cli.main.commands[name].make_context(name, shlex.split(line)[2:])
    forget("my_metric")


def test_a_misspelt_command_is_corrected():
    result = tracer("analize")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "analyze" in result.stderr


# -- info ----------------------------------------------------------------------------------------


def test_info_tells_what_was_trained_and_recorded(run):
    result = tracer("info", run)
    assert (result.exit_code, result.stderr) == (0, "")
    for text in (
        "(complete)",
        "Synthetic",
        "cross_entropy",
        "weight 8×6, bias 8",
        "gradients",
        "run_id",
        "n_parameters 128",
    ):
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


# -- list -----------------------------------------------------------------------------------------


def test_what_was_worded_for_people_is_no_unexpected_error(run):
    result = tracer("compare", str(run), str(run))
    assert result.exit_code == 1 and "a comparison needs at least two runs" in result.output
    assert "unexpected" not in result.output and "--debug" not in result.output


def test_list_names_every_archive_of_a_directory_and_what_ails_one(run, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copytree(run, tmp_path / "deep" / "er" / "b.zarr")
    shutil.copytree(run, tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    (tmp_path / "linked.zarr").symlink_to(run)
    (tmp_path / "a.analysis" / "results.zarr").mkdir(parents=True)
    (tmp_path / "a.analysis" / "results.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "other.zip").write_bytes(b"PK")
    result = tracer("list", tmp_path, "--format", "csv")
    assert result.exit_code == 0
    assert "1 link to an archive is not followed (linked.zarr): name the directory" in result.stderr
    broken, whole = rows(result.stdout)
    assert broken["archive"] == str(tmp_path / "a.zarr") and "zarr.json" in broken["state"]
    assert whole["archive"] == str(tmp_path / "deep" / "er" / "b.zarr")
    assert (whole["updates"], whole["epochs"], whole["state"]) == ("8", "2", "complete")
    assert "no archives in" in tracer("list", tmp_path / "a.analysis").stderr
    assert tracer("list", tmp_path / "none").exit_code == 1


def test_a_directory_of_links_says_that_they_are_not_followed(run, tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.zarr").symlink_to(run)
    (tmp_path / "elsewhere").symlink_to(tmp_path.parent)
    told = "4 links to archives are not followed (a.zarr, b.zarr, c.zarr, ...)"
    assert told in tracer("list", tmp_path).stderr
    result = tracer("analyze", tmp_path)
    assert result.exit_code == 1 and "holds no archives; " + told in result.stderr


# -- metrics -------------------------------------------------------------------------------------


def test_metrics_lists_every_metric_with_its_source():
    listed = {row["metric"]: row for row in json.loads(tracer("metrics", "--format", "json").stdout)}
    assert listed.keys() == analyze.available_metrics().keys()
    assert set(listed["stiffness"]) == {"metric", "title", "formula", "reads", "cost", "source"}
    assert "arXiv:1901.09491" in listed["stiffness"]["source"]
    table = tracer("metrics").stdout.splitlines()
    assert len(table) == len(listed) + 1
    assert table[0].split() == ["metric", "title", "what", "it", "is"]
    card = analyze.available_metrics()["stiffness"]
    assert [line.split("  ")[0] for line in table[1:]] == sorted(listed)
    assert any(card.title in line and card.meaning in line for line in table)


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
    assert beside(run).as_posix() == place


def test_a_rerun_computes_nothing_unless_forced(run, tmp_path):
    def computed(*more):
        tracer("analyze", run, "-o", tmp_path / "out", "-m", "el2n", *more)
        return analyze.load(tmp_path / "out")["el2n"].attrs["created"], marker.stat().st_mtime_ns

    marker = tmp_path / "out" / "results.zarr" / "el2n" / "zarr.json"
    first = computed()
    assert computed() == first
    assert computed("--force")[0] >= first[0]


def test_a_metric_of_ones_own_file_is_computed_drawn_and_reported(run, tmp_path):
    file = tmp_path / "my_metric.py"
    file.write_text(OWN)
    try:
        shown = tracer(
            "analyze", run, "-o", tmp_path / "out", "-m", file, "--set", "my_metric.k=2", "--format", "csv"
        )
        assert shown.exit_code == 0, shown.stderr
        (row,) = rows(shown.stdout)
        assert (row["metric"], row["variable"]) == ("my_metric", "worst")
        with open_archive(run) as archive:
            losses = np.concatenate([probe.losses(8) for probe in archive.probes.values()])
        assert float(row["last"]) == np.sort(losses.astype(float))[-2]
        assert (tmp_path / "out" / "figures" / "my_metric.svg").is_file()
        assert "Worst loss" in (tmp_path / "out" / "report.html").read_text()
        assert "my_metric: Worst loss" in tracer("metrics", file).stdout
    finally:
        forget("my_metric")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.py", None, "there is no file"),
        ("empty_one.py", "x = 1", "defines no metric"),
        ("json.py", "x = 1", "is called like another module"),
        ("taken.py", OWN.replace("my_metric", "stiffness"), "two metrics are called 'stiffness'"),
    ],
)
def test_a_file_that_defines_no_metric_is_a_usage_error(name, text, message, tmp_path):
    before = list(sys.path), set(sys.modules)
    if text is not None:
        (tmp_path / name).write_text(text)
    result = tracer("analyze", "run.zarr", "-m", tmp_path / name)
    sys.path[:] = before[0]
    for loaded in set(sys.modules) - before[1] & {"empty_one", "taken"}:
        sys.modules.pop(loaded)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_several_runs_are_analyzed_one_after_another_and_one_that_fails_costs_no_other(run, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / f"{name}.zarr")
    (tmp_path / "b.zarr" / "zarr.json").write_text("{")
    result = tracer("analyze", f"{tmp_path}/*.zarr", "-m", "el2n", "--format", "csv")
    assert result.exit_code == 1
    assert {row["run"] for row in rows(result.stdout)} == {"a"}
    assert f"Error: {tmp_path / 'b.zarr'}: " in result.stderr
    assert (tmp_path / "a.analysis" / "report.html").is_file()
    again = tracer("analyze", tmp_path / "a.zarr", tmp_path / "b.zarr", "-o", tmp_path / "out")
    assert again.exit_code == 2 and "--output is for one run" in again.stderr


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
