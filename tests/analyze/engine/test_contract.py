from collections import Counter
from functools import cache

import pytest

import analyze
from analyze.arrays.recorded import Lazy
from analyze.engine.cost import few
from analyze.engine.plan import make_plan
from tests import contract
from tests.loops import record_text
from tests.synthetic import write_archive
from tracer.archive import open as open_archive
from tracer.errors import MissingTraceError

CARDS = analyze.available_metrics()
# Replayed states carry their own weights and examples, which these two checks cannot reach into.
OF_TOKENS = {name for name, card in CARDS.items() if any(array.startswith("token_") for array in card.reads)}
ON_ARRAYS = [name for name, card in CARDS.items() if "states" not in card.reads]


@pytest.fixture(scope="module")
def archives(everything, tmp_path_factory):
    """For every metric a run that has all it reads."""
    tokens = tmp_path_factory.mktemp("contract") / "text.zarr"
    record_text(tokens)
    run, text = open_archive(everything), open_archive(tokens)
    return {name: text if name in OF_TOKENS else run for name in CARDS}


@pytest.fixture(scope="module")
def results(archives):
    rest = {name: options for name, options in contract.QUICK.items() if name not in OF_TOKENS}
    run = archives["stiffness"]
    whole = analyze.run(run, options=rest, patience=60, snapshots=few(run.steps("weights"), 3))
    whole.skipped = {name: why for name, why in whole.skipped.items() if name not in OF_TOKENS}
    return whole, analyze.run(archives[min(OF_TOKENS)], sorted(OF_TOKENS))


@pytest.fixture(params=CARDS)
def card(request):
    return CARDS[request.param]


@pytest.fixture
def result(card, results):
    return results[card.name in OF_TOKENS][card.name]


@pytest.fixture(scope="module")
def returned(archives):
    """What metrics return, computed once each."""
    return cache(lambda name: contract.returned_by(CARDS[name], archives[name]))


@pytest.mark.parametrize("name", ["regions", "layer_margin", "neural_collapse", "pgdl", "local_elasticity"])
def test_what_needs_a_class_for_each_example_is_refused_before_it_is_paid_for(name, archives):
    text = archives[min(OF_TOKENS)]
    with pytest.raises(MissingTraceError, match="one class for each of"):
        make_plan(CARDS[name], {}, text, {})


def test_card_is_complete(card):
    contract.check_card(card)


def test_result_is_what_the_card_announces(card, result):
    contract.check_result(card, result)


def test_plot_draws(card, result):
    contract.check_plot(card, result)


@pytest.mark.slow
def test_plot_draws_one_snapshot_and_what_is_undefined(card, result):
    contract.check_plot(card, result, each=True)


def test_one_snapshot_at_a_time_equals_all_at_once(card, result, archives, returned):
    contract.check_blocks(card, archives[card.name], returned(card.name))


def test_arguments_are_left_alone(card, result, returned):
    contract.check_inputs_unchanged(returned(card.name))


@pytest.mark.parametrize(
    "name", [name for name in ON_ARRAYS if {"weights", "gradients"} & {*CARDS[name].reads}]
)
def test_a_snapshot_is_not_read_again_for_each_layer(name, archives, monkeypatch):
    read = Counter()

    def counted(self, position, item=Lazy.__getitem__):
        found = item(self, position)
        if not isinstance(position, slice):
            read[str(self._load), self._steps[position]] += 1
        return found

    monkeypatch.setattr(Lazy, "__getitem__", counted)
    plan = contract.plan_of(CARDS[name], archives[name])
    contract.call(plan, *contract.arguments_of(plan, archives[name]))
    assert 0 < max(read.values()) <= 2 < len(archives[name].layers)


@pytest.mark.parametrize("name", sorted(set(ON_ARRAYS) - contract.DEFINED_WITHOUT_ARGUMENTS))
def test_undefined_arguments_are_no_error(name, archives):
    contract.check_nan(CARDS[name], archives[name])


@pytest.mark.parametrize("name", sorted(set(ON_ARRAYS) - contract.POSITIONAL.keys()))
def test_order_of_examples_does_not_matter(name, archives):
    contract.check_order_of_examples(CARDS[name], archives[name])


def test_every_metric_was_checked(results):
    assert not any(computed.skipped for computed in results)


def test_missing_arrays_are_named(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1), gram=False)
    with pytest.raises(
        MissingTraceError, match=r"stiffness: needs `gram` of a probe.*; record with gradients="
    ):
        analyze.run(tmp_path / "run.zarr", ["stiffness"])
