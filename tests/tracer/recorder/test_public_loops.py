"""Loops as public training scripts have them, recorded without being rewritten."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs, mlp
from tests.zoo import tasks
from tests.zoo.sequences import Recurrent

X, Y = blobs(12)
PROBES = {"train": (X[:6], Y[:6]), "test": blobs(6, seed=7)}


def loader(*tensors):
    return DataLoader(
        TensorDataset(*(tensors or (X, Y))), 4, shuffle=True, generator=torch.Generator().manual_seed(1)
    )


def test_a_progress_bar_over_the_batches(tmp_path):
    tqdm = pytest.importorskip("tqdm").tqdm
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    with tracer.record(tmp_path / "a", model, optimizer, loss=F.cross_entropy, probes=PROBES) as run:
        for epoch in range(2):
            with tqdm(run.batches(loader()), desc=f"epoch {epoch}", disable=None) as bar:
                assert bar.total == 3
                for step, (x, y) in enumerate(bar):
                    loss = F.cross_entropy(model(x), y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    bar.set_postfix(loss=loss.item(), step=step)
        assert run.notes == []
    with tracer.open(tmp_path / "a") as archive:
        assert archive.rows["n_ids"].tolist() == [0] + [4] * 6 and archive.epoch_ends.tolist() == [3, 6]


def test_a_loader_that_the_batches_take_the_place_of(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracer.record(tmp_path / "a", model, optimizer, loss=F.cross_entropy, probes=PROBES) as run:
        batches = run.batches(loader())
        for _ in range(2):
            for number, (x, y) in enumerate(batches):
                assert number * batches.batch_size < len(batches.dataset) == 12
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            _ = batches.colour
    with tracer.open(tmp_path / "a") as archive:
        assert archive.rows["n_ids"].tolist() == [0] + [4] * 6 and archive.epoch_ends.tolist() == [3, 6]


class Trainer:
    """Epochs in methods, the recording in an attribute, evaluation between."""

    def __init__(self, path):
        self.model = mlp()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.decay = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 2)
        self.run = tracer.record(
            path, self.model, self.optimizer, loss=nn.CrossEntropyLoss(), probes=PROBES
        ).start()

    def train_epoch(self):
        self.model.train()
        for x, y in self.run.batches(loader()):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.run.log(loss=loss)

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        right = sum(int((self.model(x).argmax(1) == y).sum()) for x, y in loader())
        self.run.log(accuracy=right / len(X))

    def fit(self):
        for _ in range(2):
            self.train_epoch()
            self.evaluate()
            self.decay.step()
        self.run.close()


def test_epochs_in_methods(tmp_path):
    trainer = Trainer(tmp_path / "a")
    trainer.fit()
    with tracer.open(tmp_path / "a") as archive:
        assert archive.state == "complete" and archive.epoch_ends.tolist() == [3, 6]
        assert np.isfinite(archive.rows["accuracy"]).tolist() == [False] * 3 + [True] + [False] * 2 + [True]
        assert np.array_equal(archive.weights(6)["0.weight"], trainer.model[0].weight.detach())


def test_two_networks_against_each_other(tmp_path):
    torch.manual_seed(0)
    gan = tasks.GAN()
    optimizers = [
        torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.9))
        for net in (gan.discriminator, gan.generator)
    ]
    probe = tracer.Probe({"noise": torch.randn(6, 3), "real": X[:6]}, None)
    with tracer.record(
        tmp_path / "a", gan, optimizers, objective=tasks.generator_loss, probes={"train": probe}
    ) as run:
        for (real,) in run.batches(loader(X)):
            noise = torch.randn(len(real), 3)
            for goal, optimizer in zip(
                (tasks.discriminator_loss, tasks.generator_loss), optimizers, strict=True
            ):
                optimizer.zero_grad()
                goal(gan, {"noise": noise, "real": real}, None)[1].mean().backward()
                optimizer.step()
    with tracer.open(tmp_path / "a") as archive:
        assert archive.rows["n_ids"].tolist() == [0, 4, 0, 4, 0, 4, 0]
        before, after = archive.weights(1), archive.weights(2)
        changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
        assert changed == {"generator"}


def test_episodes_without_a_loader(tmp_path):
    """A policy trained on what it did itself: there are no ids, and rewards are scalars."""
    torch.manual_seed(0)
    policy = tasks.ActorCritic()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    states, targets = tasks.episodes()
    with tracer.record(
        tmp_path / "a",
        policy,
        optimizer,
        objective=tasks.actor_critic,
        probes={"train": (states, targets)},
        snapshots=tracer.every(2),
    ) as run:
        for _ in range(2):
            for _ in range(3):
                state = torch.rand(4, 6)
                distribution, value = policy(state)
                action = distribution.sample()
                reward = (action == 0).float()
                loss = (
                    (value - reward) ** 2 - distribution.log_prob(action) * (reward - value.detach())
                ).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss, reward=reward.mean())
            run.end_epoch()
        assert run.notes == []
    with tracer.open(tmp_path / "a") as archive:
        assert archive.rows["n_ids"].sum() == 0 and archive.snapshots.tolist() == [0, 2, 4, 6]
        assert np.isfinite(archive.rows["reward"][1:]).all()
        assert archive.rows["epoch"].tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_backpropagation_through_time_in_pieces(tmp_path):
    """The hidden state goes on from piece to piece of a batch, each of which is an update."""
    torch.manual_seed(0)
    model, series, labels = Recurrent(), torch.randn(8, 6, 4), torch.arange(8) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def objective(net, inputs, targets):
        scores = net(inputs)[0]
        return scores, F.cross_entropy(scores, targets, reduction="none")

    probes = {"train": (series[:4, :2], labels[:4])}
    with tracer.record(tmp_path / "a", model, optimizer, objective=objective, probes=probes) as run:
        for x, y in run.batches(loader(series, labels)):
            hidden = None
            for start in (0, 2, 4):
                scores, hidden = model(x[:, start : start + 2], hidden)
                hidden = hidden.detach()
                loss = F.cross_entropy(scores, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
    with tracer.open(tmp_path / "a") as archive:
        assert archive.rows["n_ids"].tolist() == [0, 4, 0, 0, 4, 0, 0]
        assert np.isfinite(archive.rows["loss"][1:]).all()
        assert sorted(np.concatenate([archive.ids(1), archive.ids(4)]).tolist()) == list(range(8))
