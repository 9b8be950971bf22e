"""Runs are compared on the same terms: options, losses, how far each came, and what counts as varied."""

import json
import shutil

import pytest
from click.testing import CliRunner

import analyze
import cli
from analyze.comparison import notes, runs
from analyze.comparison.competition import of_network
from analyze.report import entries
from tests.analyze.comparison.test_compare import fake
from tests.synthetic import write_archive
from tracer.archive.attributes import attributes_of
from tracer.errors import ArgumentError

MARGIN = "margin.gamma[train]"


@pytest.fixture
def two(tmp_path):
    """Archives of two runs; the second is analyzed with an option of its own."""
    for name, seed in (("a", 0), ("b", 1)):
        write_archive(tmp_path / f"{name}.zarr", seed=seed)
    analyze.run(
        tmp_path / "b.zarr", ["margin"], options={"margin": {"epsilon": 0.4}}, output=tmp_path / "b.analysis"
    )
    return [tmp_path / "a.zarr", tmp_path / "b.zarr"]


@pytest.mark.usefixtures("undrawn")
def test_results_saved_with_other_options_are_computed_with_the_defaults(two):
    expected = float(analyze.run(two[1], ["margin"])["margin"]["gamma"].sel(probe="train")[-1])
    saved = float(analyze.load(two[1].with_suffix(".analysis"))["margin"]["gamma"].sel(probe="train")[-1])
    compared = analyze.compare(two, measures=["margin"], bootstrap=0)
    assert compared.table.loc["b", MARGIN] == pytest.approx(expected) != pytest.approx(saved)
    assert (
        "b: margin was saved with margin.epsilon=0.4, and is computed again with the defaults."
        in compared.notes
    )
    again = analyze.compare(two, measures=["margin"], bootstrap=0)
    assert again.notes == [] and again.table[MARGIN].equals(compared.table[MARGIN])


@pytest.mark.usefixtures("undrawn")
def test_without_the_archive_results_with_other_options_are_left_out_and_told(two):
    analyze.compare(two, measures=["generalization"], bootstrap=0)
    shutil.rmtree(two[1])
    compared = analyze.compare([two[0], two[1].with_suffix(".analysis")], measures=["margin"], bootstrap=0)
    assert compared.table[MARGIN].isna().tolist() == [False, True]
    assert "saved with margin.epsilon=0.4 in" in compared.skipped["b"]["margin"]
    (note,) = compared.notes
    assert note.startswith("b: margin was saved with margin.epsilon=0.4, and is left out: ")


@pytest.mark.usefixtures("undrawn")
def test_results_made_of_others_have_the_options_that_these_had_then(two):
    place, names = two[1].with_suffix(".analysis"), ["margin", "cna_margin", "cna_area"]
    analyze.run(two[1], names, options={"margin": {"epsilon": 0.4}}, output=place)
    made = analyze.run(two[1], ["margin"], output=place)  # the other was made of what it replaces
    saved = analyze.load(place)
    assert made["margin"].attrs["options"] == saved["margin"].attrs["options"]
    assert {name: runs.other_options(name, saved[name].attrs) for name in names} == {
        "margin": "",
        "cna_margin": "margin.epsilon=0.4",
        "cna_area": "",
    }
    assert "margin.epsilon = 0.4" in entries.options(saved["cna_margin"])
    expected = analyze.run(two[1], ["cna_margin"])["cna_margin"]["gamma"]
    assert not expected.equals(saved["cna_margin"]["gamma"])
    compared = analyze.compare(two, measures=["cna_margin"], bootstrap=0)
    assert compared.notes == [
        "b: cna_margin was saved with margin.epsilon=0.4, and is computed again with the defaults."
    ]
    assert analyze.load(place)["cna_margin"]["gamma"].equals(expected)


def test_options_that_cannot_be_read_are_no_defaults():
    assert runs.other_options("somebody_elses", {"options": '{"k": 3}'}) == ""
    for torn in ("[1", "[1]"):
        assert runs.other_options("margin", {"options": torn}) == "options that cannot be read"


@pytest.mark.usefixtures("undrawn")
def test_a_summary_of_the_same_second_is_not_taken_for_that_of_other_options(two):
    place = two[1].with_suffix(".analysis")
    analyze.load(place).save(place)
    analyze.run(two[1], ["margin"], output=place)
    document = json.loads((place / "summary.json").read_text())
    document["metrics"]["margin"]["created"] = analyze.load(place)["margin"].attrs["created"]
    (place / "summary.json").write_text(json.dumps(document))
    expected = float(analyze.load(place)["margin"]["gamma"].sel(probe="train")[-1])
    compared = analyze.compare(two, measures=["margin"], bootstrap=0)
    assert compared.table.loc["b", MARGIN] == pytest.approx(expected)


def test_how_a_run_was_recorded_is_no_attribute_and_the_users_word_counts():
    card = {
        "memory": 512, "network": "eager", "network_reason": "no table", "budget": 0.1, "chunk": 8, "mirror": "s3://a",
        "attributes": {"width": 16, "optimizer": "SGD with warmup", "memory": "episodic"},
        "optimizer": {"class": "torch.optim.SGD", "groups": [{"lr": 0.1}]},
    }  # fmt: skip
    expected = {"width": 16, "optimizer": "SGD with warmup", "memory": "episodic", "lr": 0.1}
    assert attributes_of(card) == expected and next(iter(attributes_of(card))) == "width"


def test_lists_are_attributes_by_their_text_and_what_mappings_hold_by_both_names():
    given = {
        "hidden": [64, 32],
        "none": [],
        "nested": [[3], {"b": 1}],
        "data": {"noise": {"share": 0.1}, "n": 3},
    }
    texts = {"hidden": "[64, 32]", "none": "[]", "nested": "[[3], {'b': 1}]"}
    assert attributes_of({"attributes": given}) == {**texts, "data.noise.share": 0.1, "data.n": 3}


def test_facts_are_read_again_by_other_code(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    write_archive(path)
    (tmp_path / "a.analysis").mkdir()
    kept = tmp_path / "a.analysis" / runs.FACTS
    assert "memory" not in runs.Run.at(path).attributes
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"attributes": {"memory": 1}}))
    assert "memory" in runs.Run.at(path).attributes
    monkeypatch.setattr(runs, "sources", lambda: "newer")
    assert "memory" not in runs.Run.at(path).attributes


def of_losses(folder, losses):
    return [
        fake(folder, f"r{k}", {"loss": loss}, gap=0.1 + 0.02 * k, cosine=k) for k, loss in enumerate(losses)
    ]


def test_losses_of_different_kinds_are_no_target(tmp_path):
    paths = of_losses(tmp_path, ["mse_loss", "cross_entropy", "mse_loss"])
    compared = analyze.compare(paths, bootstrap=0)
    assert compared.targets == ["gap_error", "test_error"]
    assert compared.notes[0].startswith("The runs have different losses (cross_entropy, mse_loss): ")
    assert analyze.compare(paths, against=["gap_loss", "gap_error"], bootstrap=0).targets == ["gap_error"]
    with pytest.raises(
        ArgumentError, match=r"different losses \(cross_entropy, mse_loss\), so that gap_loss"
    ):
        analyze.compare(paths, against=["gap_loss"])
    same = {f"r{k}": {"loss": "all the same"} for k in range(3)}
    assert len(analyze.compare(paths, attributes=same, bootstrap=0).targets) == 4


def test_runs_of_one_loss_and_of_an_unknown_one_have_all_targets(tmp_path):
    compared = analyze.compare(of_losses(tmp_path, ["mse_loss", None, "mse_loss"]), bootstrap=0)
    assert len(compared.targets) == 4 and not any("losses" in note for note in compared.notes)


def test_unfinished_runs_are_told(tmp_path):
    paths = [fake(tmp_path, name, {}, gap=0.1 * k, cosine=k) for k, name in enumerate("abcd", start=1)]
    for path, state in zip(paths, ("complete", "interrupted", "recording", "interrupted"), strict=True):
        facts = json.loads((path / runs.FACTS).read_text())
        (path / runs.FACTS).write_text(json.dumps(facts | {"state": state}))
    assert analyze.compare(paths, bootstrap=0).notes == [
        "b, d: interrupted; the last snapshot counts as the end of training.",
        "c: still being recorded, or killed; the last snapshot counts as the end of training.",
    ]
    write_archive(tmp_path / "e.zarr")
    assert runs.Run.at(tmp_path / "e.zarr").facts["state"] == "complete"
    assert set(notes.UNFINISHED) < {"complete", "interrupted", "recording"}


def test_only_runs_with_the_same_network_are_said_to_be_the_same(tmp_path):
    cards = analyze.available_metrics()
    assert not of_network("complexity.entropy[train]", cards) and not of_network(
        "somebody_elses.number", cards
    )
    assert of_network("layer_norms.frobenius[all]", cards) and of_network("cna.pearson[test]", cards)
    paths = [
        fake(tmp_path, name, {}, gap=gap, cosine=1) for name, gap in zip("abc", (0.1, 0.1, 0.3), strict=True)
    ]
    (told,) = analyze.compare(paths, measures=["stiffness"], bootstrap=0).notes
    assert told.startswith("a, b have the same numbers throughout")  # the gap of c is another
    assert analyze.compare(paths, measures=["stiffness"], at=-5, bootstrap=0).notes == []


def test_odd_but_legal_options(tmp_path):
    paths = [fake(tmp_path, f"r{k}", {"lr": k % 2}, gap=0.1 + 0.02 * k, cosine=k) for k in range(4)]
    twice = analyze.compare(paths, against=["gap_loss", "gap_loss"], axes=["lr", "lr"], bootstrap=0)
    assert twice.targets == ["gap_loss"] and twice.correlations["axis"].values.tolist() == ["lr"]
    once = analyze.compare(paths, against=["gap_loss"], axes=["lr"], bootstrap=0)
    assert twice.correlations["sign_error"].equals(once.correlations["sign_error"])
    for options in ({"seed": -1}, {"bootstrap": -1}):
        with pytest.raises(ArgumentError, match="is 0 or more, got -1"):
            analyze.compare(paths, **options)
    with pytest.raises(ArgumentError, match="bootstrap= is at most 100,000, got 10,000,000,000"):
        analyze.compare(paths, bootstrap=10**10)


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [("--at=²", 1, "got '²'"), ("--at=--5", 1, "got '--5'"), ("--seed=-1", 2, "-1 is not in the range")],
)
def test_odd_options_of_the_command_are_a_sentence(tmp_path, option, code, message):
    paths = [str(fake(tmp_path, name, {}, gap=0.1, cosine=1)) for name in "ab"]
    outcome = CliRunner().invoke(cli.main, ["compare", *paths, option])
    assert outcome.exit_code == code and message in outcome.stderr
