"""Training loops as people write them: each update is one row, whatever made it."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tracer.recorder import RecordWarning


def recording(path, model, optimizer, **options):
    x, y = blobs()
    options = {"loss": F.cross_entropy, "probes": {"train": (x[:6], y[:6])}, **options}
    return tracer.record(path, model, optimizer, **options)


def loader(batch_size=6, **options):
    return DataLoader(TensorDataset(*blobs()), batch_size=batch_size, **options)


def sgd(model, lr=0.1, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def test_accumulation_that_ends_within_an_epoch_keeps_its_batches(tmp_path):
    model = mlp()
    optimizer = sgd(model)
    count = 0
    with recording(tmp_path / "a.zarr", model, optimizer) as run:
        for _ in range(2):
            for x, y in run.batches(loader(4)):
                F.cross_entropy(model(x), y).backward()
                count += 1
                if count % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["n_ids"].tolist() == [0, 16, 16, 16]
    assert archive.ids(2).tolist() == [*range(16, 24), *range(8)]
    assert archive.rows["epoch"].tolist() == [0, 1, 2, 2]


def test_of_two_optimizers_the_given_one_counts(tmp_path):
    generator, critic = nn.Linear(2, 6), nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    first, second = sgd(generator), sgd(critic)
    with recording(tmp_path / "a.zarr", critic, second) as run:
        for x, _ in run.batches(loader()):
            second.zero_grad()
            (critic(generator(torch.randn(6, 2))).mean() - critic(x).mean()).backward()
            second.step()
            first.zero_grad()
            critic(generator(torch.randn(6, 2))).mean().backward()
            first.step()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["n_ids"].tolist() == [0, 6, 6, 6, 6]
    assert set(archive.weights(0)) == set(critic.state_dict())


def test_a_closure_that_runs_many_times_is_one_update(tmp_path):
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    evaluations = []
    with recording(tmp_path / "a.zarr", model, optimizer) as run:
        for x, y in run.batches(loader(12)):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                evaluations.append(loss.item())
                return loss

            run.log(loss=optimizer.step(closure))
    archive = tracer.open(tmp_path / "a.zarr")
    assert len(evaluations) > 2
    assert archive.rows["n_ids"].tolist() == [0, 12, 12]
    assert archive.rows["loss"][1] == evaluations[0]


@pytest.mark.parametrize("fused", [False, True])
def test_a_scalers_skipped_updates_are_marked(tmp_path, fused):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = torch.amp.GradScaler.step
    with recording(tmp_path / "a.zarr", model, optimizer, snapshots=tracer.every(1)) as run:
        for i, (x, y) in enumerate(run.batches(loader())):
            loss = F.cross_entropy(model(x), y) * (float("inf") if i == 1 else 1.0)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["skipped"].tolist() == [False, False, True, False, False]
    assert [archive.ids(step)[0] for step in range(1, 5)] == [0, 6, 12, 18]
    weights = [archive.weights(step)["0.weight"] for step in range(5)]
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(weights)]
    assert same == [False, True, False, False]
    assert torch.amp.GradScaler.step is before
    assert scaler.get_scale() == 2.0


def test_overlapping_recordings_of_a_scaler_are_forgotten_in_whatever_order_they_close(tmp_path):
    before = torch.amp.GradScaler.step
    models = [mlp() for _ in range(3)]
    runs = [
        recording(tmp_path / str(k), model, sgd(model), probes={}).start() for k, model in enumerate(models)
    ]
    for run in runs:
        run.close()
    kept = [weakref.ref(model) for model in models]
    del models, runs, run
    gc.collect()
    assert torch.amp.GradScaler.step is before
    assert [model() for model in kept] == [None] * 3


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_recording_changes_no_gradients_and_no_scale(set_to_none, scaled):
    def train(record):
        model = mlp()
        optimizer = sgd(model, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)
        x, y = blobs()
        probes = {"train": (x[:6], y[:6])}
        with record(
            "a", model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.every(1)
        ) as run:
            for i, (inputs, targets) in enumerate(run.batches(loader(shuffle=True))):
                optimizer.zero_grad(set_to_none=set_to_none)
                loss = F.cross_entropy(model(inputs), targets) * (float("inf") if scaled and i == 1 else 1.0)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                run.log(scale=scaler.get_scale())

    verdict = tracer.check(train)
    assert verdict and set(verdict.table.values()) == {"identical"}, str(verdict)


def test_an_early_break_ends_no_epoch(tmp_path):
    model = mlp()
    optimizer = sgd(model)
    with recording(tmp_path / "a.zarr", model, optimizer, snapshots=tracer.epochs()) as run:
        for _ in range(2):
            for i, (x, y) in enumerate(run.batches(loader())):
                if i == 2:
                    break
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            run.end_epoch()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["epoch"].tolist() == [0, 1, 1, 2, 2]
    assert archive.epoch_ends.tolist() == [2, 4]
    # The batch that was fetched and not trained on belongs to the update that came next.
    assert archive.ids(3).tolist() == [*range(12, 18), *range(6)]


def test_evaluation_within_an_epoch_and_repeated_loaders(tmp_path):
    model = mlp()
    optimizer = sgd(model)
    batches = loader(persistent_workers=True, num_workers=1)
    with recording(tmp_path / "a.zarr", model, optimizer, snapshots=tracer.epochs()) as run:
        for _ in range(2):
            for x, y in run.batches(batches):
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                with torch.no_grad():
                    for inputs, _ in loader(12):
                        model(inputs)
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.epoch_ends.tolist() == [4, 8]
    for step in range(1, 9):
        first = 6 * ((step - 1) % 4)
        assert archive.ids(step).tolist() == list(range(first, first + 6))


def test_nested_loops_over_two_loaders(tmp_path):
    model = mlp()
    optimizer = sgd(model)
    with recording(tmp_path / "a.zarr", model, optimizer) as run:
        for x, y in run.batches(loader(12)):
            for inputs, targets in loader(8):
                loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["n_ids"].tolist() == [0, 12, 0, 0, 12, 0, 0]


def test_learning_rate_milestones_are_stored(tmp_path):
    model = mlp()
    optimizer = sgd(model, lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.5)
    with recording(tmp_path / "a.zarr", model, optimizer) as run:
        for x, y in run.batches(loader()):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
    archive = tracer.open(tmp_path / "a.zarr")
    assert archive.rows["lr"][1:, 0].tolist() == [1.0, 1.0, 0.5, 0.25]
    assert archive.milestones.tolist() == [3, 4]


def test_a_parameter_group_added_on_the_way_has_a_rate_from_then_on(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.1)
    with recording(tmp_path / "a.zarr", model, optimizer) as run:
        for i, (x, y) in enumerate(run.batches(loader())):
            if i == 2:
                optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.01})
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    lr = tracer.open(tmp_path / "a.zarr").rows["lr"]
    np.testing.assert_array_equal(lr[:, 0], [0.1] * 5)
    np.testing.assert_array_equal(lr[:, 1], [np.nan] * 3 + [0.01] * 2)


class Board:
    """Like TensorBoard's writer."""

    def __init__(self):
        self.seen = []
        self.url = "https://example.org/run"

    def add_scalar(self, name, value, step):
        self.seen.append((step, name, value))


class Service:
    """Like a Weights & Biases run, and breaks down after the second update."""

    def __init__(self):
        self.seen = []

    def log(self, values, step):
        if step > 2:
            raise ConnectionError("gone")
        self.seen.append((step, values))


def test_scalars_are_mirrored_and_a_broken_mirror_is_no_matter(tmp_path):
    for name, mirror in (("a", Board()), ("b", Service())):
        model = mlp()
        optimizer = sgd(model)
        with recording(tmp_path / f"{name}.zarr", model, optimizer, mirror=mirror) as run:
            for x, y in run.batches(loader()):
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                if name == "b" and archive_step(run) == 3:
                    with pytest.warns(RecordWarning, match="mirror failed at update"):
                        run.log(accuracy=0.5)
                        optimizer.step()
                else:
                    run.log(accuracy=0.5)
        if name == "a":
            assert mirror.seen == [(step, "accuracy", 0.5) for step in range(1, 5)]
            assert tracer.open(tmp_path / "a.zarr").card["mirror"]["url"] == "https://example.org/run"
        else:
            assert mirror.seen == [(step, {"accuracy": 0.5}) for step in (1, 2)]


def archive_step(run):
    return run._row.step


def test_what_cannot_be_a_mirror_is_refused(tmp_path):
    with pytest.raises(ValueError, match="add_scalar"):
        recording(tmp_path / "a.zarr", mlp(), None, mirror=3)
