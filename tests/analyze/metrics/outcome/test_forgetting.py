import numpy as np
import xarray as xr

import analyze
from analyze.metrics.outcome.forgetting import correctness, forgetting, minibatch_forgetting
from analyze.plot import draw
from tests.oracles.forgetting import forgetting as slow
from tests.synthetic import write_archive

STEPS = np.array([0, 5, 10, 20, 40])


def test_snapshots_by_hand():
    # Never; once learned and kept; learned twice, lost twice; always.
    correct = np.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1]])
    result = forgetting(correct, STEPS)
    assert result["events"].tolist() == [np.inf, 0, 2, 0]
    np.testing.assert_array_equal(result["first_correct"], [np.nan, 10, 0, 0])
    assert result["n_observed"].tolist() == [5, 5, 5, 5]
    counts = [result[name].item() for name in ("n_unforgettable", "n_forgotten", "n_never_learned")]
    assert counts == [2, 1, 1]


def test_minibatches_by_hand():
    ids = [3, 8, 3, 5, 8, 3, 3, 8]
    correct = [1, 0, 0, 0, 1, 1, 0, 1]
    result = minibatch_forgetting(ids, correct)
    assert result["id"].tolist() == [3, 5, 8] and result["events"].tolist() == [2, np.inf, 0]
    np.testing.assert_array_equal(result["first_correct"], [1, np.nan, 2])
    assert result["n_presentations"].tolist() == [4, 1, 3]


def test_both_agree_with_following_one_example():
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 2, size=(5, 40)).astype(float)
    correct[rng.random(correct.shape) < 0.2] = np.nan
    correct[:, 0] = np.nan
    correct[:, 1] = 0
    expected = [slow([None if np.isnan(value) else int(value) for value in column]) for column in correct.T]
    events, first, observed = (list(values) for values in zip(*expected, strict=True))
    result = forgetting(correct, STEPS)
    np.testing.assert_array_equal(result["events"], events)
    np.testing.assert_array_equal(result["first_correct"], [np.nan if k is None else STEPS[k] for k in first])
    assert result["n_observed"].tolist() == observed
    ids = np.tile(np.arange(40), 5)
    flat = minibatch_forgetting(ids, correct.ravel())
    assert flat["id"].tolist() == list(range(1, 40))
    np.testing.assert_array_equal(flat["events"], events[1:])
    assert flat["n_presentations"].tolist() == observed[1:]


def test_partly_right_is_not_correct():
    assert forgetting([[1.0], [0.5], [1.0]], STEPS[:3])["events"].tolist() == [1]


def test_an_id_twice_in_a_minibatch_counts_in_the_order_given():
    assert minibatch_forgetting([1, 1, 1], [True, False, True])["events"].tolist() == [1]


def test_correctness_by_hand_with_undefined_left_out():
    result = correctness(np.array([[1, 0, 1, np.nan], [np.nan] * 4]))
    np.testing.assert_array_equal(result["accuracy"], [2 / 3, np.nan])
    assert result["n_undefined"].tolist() == [1, 4]
    np.testing.assert_array_equal(result["correct"][0], [1, 0, 1, np.nan])


def test_permuting_examples_permutes_events():
    rng = np.random.default_rng(1)
    correct, order = rng.integers(0, 2, size=(5, 30)), rng.permutation(30)
    plain, mixed = forgetting(correct, STEPS), forgetting(correct[:, order], STEPS)
    np.testing.assert_array_equal(plain["events"][order], mixed["events"])
    assert plain["n_forgotten"] == mixed["n_forgotten"]


def test_order_within_a_step_and_names_of_ids_do_not_matter():
    rng = np.random.default_rng(2)
    correct = rng.integers(0, 2, size=(6, 10))
    orders = [rng.permutation(10) for _ in range(6)]
    ids = np.concatenate(orders)
    mixed = minibatch_forgetting(
        1000 - 7 * ids, np.concatenate([correct[t, o] for t, o in enumerate(orders)])
    )
    plain = minibatch_forgetting(np.tile(np.arange(10), 6), correct.ravel())
    np.testing.assert_array_equal(plain["events"], mixed["events"][::-1])


def test_nothing_recorded():
    result = minibatch_forgetting(np.empty(0, np.int64), np.empty(0, bool))
    assert result["events"].shape == (0,) and result["n_never_learned"].item() == 0


def test_through_the_engine_and_as_figures(tmp_path):
    write_archive(tmp_path / "run.zarr", steps=(0, 1, 2))
    results = analyze.run(tmp_path / "run.zarr", ["correctness", "forgetting"])
    correct = results["correctness"]["correct"].values
    again = forgetting(correct, results["correctness"]["step"].values)
    np.testing.assert_array_equal(results["forgetting"]["events"], again["events"])
    for name, label in (("correctness", "share correct"), ("forgetting", "share of examples")):
        figure = draw(analyze.available_metrics()[name].plot, results[name])
        assert label in {axes.get_ylabel() for axes in figure.axes}


def test_figure_of_minibatches_shows_every_example_once():
    returned = minibatch_forgetting([7, 3, 7, 3, 7, 1], [1, 0, 0, 0, 1, 1])
    card = minibatch_forgetting.card
    variables = {name: (dims, returned[name]) for name, dims in card.variables.items()}
    figure = draw(card.plot, xr.Dataset(variables, coords={"id": returned["id"]}))
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 1
