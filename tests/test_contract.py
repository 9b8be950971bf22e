import pytest

import analyze
from tests import contract
from tests.synthetic import write_archive
from tracer.archive import open as open_archive
from tracer.errors import MissingTraceError

CARDS = analyze.metrics()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("contract") / "run.zarr"
    write_archive(path, steps=(0, 1, 2, 4, 8, 12), probes={"train": 16, "test": 13}, n_gradients=9)
    return open_archive(path)


@pytest.fixture(scope="module")
def results(archive):
    return analyze.run(archive)


@pytest.fixture(params=CARDS)
def card(request):
    return CARDS[request.param]


@pytest.fixture
def result(card, results):
    if card.name in results.skipped and "failed" not in results.skipped[card.name]:
        pytest.skip(results.skipped[card.name])
    return results[card.name]


def replayed(card):
    return "states" in card.reads


def test_card_is_complete(card):
    contract.check_card(card)


def test_result_is_what_the_card_announces(card, result):
    contract.check_result(card, result)


def test_plot_draws(card, result):
    contract.check_plot(card, result)


def test_one_snapshot_at_a_time_equals_all_at_once(card, result, archive):
    contract.check_blocks(card, archive, contract.returned_by(card, archive))


def test_arguments_are_left_alone(card, result, archive):
    contract.check_inputs_unchanged(card, archive)


def test_undefined_arguments_are_no_error(card, result, archive):
    contract.check_nan(card, archive)


def test_order_of_examples_does_not_matter(card, result, archive):
    if card.name in contract.POSITIONAL or replayed(card):
        pytest.skip(contract.POSITIONAL.get(card.name, "its examples are inside the replayed states"))
    contract.check_order_of_examples(card, archive)


def test_most_metrics_were_checked(results):
    assert len(results) >= 20
    assert not [reason for reason in results.skipped.values() if "failed" in reason]


def test_missing_arrays_are_named(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1), gram=False)
    with pytest.raises(MissingTraceError, match=r"stiffness: needs `gram` of a probe.*; record gradients="):
        analyze.run(tmp_path / "run.zarr", ["stiffness"])
