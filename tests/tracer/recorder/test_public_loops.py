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
from tracer.verify import verify

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


def penalty_by_autograd(model, mixed):
    mixed = mixed.detach().requires_grad_(True)
    return torch.autograd.grad(model(mixed).sum(), mixed, create_graph=True)[0]


def penalty_by_func(model, mixed):
    return torch.func.vmap(torch.func.grad(lambda one: model(one[None])[0, 0]))(mixed)


@pytest.mark.parametrize("derivative", [penalty_by_autograd, penalty_by_func])
def test_a_critic_whose_loss_takes_derivatives(tmp_path, derivative):
    """A gradient penalty: no table can hold it, so that the model is probed itself, and why is told in our words."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.05)

    def objective(model, inputs, targets):
        real, made = inputs
        slope = derivative(model, (real + made) / 2)
        scores = torch.cat([model(real), model(made)], 1)
        return scores, scores[:, 1] - scores[:, 0] + 10 * (slope.norm(dim=1) - 1) ** 2

    inputs = X[:6], X[6:].contiguous()
    probes = {"train": (inputs, None)}
    with (
        pytest.warns(
            tracer.RecordWarning, match=r"since torch.export .*: a derivative is taken in it \(torch"
        ),
        tracer.record(tmp_path / "a", critic, optimizer, objective=objective, probes=probes) as run,
    ):
        for _ in range(2):
            optimizer.zero_grad()
            objective(critic, inputs, None)[1].mean().backward()
            optimizer.step()
        assert len(run.notes) == 1
    with tracer.open(tmp_path / "a") as archive:
        alone = objective(critic, tuple(x[2:3] for x in inputs), None)[1].sum()
        for (name, _), expected in zip(
            critic.named_parameters(),
            torch.autograd.grad(alone, list(critic.parameters()), allow_unused=True),
            strict=True,
        ):
            wanted = 0 if expected is None else expected.numpy()
            np.testing.assert_allclose(
                archive.probes["train"].gradients(name, 2)[2], wanted, rtol=1e-4, atol=1e-6
            )


def test_a_target_network_beside_the_model(tmp_path):
    """What the objective computes with weights of another module changes with them: a version of the table each."""
    online, target = mlp(), mlp()
    optimizer = torch.optim.SGD(online.parameters(), lr=0.1)

    def objective(model, inputs, targets):
        with torch.no_grad():
            wanted = 0.9 * target(inputs["after"]).max(1).values
        values = model(inputs["before"])
        return values, (values.gather(1, targets[:, None])[:, 0] - wanted) ** 2

    inputs = {"before": X[:6], "after": X[6:]}
    probes = {"train": (inputs, Y[:6])}
    with (
        pytest.warns(tracer.RecordWarning, match="At step 2 the model no longer computes what was traced"),
        tracer.record(
            tmp_path / "a", online, optimizer, objective=objective, probes=probes, snapshots=tracer.every(1)
        ),
    ):
        for number in range(2):
            optimizer.zero_grad()
            objective(online, inputs, Y[:6])[1].mean().backward()
            optimizer.step()
            if number == 0:
                with torch.no_grad():
                    target[0].weight += 1
    with tracer.open(tmp_path / "a") as archive:
        losses = objective(online, inputs, Y[:6])[1].detach()
        np.testing.assert_allclose(archive.probes["train"].losses(2), losses, rtol=1e-6)
    assert verify(tmp_path / "a", replay=True).ok


class Tokens(nn.Module):
    """Calls layers through a function that holds on to them, and reads a number that training changes."""

    def __init__(self):
        super().__init__()
        self.words, self.sharpness = nn.Embedding(5, 4), 1.0
        self.mlp = nn.ModuleDict({"up": nn.Linear(4, 6), "down": nn.Linear(6, 5)})
        m = self.mlp
        self.mlpf = lambda x: m.down(m.up(x).relu())

    def forward(self, tokens):
        return self.sharpness * self.mlpf(self.words(tokens))


@pytest.mark.filterwarnings("ignore::tracer.RecordWarning")
def test_layers_behind_a_function_and_a_number_that_changes(tmp_path):
    torch.manual_seed(0)
    model = Tokens()
    tokens = torch.randint(0, 5, (6, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def objective(m, x, y):
        out = m(x)
        return {"outputs": out, "losses": F.cross_entropy(out.mT, y, reduction="none").mean(1), "targets": y}

    probe = (tokens[:, :-1], tokens[:, 1:])
    with tracer.record(
        tmp_path / "a",
        model,
        optimizer,
        objective=objective,
        probes={"train": probe},
        snapshots=tracer.every(1),
    ) as run:
        for update in range(3):
            if update == 1:
                model.sharpness = 2.0
            optimizer.zero_grad()
            objective(model, *probe)["losses"].mean().backward()
            optimizer.step()
    (note,) = run.notes
    assert note.startswith("At step 2 the model no longer computes what was traced")
    losses = objective(model, *probe)["losses"]
    with tracer.open(tmp_path / "a") as archive:
        view = archive.probes["train"]
        for stream in ("outputs", "tokens", "masks", "sums", "gradients"):
            assert archive.steps(f"train/{stream}").tolist() == [0, 1, 2, 3]
        for name, parameter in model.named_parameters():
            for example, loss in enumerate(losses):
                (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
                assert np.allclose(view.gradients(name, 3)[example], gradient, atol=1e-6)


class WritesIntoItsInputs(nn.Module):
    """Scales its inputs in place, and branches on values where it is not to be traced."""

    def __init__(self, branching):
        super().__init__()
        self.inner, self.branching = mlp(), branching

    def forward(self, x):
        x.div_(4)
        return self.inner(-x if self.branching and float(x.sum()) > 1e9 else x)


@pytest.mark.parametrize("branching", [False, True], ids=["table", "eager"])
@pytest.mark.filterwarnings("ignore:A private copy:tracer.RecordWarning")
def test_a_forward_pass_that_writes_into_its_inputs(tmp_path, branching):
    model = WritesIntoItsInputs(branching)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = X[:6].clone(), Y[:6].clone()
    options = {"loss": F.cross_entropy, "snapshots": tracer.every(1)}
    with tracer.record(tmp_path / "a", model, optimizer, probes={"train": (x, y)}, **options) as run:
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(X.clone()), Y).backward()
            optimizer.step()
    assert len(run.notes) == branching and torch.equal(x, X[:6])
    losses = F.cross_entropy(model(x.clone()), y, reduction="none")
    with tracer.open(tmp_path / "a") as archive:
        view = archive.probes["train"]
        assert np.allclose(view.losses(2), losses.detach(), atol=1e-6)
        for name, parameter in model.named_parameters():
            for example, loss in enumerate(losses):
                (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True)
                assert np.allclose(view.gradients(name, 2)[example], gradient, atol=1e-6)
