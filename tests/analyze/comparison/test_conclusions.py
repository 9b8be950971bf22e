"""What a comparison may conclude: who competes, who says the same, and whether there are runs enough to tell."""

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau

import analyze
from analyze.comparison import curves, inference, page
from analyze.comparison.competition import reason
from analyze.comparison.over_training import grouped, series
from tests.analyze.comparison.test_compare import fake, grid

CARDS = analyze.available_metrics()
NAN = float("nan")
TARGETS = ("gap_error", "gap_loss", "test_error", "test_loss")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Analyses of 3 widths x 2 rates x 2 seeds, and their comparison."""
    paths = grid(tmp_path_factory.mktemp("seeds"), n_seeds=2)
    return paths, analyze.compare(paths, bootstrap=0)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """Nine runs, whose stiffness grows as their gap does."""
    return runs_of(tmp_path_factory.mktemp("ordered"), range(9))


def competes(label, target="gap_error"):
    return not reason(label, target, CARDS)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "label",
    ["correctness.accuracy[test]", "el2n.mean[test]", "margin.gamma[test]", "stiffness.cosine[train-test, all]",
     "grand.mean[test, all]", "token_prediction.perplexity[test]",
     "error_by_complexity.error[last]", "jacobian.mean[test]", "generalization.loss[test]"],
)  # fmt: skip
def test_whoever_reads_labels_of_test_examples_does_not_compete(label, target):
    assert not competes(label, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "label",
    ["margin.gamma[train]", "stiffness.cosine[train-train, all]", "layer_norms.frobenius[all]", "sharpness.keskar",
     "path_self_similarity.mean[test, last]", "cna.pearson[test]", "complexity.entropy[test]", "cna_area.polygon"],
)  # fmt: skip
def test_others_do(label, target):
    assert competes(label, target)


def test_half_of_the_gap_competes_only_for_what_it_is_no_part_of():
    assert not competes("generalization.error[train]") and not competes("correctness.accuracy[train]")
    assert not competes("token_prediction.loss[train]", "gap_loss")
    assert competes("generalization.error[train]", "test_error")
    assert "half of the gap" in reason("generalization.error[train]", "gap_error", CARDS)
    assert not competes("somebody_elses.number") and competes("generalization.error[train]", "test_loss")


def test_measures_that_order_runs_alike_are_one():
    x = np.array([3.0, 1.0, 2.0, np.nan])
    columns = {
        "a": x,
        "log a": np.log(x),
        "1 / a": 1 / x,
        "shifted": np.array([3.0, 1.0, np.nan, 2.0]),
        "b": [1, 2, 3, 4],
    }
    assert inference.aliases(columns) == {"a": ["log a", "1 / a"], "shifted": [], "b": []}


def test_chances_are_exact_and_corrected_by_holm():
    orders = [abs(kendalltau(range(5), order).statistic) for order in itertools.permutations(range(5))]
    assert inference.p_value(range(5), range(5)) == pytest.approx(np.mean(np.array(orders) >= 1 - 1e-9))
    assert inference.corrected([0.02, 0.02, 0.9]).tolist() == pytest.approx([0.06, 0.06, 0.9])
    assert np.isnan(inference.p_value([1, 1, 1], [1, 2, 3]))


def test_runs_needed_grow_with_measures_and_shrink_with_the_correlation():
    assert inference.runs_needed(1) == 5 and inference.runs_needed(200) == 8
    assert inference.runs_needed(10, 0.3) > inference.runs_needed(10, 0.6) > inference.runs_needed(10, 1.0)


def test_joint_intervals_are_wider_than_single_ones_and_hold_their_value():
    again = np.random.default_rng(0).normal(0.3, 0.1, (500, 40))
    low, high = inference.joint_intervals(np.full(40, 0.3), again)
    assert (high - low > 2 * 2.5 * 0.1).all() and (low < 0.3).all()
    assert np.isnan(inference.joint_intervals([0.3], np.empty((0, 1)))[0]).all()


def test_too_few_runs_are_said_to_be_too_few(tmp_path):
    paths = [fake(tmp_path, name, {}, gap=0.1 * k, cosine=k) for k, name in enumerate("abc", start=1)]
    comparison = analyze.compare(paths, bootstrap=20)
    assert comparison.answer.startswith("Nothing can be told from 3 runs: by chance alone a measure orders")
    assert "It takes at least 5 runs" in comparison.answer and comparison.answer in repr(comparison)
    alike = [
        fake(tmp_path / "two", name, {}, gap=0.1 * k, cosine=k, ratio=k)
        for k, name in enumerate("ab", start=1)
    ]
    told = analyze.compare(alike, bootstrap=20).answer
    assert "one of 2 measures orders" in told and f"at least {inference.runs_needed(2)} runs" in told


def test_the_answer_names_the_measure_and_how_sure_it_is(tmp_path):
    comparison = analyze.compare(grid(tmp_path), bootstrap=100)
    assert comparison.answer.startswith(
        "path_overlap_ratio.ratio_mean follows the gap in error across 6 runs best"
    )
    assert "it grows (Kendall 1.00" in comparison.answer
    apart = comparison.apart("gap_error")
    assert list(apart)[-2:] and "generalization.error[train]" in apart
    assert comparison.ranked("gap_error") == [
        "path_overlap_ratio.ratio_mean",
        "stiffness.cosine[train-train, all]",
    ]
    rows = comparison.rows("gap_error")
    assert rows[1]["falls"] and rows[1]["kendall"] > 0.5 and rows[0]["apart"] == "" and rows[-1]["apart"]
    signed = comparison.correlations["value"].sel(
        measure=rows[1]["measure"], target="gap_error", statistic="kendall"
    )
    assert float(signed) == -rows[1]["kendall"]
    turned = comparison.turned.sel(measure=rows[1]["measure"], target="gap_error")
    assert float(turned["sign_error"].mean()) < 0.5
    assert float(turned["value"].sel(statistic="sign_error_max")) == float(turned["sign_error"].max())


def test_a_measure_that_few_runs_have_does_not_win_by_ordering_these_few(tmp_path):
    cosines = [1, 2, 3, 4, 5, 6, 8, 7]
    for k, cosine in enumerate(cosines):
        fake(tmp_path, f"r{k}", {}, gap=0.1 + 0.02 * k, cosine=cosine, ratio=k if k < 4 else np.nan)
    comparison = analyze.compare(str(tmp_path / "*.analysis"), bootstrap=20)
    kendall = comparison.correlations["value"].sel(target="gap_error", statistic="kendall")
    first, second = comparison.ranked("gap_error")
    assert first == "stiffness.cosine[train-train, all]" and float(kendall.sel(measure=first)) < 1
    assert second == "path_overlap_ratio.ratio_mean" and float(kendall.sel(measure=second)) == 1
    assert comparison.answer.startswith(f"{first} follows the gap in error across 8 runs best")


def test_noise_follows_nothing(tmp_path):
    rng = np.random.default_rng(1)
    for k in range(8):
        fake(tmp_path, f"r{k}", {}, gap=rng.uniform(0.1, 0.4), cosine=rng.normal(), ratio=rng.normal())
    comparison = analyze.compare(str(tmp_path / "*.analysis"), bootstrap=50)
    assert comparison.answer.startswith(
        "None of 2 measures follows the gap in error across these 8 runs beyond chance"
    )
    assert "to tell" in comparison.answer


def test_runs_of_one_gap_identical_runs_and_missing_attributes_are_told(tmp_path):
    paths = [fake(tmp_path, name, {"lr": 1} if name != "c" else {}, gap=0.2, cosine=1.0) for name in "abc"]
    comparison = analyze.compare(paths, bootstrap=0)
    assert comparison.answer.startswith("All 3 runs have the same gap in error")
    assert "a, b, c have the same numbers throughout" in comparison.notes[0]
    assert "c: no attribute 'lr', so that it is no axis" in comparison.notes[1]


def test_attributes_that_the_same_runs_lack_are_one_line(tmp_path):
    adam, sgd = {"betas": 1, "eps": 2, "lr": 1}, {"momentum": 1, "lr": 1}
    paths = [fake(tmp_path, name, sgd if name == "c" else adam, gap=0.2, cosine=1.0) for name in "abc"]
    told = [line for line in analyze.compare(paths, bootstrap=0).notes if "no attribute" in line]
    assert sorted(told) == [
        "a, b: no attribute 'momentum', so that it is no axis; give it with attributes=.",
        "c: no attributes 'betas', 'eps', so that they are no axes; give them with attributes=.",
    ]


@pytest.mark.usefixtures("undrawn")
def test_the_page_has_the_curves_of_the_closest_measures_by_what_was_varied(seeds, tmp_path):
    _, compared = seeds
    drawn = grouped(compared, series(compared, "gap_error"), "width")
    assert list(drawn.table["measure"].unique())[:2] == [
        "generalization.gap_error",
        "stiffness.cosine[train-train, all]",
    ]
    bands = drawn.bands()
    one = bands[(bands["width"] == 64) & (bands["measure"] == "generalization.gap_error")].set_index("step")
    ends = compared.table[compared.table["width"] == 64]["gap_error"]
    assert (one.loc[40, "n_runs"], one.loc[40, "low"], one.loc[40, "high"]) == (4, ends.min(), ends.max())
    compared.save(tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "closest measures over training, by width" in page and "over training, by lr" in page
    assert (tmp_path / "out" / "figures" / "over_training_2.svg").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_long_name_above_a_panel_has_two_lines():
    assert curves._title("neighbourhood_stiffness.cosine[train]") == "neighbourhood_stiffness.\ncosine[train]"
    assert curves._title("generalization.gap_error") == "generalization.gap_error"


@pytest.mark.usefixtures("undrawn")
def test_runs_that_differ_in_nothing_have_a_curve_each(tmp_path):
    runs = [fake(tmp_path, f"s{seed}", {"seed": seed}, gap=0.1 + seed / 50, cosine=0.2) for seed in range(3)]
    compared = analyze.compare(runs, bootstrap=0)
    compared.save(tmp_path / "out")
    assert set(grouped(compared, series(compared, "gap_error")).bands()["run"]) == {"s0", "s1", "s2"}
    assert "closest measures over training</" in (tmp_path / "out" / "comparison.html").read_text()


def runs_of(folder, cosines, ratios=(), gaps=()):
    """Runs with these measures, and gaps that grow."""
    n = len(cosines)
    return [
        fake(folder, f"r{k:02}", {}, gap=gap, cosine=cosine, ratio=ratio)
        for k, (gap, cosine, ratio) in enumerate(
            zip(gaps or [0.1 + 0.02 * k for k in range(n)], cosines, ratios or [NAN] * n, strict=True)
        )
    ]


@pytest.mark.parametrize("n", [2, pytest.param(6, marks=pytest.mark.slow), 7, 9])
def test_no_interval_of_few_runs_or_of_resamples_that_all_agree(ordered, n):
    compared = analyze.compare(ordered[:n], bootstrap=50)
    one = compared.correlations.sel(measure="stiffness.cosine[train-train, all]", target="gap_error")
    assert float(one["value"].sel(statistic="kendall")) == 1
    for end in ("low", "high", "joint_low", "joint_high"):
        assert one[end].isnull().all() or n == 9
    assert np.isnan(compared.rows("gap_error")[0]["kendall_low"] or NAN)
    if n > 5:
        words = "no interval" if n == 9 else "too few runs for an interval"
        assert f"(Kendall 1.00, {words})" in compared.answer


def test_joint_intervals_need_resamples_that_differ():
    again = np.stack([np.ones(200), np.random.default_rng(0).normal(0.5, 0.1, 200)], 1)
    low, high = inference.joint_intervals([1.0, 0.5], again)
    assert np.isnan([low[0], high[0]]).all() and low[1] < 0.5 < high[1]


def test_enough_runs_have_an_interval(tmp_path):
    compared = analyze.compare(runs_of(tmp_path, [0, 1, 2, 4, 3, 5, 6, 7]), bootstrap=100)
    one = compared.correlations.sel(measure="stiffness.cosine[train-train, all]", target="gap_error")
    assert float(one["joint_low"]) < float(one["value"].sel(statistic="kendall")) <= float(one["joint_high"])
    assert f"(Kendall 0.93, {float(one['joint_low']):.2f} to 1.00)" in compared.answer


def test_the_runs_of_an_answer_are_those_that_have_the_measure(tmp_path):
    paths = runs_of(tmp_path, [0, 1, 2, 3, 4, 5, *[NAN] * 3])
    assert "follows the gap in error across 6 of 9 runs: as" in analyze.compare(paths, bootstrap=0).answer
    told = analyze.compare(paths[3:], bootstrap=0).answer
    assert told.startswith("Nothing can be told from 3 of 6 runs")
    assert told.endswith("It takes at least 5 runs with values of both.")
    same = runs_of(tmp_path / "same", range(4), gaps=[0.1, 0.1, NAN, NAN])
    told = analyze.compare(same, against=["gap_error"], bootstrap=0).answer
    assert told.startswith("The 2 of 4 runs that have one all have the same gap in error")


def test_more_runs_are_needed_than_there_are(tmp_path):
    gaps = [0.1, 0.1, 0.2, 0.2, 0.2]
    paths = runs_of(tmp_path, [0, 0, 1, 1, 1], ratios=[3, 1, 2, 1, 5], gaps=gaps)
    told = analyze.compare(paths, bootstrap=0).answer
    assert told.startswith("None of 2 measures follows the gap in error across these 5 runs")
    assert "it takes about 6 runs" in told and inference.runs_needed(2) == 5


def test_one_measure_is_called_one_measure(tmp_path):
    paths = runs_of(tmp_path, [1, 0, 3, 2, 5, 4])
    compared = analyze.compare(paths, measures=["stiffness.cosine[train-train, all]"], bootstrap=0)
    name = "stiffness.cosine[train-train, all]"
    assert compared.answer.startswith(f"{name} does not follow the gap in error across these 6 runs")
    assert "(Kendall 0.60, too few runs for an interval, p 0.14)" in compared.answer
    assert "6 runs, 1 measure>" in repr(compared) and "1 measure.</p>" in compared._repr_html_()
    assert page._lede(compared, []) == "1 measure of 6 runs."


def test_why_there_is_nothing_to_compare(ordered, tmp_path):
    def told(paths, **options):
        return analyze.compare(paths, bootstrap=0, **options).answer

    assert "may compete for the gap in error has a value in more than one of the 4 runs" in told(
        ordered[:4], measures=["stiffness"], at=-5
    )
    assert "may compete for the gap in error differs between runs that differ in it" in told(
        runs_of(tmp_path, [1] * 4), measures=["stiffness"]
    )
    assert told(ordered[:4], measures=["stiffness.cosine[train-test, all]"]).startswith(
        "No measure may compete for the gap in error"
    )


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_bands_tell_values_apart_only_where_each_is_of_several_runs(seeds, n_seeds):
    paths, compared = seeds
    if n_seeds == 1:
        compared = analyze.compare([path for path in paths if "s0" in path.name], bootstrap=0)
    table = series(compared, "gap_error")
    apart = "what bands do not overlap differs by more than seeds"
    assert f"{apart} and all else that was varied, of {2 * n_seeds} runs or more each" in page._reading(
        compared, table, "width"
    )
    one = table[(table["run"].str.contains("lr0.1-")) & table["run"].str.contains("s0")]
    said = page._reading(compared, one, "width")
    assert apart not in said and "of one run there is none" in said
