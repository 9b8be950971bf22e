"""Which steps are counted as updates, and what is said where none is."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracer
from tests.loops import blobs
from tracer.errors import RecordError
from tracer.recorder import RecordWarning


class SAM(torch.optim.Optimizer):
    """Holds the optimizer that steps, as its public implementations do."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["e"] = 0.05 * p.grad
            p.add_(self.state[p]["e"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p in (p for group in self.param_groups for p in group["params"]):
            p.sub_(self.state[p]["e"])
        self.base.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        closure()
        self.first_step()
        closure()
        self.second_step()


class Lookahead(torch.optim.Optimizer):
    """Changes the weights once more after the step of the optimizer inside."""

    def __init__(self, inner):
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})
        self.inner, self.param_groups = inner, inner.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        self.inner.step()
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.5)


class Wrapper:
    def __init__(self, inner):
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self):
        self.inner.step()


def model_of():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def loader():
    return DataLoader(TensorDataset(*blobs(12)), 4)


def gradients(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def by_two_steps(model, optimizer, x, y):
    gradients(model, x, y)
    optimizer.first_step()
    loss = gradients(model, x, y)
    optimizer.second_step()
    return loss


def by_closure(model, optimizer, x, y):
    optimizer.step(lambda: gradients(model, x, y))
    return 0.0


def plainly(model, optimizer, x, y):
    loss = gradients(model, x, y)
    optimizer.step()
    optimizer.zero_grad()
    return loss


@pytest.mark.parametrize(
    ("make", "update"),
    [
        (lambda model: SAM(model.parameters(), 0.1), by_two_steps),
        (lambda model: SAM(model.parameters(), 0.1), by_closure),
        (lambda model: Lookahead(sgd(model)), plainly),
    ],
)
def test_optimizers_that_hold_another_one_count_each_update_once(tmp_path, make, update):
    model = model_of()
    optimizer, states = make(model), []
    with tracer.record(tmp_path / "a", model, optimizer, probes={}, snapshots=tracer.every(1)) as run:
        for x, y in run.batches(loader()):
            run.log(loss=update(model, optimizer, x, y))
            states.append(model.weight.detach().clone())
    archive = tracer.open(tmp_path / "a")
    assert archive.rows["step"].tolist() == [0, 1, 2, 3] and archive.state == "complete"
    assert archive.ids(2).tolist() == [4, 5, 6, 7]
    for step, weight in enumerate(states, start=1):
        np.testing.assert_array_equal(archive.weights(step)["weight"], weight)


def test_phases_with_optimizers_of_their_own_are_one_run(tmp_path):
    model, now = model_of(), []
    phases = [sgd(model), sgd(model, 0.5)]
    for given in (phases, lambda: now[-1]):
        now.append(phases[0])
        with tracer.record(tmp_path / f"{callable(given)}", model, given, probes={}) as run:
            for phase in phases:
                now.append(phase)
                for x, y in run.batches(loader()):
                    plainly(model, phase, x, y)
            plainly(model_of(), sgd(model_of()), x, y)  # someone else's
        archive = tracer.open(tmp_path / f"{callable(given)}")
        assert archive.rows["epoch"].tolist() == [0, 1, 1, 1, 2, 2, 2]
        last = archive.rows["lr"][-1].tolist()
        assert last == ([0.5] if callable(given) else [0.1, 0.5])


def test_optimizers_whose_steps_cannot_be_heard_are_refused(tmp_path):
    model = model_of()
    for given in (Wrapper(sgd(model)), [sgd(model), 3], lambda: "none"):
        with pytest.raises(
            RecordError, match=r"whose steps cannot be heard: give the torch optimizer inside"
        ):
            tracer.record(tmp_path / "a", model, given, probes={}).__enter__()
    assert not list(tmp_path.iterdir())


def recorded(path, model, optimizer, train):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecordWarning)
        with tracer.record(path, model, optimizer, probes={}) as run:
            train(run)
    return tracer.open(path), [str(warning.message) for warning in caught]


def test_updates_that_nobody_counts_are_told_and_their_weights_stored(tmp_path):
    model = model_of()

    def train(run):
        for epoch in range(2):
            optimizer = sgd(model, 0.1 / (1 + epoch))  # made anew
            for x, y in run.batches(loader()):
                run.log(loss=plainly(model, optimizer, x, y))

    archive, said = recorded(tmp_path / "a", model, sgd(model), train)
    assert said[0].startswith(
        "Since update 0 3 batches were delivered and 3 losses were logged and no update was"
    )
    assert said[1] == "Update 1 stands for all those after update 0 that were not counted; it has no ids"
    assert len(said) == 2 and archive.attributes["notes"] == said
    np.testing.assert_array_equal(archive.weights(1)["weight"], model.weight.detach())
    assert archive.ids(1).size == 0 and archive.state == "interrupted"


def test_an_optimizer_that_is_replaced_midway_is_noticed(tmp_path):
    model = model_of()
    first = sgd(model)

    def train(run):
        for optimizer in (first, sgd(model)):
            for x, y in run.batches(loader()):
                plainly(model, optimizer, x, y)

    archive, said = recorded(tmp_path / "a", model, first, train)
    assert said[0].startswith("Since update 3 3 batches were delivered and no update was counted")
    np.testing.assert_array_equal(archive.weights(4)["weight"], model.weight.detach())
    assert archive.rows["step"].tolist() == [0, 1, 2, 3, 4]


def test_the_optimizer_of_another_model_is_noticed_at_once(tmp_path):
    model, other = model_of(), model_of()
    archive, said = recorded(tmp_path / "a", model, sgd(other), lambda run: None)
    assert len(said) == 1 and said[0].startswith("The optimizer holds none of the parameters of the model")
    assert archive.state == "interrupted" and archive.rows["step"].tolist() == [0]


def test_batches_left_over_by_accumulation_are_no_update(tmp_path):
    model = model_of()
    optimizer = sgd(model)

    def train(run):
        for i, (x, y) in enumerate(run.batches(loader())):
            gradients(model, x, y)
            if i % 2:
                optimizer.step()

    archive, said = recorded(tmp_path / "a", model, optimizer, train)
    assert said == [] and archive.rows["step"].tolist() == [0, 1] and archive.state == "complete"


def test_forgotten_probes_are_told_apart_from_none(tmp_path):
    with pytest.warns(RecordWarning, match="No probes are given, so only ids, scalars and weights"):
        tracer.record(tmp_path / "a", model_of(), None).__enter__().close()
    tracer.record(tmp_path / "b", model_of(), None, probes={}).__enter__().close()
