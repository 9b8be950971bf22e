"""Training minibatches from the loop to the archive to the metrics that read them."""

import functools
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import analyze
import tracer
from tests.loops import blobs, mlp, run_loop
from tests.tracer.recorder.test_neutrality import MODELS, OPTIMIZERS, training
from tracer.errors import MissingTraceError, RecordError
from tracer.recorder import RecordWarning


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """An archive of a loop with smaller last batches, and the weights and inputs of every update."""
    path = tmp_path_factory.mktemp("minibatch") / "run.zarr"
    x, y = blobs(20)
    record = functools.partial(tracer.record, data=TensorDataset(x, y), data_inputs=True)
    run_loop(path, data=(x, y), minibatch=True, snapshots=tracer.every(1), record=record, epochs=3)
    return tracer.open(path), x, y


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """Archives with nothing of minibatches, and with a part of it."""
    folder = tmp_path_factory.mktemp("lacking")
    run_loop(folder / "none.zarr", epochs=1)
    run_loop(folder / "some.zarr", minibatch=["loss", "sums"], epochs=1)
    return folder / "none.zarr", folder / "some.zarr"


def weighted(archive, step):
    model = mlp()
    model.load_state_dict({name: torch.from_numpy(w) for name, w in archive.weights(step).items()})
    return model


def test_every_update_is_as_its_forward_pass_saw_it(recorded):
    archive, x, y = recorded
    seen = archive.minibatch
    assert seen.steps.tolist() == list(range(1, 10)) and np.diff(seen.offsets).tolist() == [8, 8, 4] * 3
    assert seen.attributes["mode"] == "train" and "9 updates" in repr(seen)
    for step in seen.steps:
        ids = archive.ids(step)
        np.testing.assert_array_equal(seen.ids(step), ids)
        model = weighted(archive, step - 1)
        with torch.no_grad():
            first = model[0](x[ids])
            hidden = model[1](first)
            second = model[2](hidden)
            outputs = model[4](model[3](second))
        losses = F.cross_entropy(outputs, y[ids], reduction="none")
        np.testing.assert_allclose(seen.loss(step), losses, rtol=1e-6)
        assert seen.loss(step).mean() == pytest.approx(archive.rows["loss"][step], rel=1e-6)
        np.testing.assert_array_equal(seen.correct(step), (outputs.argmax(1) == y[ids]).numpy())
        pre, post = seen.sums(step)
        np.testing.assert_allclose(
            pre, torch.stack([v.sum(1) for v in (first, second, outputs)], 1), rtol=1e-5
        )
        np.testing.assert_allclose(post[:, 1], model[3](second).sum(1).detach(), rtol=1e-5)
        np.testing.assert_array_equal(seen.masks("1", step), (first > 0).numpy())
        np.testing.assert_array_equal(seen.masks("3", step), (second > 0).numpy())


def test_columns_are_read_in_any_order_of_updates(recorded):
    seen = recorded[0].minibatch
    np.testing.assert_array_equal(seen.rows("pre", [2, 3]), seen.rows("pre")[8:20])
    np.testing.assert_array_equal(seen.rows("loss", [3, 1]), np.concatenate([seen.loss(3), seen.loss(1)]))
    assert seen.rows("ids", []).shape == (0,)


def test_what_was_not_captured_is_named(recorded, lacking):
    none, some = map(tracer.open, lacking)
    seen = recorded[0].minibatch
    with pytest.raises(MissingTraceError, match="no ids of update 0"):
        seen.loss(0)
    with pytest.raises(MissingTraceError, match="did you mean"):
        seen.rows("losss")
    with pytest.raises(MissingTraceError, match="no site '2'"):
        seen.masks("2", 1)
    with pytest.raises(MissingTraceError, match="no correct; record with"):
        some.minibatch.correct(1)
    with pytest.raises(MissingTraceError, match="no masks of minibatches"):
        some.minibatch.masks("1", 1)
    assert some.card["minibatch"]["captured"] == ["loss", "sums"]
    with pytest.raises(MissingTraceError, match="record with minibatch=True"):
        none.minibatch


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(tracer.every(4), [4, 8]), (tracer.epochs(), [3, 6, 9]), (tracer.at([2, 9]), [2, 9])],
)
def test_masks_are_taken_at_their_schedule(tmp_path, schedule, steps):
    run_loop(tmp_path / "run.zarr", data=blobs(20), minibatch={"masks": schedule}, epochs=3)
    archive = tracer.open(tmp_path / "run.zarr")
    assert archive.minibatch.mask_steps.tolist() == steps
    ends = [step for step in steps if step % 3 == 0]
    assert set(ends) <= set(archive.epoch_ends.tolist()) <= {3, 6, 9}
    assert archive.minibatch.masks("1", steps[-1]).shape == (len(archive.ids(steps[-1])), 8)


def accumulate(path, every=2, n=20, **options):
    """Updates made of two batches each; returns model, x and y."""
    model, (x, y) = mlp(), blobs(n)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    options = {"minibatch": True, "loss": F.cross_entropy, "probes": {"train": (x[:6], y[:6])}, **options}
    with tracer.record(path, model, optimizer, **options) as run:
        for _ in range(2):
            for i, (inputs, targets) in enumerate(run.batches(loader), start=1):
                F.cross_entropy(model(inputs), targets).backward()
                if i % every == 0 or i == len(loader):
                    optimizer.step()
                    optimizer.zero_grad()
    return x, y


def test_accumulated_batches_follow_each_other(tmp_path):
    x, y = accumulate(tmp_path / "run.zarr", snapshots=tracer.every(1))
    archive = tracer.open(tmp_path / "run.zarr")
    assert archive.rows["n_ids"].tolist() == [0, 8, 8, 4, 8, 8, 4]
    for step in range(1, 7):
        ids, model = archive.ids(step), weighted(archive, step - 1)
        with torch.no_grad():
            losses = F.cross_entropy(model(x[ids]), y[ids], reduction="none")
            np.testing.assert_array_equal(archive.minibatch.masks("1", step), (model[0](x[ids]) > 0).numpy())
        np.testing.assert_allclose(archive.minibatch.loss(step), losses, rtol=1e-6)


def mask_steps(path, batches, every, epochs, schedule, **options):
    """Ends of epochs and steps of minibatch masks, where updates take `every` batches and go on across epochs."""
    model = mlp()
    optimizer, made = torch.optim.SGD(model.parameters(), lr=0.1), 0
    loader = DataLoader(TensorDataset(*blobs(4 * batches)), batch_size=4)
    probes = {"train": tracer.Probe(*blobs(6), capture={"gradients": 0})}
    options |= {"loss": F.cross_entropy, "probes": probes, "minibatch": {"masks": schedule}}
    with tracer.record(path, model, optimizer, **options) as run:
        for _ in range(epochs):
            for inputs, targets in run.batches(loader):
                F.cross_entropy(model(inputs), targets).backward()
                made += 1
                if made % every == 0:
                    optimizer.step()
    archive = tracer.open(path)
    return archive.epoch_ends.tolist(), archive.minibatch.mask_steps.tolist()


# One batch left over, or two.
@pytest.mark.parametrize(
    ("batches", "every"),
    [(5, 2), (2, 2), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((4, 1), (5, 3)))],
)
def test_masks_of_ends_of_epochs_are_of_the_very_updates_that_end_them(tmp_path, batches, every):
    ends, steps = mask_steps(tmp_path / "a", batches, every, 4, tracer.epochs(), snapshots=tracer.every(1))
    assert steps == ends and len(ends) == 4
    ends, steps = mask_steps(tmp_path / "b", batches, every, 4, tracer.epochs(2), snapshots=tracer.every(1))
    assert steps == ends[1::2]


def test_one_schedule_serves_several_runs_and_several_streams(tmp_path):
    schedule = tracer.epochs(2)
    for name in "ab":
        ends, steps = mask_steps(tmp_path / name, 3, 1, 5, schedule, snapshots=schedule)
        assert ends == [6, 12, 15] and steps == [6, 12]
        assert tracer.open(tmp_path / name).steps("masks").tolist() == [0, 6, 12, 15]


def test_batches_without_targets_get_them_from_the_user(tmp_path):
    x, y = blobs(12)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader([{"x": x[i], "y": y[i]} for i in range(12)], batch_size=4)
    options = {"loss": F.cross_entropy, "minibatch": True, "probes": {"train": (x, y)}}

    def train(path, give):
        with tracer.record(path, model, optimizer, **options) as run:
            for batch in run.batches(loader):
                losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
                losses.mean().backward()
                optimizer.step()
                if give:
                    run.step(targets=batch["y"])
        return tracer.open(path).minibatch, losses.detach()

    seen, losses = train(tmp_path / "given.zarr", True)
    np.testing.assert_allclose(seen.loss(3), losses, rtol=1e-6)
    with pytest.warns(RecordWarning, match=r"run.step\(targets=...\)"):
        seen, _ = train(tmp_path / "not.zarr", False)
    assert np.isnan(seen.rows("loss")).all() and set(seen.rows("correct")) == {-1}
    assert np.isfinite(seen.rows("pre")).all()


@pytest.mark.filterwarnings("ignore::tracer.recorder.RecordWarning")
def test_what_cannot_be_known_is_told_and_the_rest_goes_on(tmp_path):
    x, values, model = blobs(8)[0], torch.rand(8, 3), mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(
        tmp_path / "run.zarr", model, optimizer, loss=F.mse_loss, probes={}, minibatch=True
    ) as run:
        for inputs, targets in run.batches(DataLoader(TensorDataset(x, values), batch_size=4)):
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
    archive = tracer.open(tmp_path / "run.zarr")
    assert np.isfinite(archive.minibatch.rows("loss")).all()
    assert set(archive.minibatch.rows("correct")) == {-1}
    inside, classes = archive.attributes["notes"]
    assert (
        inside.startswith("No sums and masks of minibatches") and "no answer is correct or wrong" in classes
    )
    with pytest.raises(RecordError, match="did you mean"):
        tracer.record(tmp_path / "wrong.zarr", model, optimizer, minibatch={"sum"})


def test_hooks_go_with_an_exception_in_the_loop(tmp_path):
    model, (x, y) = mlp(), blobs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"loss": F.cross_entropy, "minibatch": True, "probes": {"train": (x, y)}}
    with pytest.raises(KeyError), tracer.record(tmp_path / "run.zarr", model, optimizer, **options) as run:
        for inputs, targets in run.batches(DataLoader(TensorDataset(x, y), batch_size=6)):
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            if run._row.step == 2:
                raise KeyError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    archive = tracer.open(tmp_path / "run.zarr")
    assert (
        archive.state == "interrupted"
        and len(archive.minibatch.rows("loss")) == archive.rows["n_ids"].sum() == 12
    )


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(name, optimizer, marks=[pytest.mark.slow] * ((name, optimizer) != ("cnn", "sgd")))
        for name in MODELS
        for optimizer in OPTIMIZERS
    ],
)
def test_training_is_bit_identical_with_everything_captured(name, optimizer):
    build, shape = MODELS[name]
    x, y = blobs(12, shape)
    options = {"minibatch": {"loss": True, "correct": True, "sums": True, "masks": tracer.every(1)}}
    verdict = tracer.check(training(build, shape, optimizer, **options, data=TensorDataset(x, y)))
    assert set(verdict.table.values()) == {"identical"}, str(verdict)


def test_minibatch_metrics_run_end_to_end(recorded):
    archive = recorded[0]
    results = analyze.run(archive, ["minibatch_cna", "minibatch_forgetting", "complexity"])
    cna = results["minibatch_cna"]
    assert cna["step"].values.tolist() == list(range(1, 10)) and cna["epoch"].values[-1] == 3
    np.testing.assert_allclose(cna["loss"], archive.rows["loss"][1:])
    alpha = dict(zip(archive.data.ids.tolist(), archive.data.alpha.tolist(), strict=True))
    for step in (1, 6):
        beta = np.diff(archive.minibatch.sums(step)[0][:, :2].astype(float))[:, 0]
        a = np.array([alpha[i] for i in archive.ids(step).tolist()])
        expected = np.corrcoef(a, beta)[0, 1] if np.ptp(a) > 0 else np.nan
        np.testing.assert_allclose(cna["pearson"].sel(step=step), expected, rtol=1e-6)
    history = {i: [] for i in range(20)}
    for step in archive.minibatch.steps:
        for i, right in zip(archive.ids(step).tolist(), archive.minibatch.correct(step), strict=True):
            history[i].append(int(right))
    events = [sum(a > b for a, b in pairwise(h)) if any(h) else np.inf for h in history.values()]
    forgot = results["minibatch_forgetting"]
    np.testing.assert_array_equal(forgot["events"], events)
    assert forgot["n_presentations"].values.tolist() == [3] * 20


def test_blocks_of_updates_give_what_all_at_once_give(recorded):
    archive = recorded[0]
    whole = analyze.run(archive, ["minibatch_cna"])["minibatch_cna"]
    small = analyze.run(archive, ["minibatch_cna"], memory=3000)["minibatch_cna"]
    np.testing.assert_array_equal(whole["pearson"], small["pearson"])


def test_metrics_say_how_to_record_what_they_lack(lacking):
    none, some = lacking
    with pytest.raises(MissingTraceError, match="record with minibatch=True"):
        analyze.run(none, ["minibatch_forgetting"])
    with pytest.raises(MissingTraceError, match=r"record with minibatch=\{.correct.\}"):
        analyze.run(some, ["minibatch_forgetting"])
    with pytest.raises(MissingTraceError, match="record with data=dataset"):
        analyze.run(some, ["minibatch_cna"])


def test_an_archive_without_probes_still_has_losses(tmp_path):
    x, y = blobs()
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(
        tmp_path / "a.zarr", model, optimizer, loss=F.cross_entropy, probes={}, minibatch={"loss", "correct"}
    ) as run:
        for inputs, targets in run.batches(DataLoader(TensorDataset(x, y), batch_size=8)):
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    events = analyze.run(tmp_path / "a.zarr", ["minibatch_forgetting"])["minibatch_forgetting"]
    assert events.sizes["id"] == 24


def test_columns_count_as_memory(tmp_path):
    """Masks of minibatches alone may wait for 8 MiB: with them 4 MiB do not do, and the refusal says why."""
    x, y = blobs(20)
    probes = {"train": tracer.Probe(x, y, capture={"gradients": 4, "masks": 4})}
    options = {"data": (x, y), "record": functools.partial(tracer.record, memory=4 << 20), "probes": probes}
    run_loop(tmp_path / "without.zarr", **options)
    with pytest.raises(RecordError, match="columns of minibatch="):
        run_loop(tmp_path / "with.zarr", minibatch=True, **options)
