"""Metrics that run the network again, through the engine."""

import numpy as np
import pytest
import torch.nn.functional as F

import analyze
import tracer
from analyze.metric import metric
from analyze.recomputed import with_activations
from analyze.reference import FORT_2019
from tests.loops import blobs, mlp, run_loop
from tracer.errors import ArchiveError, MissingTraceError
from tracer.rewrite import Additions, rewrite

CARD = {"title": "test", "reference": FORT_2019}


@metric(
    reads=("states",),
    variables={"loss": ("step", "probe")},
    scope="probe",
    passes=lambda o: o["times"],
    **CARD,
)
def mean_loss(states, times=3):
    """Mean loss of each probe."""
    return {"loss": [np.mean([state.loss(states.examples()) for _ in range(times)]) for state in states]}


@metric(reads=("states",), variables={"gain": ("step",)}, scope="train", lag=True, **CARD)
def loss_gain(states):
    """Fall of the training loss since the end of the epoch before."""
    before, gains = states.lead, []
    for state in states:
        gains.append(
            np.nan if before is None else before.loss(states.examples()) - state.loss(states.examples())
        )
        before = state
    return {"gain": gains}


@metric(reads=("states", "step"), variables={"moved": ("step", "step_2")}, whole=True, **CARD)
def moved(states, step):
    """Distance between all pairs of snapshots."""
    flat = [state.flat().double() for state in states]
    return {"moved": [[float((a - b).norm()) for b in flat] for a in flat], "step_2": step}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "run.zarr"
    run_loop(path)
    return path


def test_states_follow_scope_lag_and_whole(archive):
    results = analyze.run(archive, [mean_loss, loss_gain, moved, "generalization"])
    loss, gain = results["mean_loss"]["loss"], results["loss_gain"]["gain"]
    np.testing.assert_allclose(loss, results["generalization"]["loss"], rtol=1e-6)
    assert gain.step.values.tolist() == [0, 3, 6] and np.isnan(gain[0])
    train = loss.sel(probe="train").sel(step=[0, 3, 6]).values
    np.testing.assert_allclose(gain[1:], -np.diff(train))
    assert results["moved"]["moved"].shape == (4, 4) and (np.diag(results["moved"]["moved"]) == 0).all()


def test_long_work_is_announced_and_told_snapshot_by_snapshot(archive):
    told = []
    analyze.run(archive, [mean_loss], progress=lambda *what: told.append(what))
    assert told[0] == (0, 4, "mean_loss: about 12 passes of its examples")
    assert [done for done, *_ in told[1:]] == [1, 2, 3, 4]


def test_the_user_s_model_and_device_reach_the_states(archive):
    made = []

    def factory():
        made.append(1)
        return mlp(), F.cross_entropy

    results = analyze.run(archive, [mean_loss], replay={"model": factory, "device": "cpu", "memory": 1 << 20})
    assert made == [1]
    expected = analyze.run(archive, [mean_loss])["mean_loss"]["loss"]
    np.testing.assert_allclose(results["mean_loss"]["loss"], expected, rtol=1e-6)


def test_without_a_network_a_replay_metric_says_what_to_do(tmp_path):
    run_loop(tmp_path / "run.zarr", probes=None)
    with pytest.raises(MissingTraceError, match=r"moved: .*holds no network"):
        analyze.run(tmp_path / "run.zarr", [moved])


def test_an_archive_that_does_not_reproduce_itself_gives_no_replay_results(archive, tmp_path):
    path = tmp_path / "tampered.zarr"
    double = Additions(adapt={"weights": lambda given: {name: 2 * value for name, value in given.items()}})
    rewrite(tracer.open(archive), path, double)
    results = analyze.run(path, None)
    assert "does not reproduce" in results.skipped["cka"]
    with pytest.raises(Exception, match="does not reproduce") as caught:
        analyze.run(path, [mean_loss])
    assert isinstance(caught.value.__cause__, ArchiveError)


ACTIVATIONS = {
    "activation_cross_similarity": {},
    "cka": {},
    "svcca": {},
    "pwcca": {},
    "path_neighbours": {"kind": "activation"},
}


def test_activations_that_were_not_recorded_are_computed(tmp_path):
    for name, count in (("recorded", 24), ("not", 0)):
        probe = tracer.Probe(*blobs(), capture={"activations": count})
        run_loop(tmp_path / name, mlp(), probes={"train": probe})
    recorded, computed = (
        analyze.run(tmp_path / name, list(ACTIVATIONS), options=ACTIVATIONS) for name in ("recorded", "not")
    )
    for name in ACTIVATIONS:
        for variable, values in recorded[name].data_vars.items():
            np.testing.assert_array_equal(values, computed[name][variable])


def test_the_number_of_examples_is_the_user_s_or_that_of_the_masks(archive):
    opened = tracer.open(archive)
    views = [with_activations(opened, settings) for settings in ({}, {"examples": 5})]
    assert [view.probes["train"].capture["activations"] for view in views] == [12, 5]
    assert views[1].probes["train"].activations("1", 3).shape == (5, 8)
    assert views[0].probes["train"].steps("activations").tolist() == [0, 3, 4, 6]
    assert with_activations(views[0], {}) is views[0]


def test_nothing_is_computed_that_was_recorded_or_that_needs_what_is_missing(tmp_path):
    run_loop(tmp_path / "a", probes={"train": tracer.Probe(*blobs(), capture={"activations": 4})})
    run_loop(tmp_path / "b", probes=None)
    for name in ("a", "b"):
        opened = tracer.open(tmp_path / name)
        assert with_activations(opened, {}) is opened
