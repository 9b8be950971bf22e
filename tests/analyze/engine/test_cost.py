import re
from dataclasses import replace
from functools import partial
from math import ceil

import pytest

import analyze
from analyze.catalogue import available_metrics
from analyze.engine import cost, progress
from analyze.engine.cost import (
    BITS,
    CHECKED,
    EXAMPLES,
    LEAST,
    MOST,
    RATE,
    ROWS,
    SIZES,
    STORED,
    Prices,
    Work,
    few,
    of_stored,
    within,
    work_of,
)
from analyze.engine.plan import make_plan
from tests.sketched import record
from tracer.archive import open as open_archive


@pytest.fixture(scope="module")
def archive(everything):
    return open_archive(everything)


def prices_of(archive):
    return Prices(partial(work_of, archive, {}))


def test_more_passes_snapshots_and_examples_cost_more(archive):
    prices, card = prices_of(archive), available_metrics()["sharpness"]

    def expected(**options):
        return prices.seconds(make_plan(card, options, archive, {}))

    assert 0 < expected(examples=8) < expected(examples=16)
    assert expected(iterations=4) < expected(iterations=8)
    assert expected() == prices_of(archive).seconds(make_plan(card, {}, archive, {})), "no clock is in it"


@pytest.mark.parametrize("name", ["jacobian", "ntk_alignment"])
def test_a_backward_pass_of_every_output_costs_by_how_many_there_are(archive, name):
    prices, card = prices_of(archive), available_metrics()[name]
    outputs = archive.probes["train"].outputs(int(archive.steps("outputs")[0])).shape[1]
    one, each, few = (
        prices.seconds(make_plan(card, {"projections": count}, archive, {}), alone=False)
        for count in (1, None, 2)
    )
    assert outputs > 2 and each == pytest.approx(outputs * one) and few == pytest.approx(2 * one)


NAMES = ("layer_margin", "sam_sharpness", "sharpness")


@pytest.fixture
def few_metrics(monkeypatch):
    cards = {name: available_metrics()[name] for name in ("margin", *NAMES)}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: cards)


def test_the_budget_is_for_all_metrics_together_and_the_dearest_are_told(archive, tmp_path, few_metrics):
    steps = few([int(step) for step in archive.steps("weights")])
    plans = [replace(make_plan(available_metrics()[name], {}, archive, {}), steps=steps) for name in NAMES]
    prices = prices_of(archive)
    costs = sorted(prices.seconds(plan, alone=False) for plan in plans)
    patience = costs[0] + costs[1] + max(map(prices.first, plans))  # what the first pays for all is paid once
    chosen, over = within(plans, prices, patience)
    assert [prices.seconds(plan, alone=False) for plan in chosen] == costs[:2]
    assert prices.together(chosen) == pytest.approx(patience)
    assert [seconds for _, seconds in over] == costs[2:]
    some = analyze.run(archive, output=tmp_path, patience=patience)
    dear = max(plans, key=prices.seconds).card.name
    assert set(some) == {"margin", *NAMES} - {dear}
    assert f"tracer analyze {archive.path} -m {dear}" in some.skipped[dear]
    # What is there stays, and is no reason to compute more or less.
    assert set(analyze.run(archive, output=tmp_path, patience=patience)) == set(some)
    assert set(analyze.run(archive, output=tmp_path, patience=0.0)) == set(some)


def test_what_does_not_fit_is_tried_at_fewer_snapshots(archive, few_metrics):
    plan = make_plan(available_metrics()["sharpness"], {}, archive, {})
    prices, steps = prices_of(archive), few(plan.timeline)
    five, three = (replace(plan, steps=few(steps, n)) for n in (5, 3))
    at_three = prices.seconds(three, alone=False) + prices.first(five)
    (chosen,), _ = within([five], prices, at_three, fewer=True)
    assert chosen.steps == few(steps, 3) and {steps[0], steps[-1]} < set(chosen.steps)
    others = [
        make_plan(available_metrics()[name], {}, archive, {}) for name in ("layer_margin", "sam_sharpness")
    ]
    cheaper = [replace(other, steps=few(other.timeline)) for other in others]
    found = analyze.run(archive, patience=prices.together([*cheaper, three]))
    assert "layer_margin" in found and 2 <= found["sharpness"].sizes["step"] <= 3


def test_a_named_metric_is_computed_whatever_it_costs(archive):
    assert "sharpness" in analyze.run(archive, ["sharpness"], patience=0.0)


def test_the_network_is_run_again_at_few_snapshots_unless_more_are_asked_for(archive, tmp_path):
    steps = [int(step) for step in archive.steps("weights")]
    assert len(steps) > 5

    def seen(**more):
        return analyze.run(archive, ["jacobian"], output=tmp_path, **more)["jacobian"]["step"].values.tolist()

    first = seen()
    assert len(first) == 5 and first[0] == steps[0] and first[-1] == steps[-1]
    assert seen(snapshots=steps[1:3]) == sorted({*first, *steps[1:3]}), "what is there stays"
    assert seen(snapshots="all") == steps == seen()
    every = analyze.run(archive, ["jacobian"], snapshots="all")["jacobian"]
    some = analyze.run(archive, ["jacobian"])["jacobian"]
    assert some.drop_attrs(deep=False).equals(every.drop_attrs(deep=False).sel(step=first))


def test_the_budget_grows_with_the_network_within_bounds(archive, monkeypatch):
    def patience(work, rows, stored=0.0):
        monkeypatch.setattr(Prices, "_network", Work(work / RATE, rows, 10, rows))
        return prices_of(archive).patience(stored)

    # One forward and backward pass of 256 examples is 3 · 256 · work operations and 3 · rows calls.
    work, rows = 1e7, 20
    assert patience(work, rows) == pytest.approx(300 * 3 * (256 * work / RATE + rows / ROWS))
    assert patience(0.0, 0) == patience(1e3, 5) == LEAST and patience(1e12, 20) == MOST
    assert patience(0.0, 0, stored=1.0) == LEAST and patience(0.0, 0, stored=1e4) == MOST
    assert patience(0.0, 0, stored=30.0) == 15.0, "half of what is waited for anyway"


def test_each_chunk_of_examples_goes_through_the_rows_and_unlike_rows_are_checked_once(archive, monkeypatch):
    monkeypatch.setattr(Prices, "_network", Work(1e-4, 40, 10, 8))
    prices = prices_of(archive)
    plan = make_plan(available_metrics()["layer_margin"], {}, archive, {})
    counts = [sum(chunks) for _, chunks in plan.views]
    passes = [n * 1e-4 + ceil(n / EXAMPLES) * 40 / ROWS for n in counts]
    assert prices.seconds(plan, alone=False) == pytest.approx(3 * len(plan.steps) * sum(passes))
    first = len(plan.steps) * max(passes) + len(counts) * SIZES * 8 / CHECKED
    assert prices.first(plan) == pytest.approx(first)
    assert prices.seconds(plan) == pytest.approx(prices.seconds(plan, alone=False) + first)


def test_what_is_stored_costs_by_the_largest_array_that_is_read(archive, monkeypatch):
    card = available_metrics()["stiffness"]
    plan = make_plan(card, {}, archive, {})
    layers, n = len(archive.layers) + 1, sum(plan.views[0][1])
    assert of_stored([plan], archive) == pytest.approx(STORED * len(plan.steps) * layers * n**2)
    assert of_stored([plan, plan], archive) == pytest.approx(2 * of_stored([plan], archive))
    replayed = make_plan(available_metrics()["sharpness"], {}, archive, {})
    assert of_stored([replayed], archive) == 0
    units = sum(site["n_units"] for site in archive.site_table if site.get("start") is not None)
    paths = make_plan(available_metrics()["path_self_similarity"], {}, archive, {})
    held = units * sum(-(-n // 8) for _, counts in paths.views for n in counts)
    monkeypatch.setattr(cost, "STORED", 0.0)
    assert of_stored([paths], archive) == pytest.approx(BITS * len(paths.steps) * held, rel=0.2)


def test_from_sketches_it_is_computed_once_more_a_block(tmp_path):
    archive = open_archive(record(tmp_path / "run.zarr", "sketch", 1))
    plan = make_plan(available_metrics()["stiffness"], {}, archive, {})
    sketch, n = next(iter(archive.probes.values())).sketch, sum(plan.views[0][1])
    numbers = n * max(sum(row["size"] for row in sketch["layers"]), n * (len(archive.layers) + 1))
    once = STORED * len(plan.steps) * numbers
    assert of_stored([plan], archive) == pytest.approx((1 + sketch["blocks"]) * once)


def test_long_work_is_announced(everything, monkeypatch):
    told = []
    monkeypatch.setattr(progress, "announce", told.append)
    analyze.run(everything, ["stiffness", "jacobian"])
    assert not told, "short work is not"
    monkeypatch.setattr(progress, "ANNOUNCED", 0.0)
    analyze.run(everything, ["stiffness", "jacobian"], memory="1GB")
    stored, replayed = told
    assert "metrics of what is stored take about 0.1 s (stiffness), and at most 953.7 MiB" in stored
    assert "running the network again takes about" in replayed
    assert "(jacobian)" in replayed
    told.clear()
    cards = {name: card for name, card in available_metrics().items() if "states" not in card.reads}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: cards)
    analyze.run(everything)
    assert any(re.search(r"\(\d\d metrics\)", sentence) for sentence in told)
