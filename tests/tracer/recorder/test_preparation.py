"""What the user gives is refused in one sentence that says what it was; an objective is asked about everything."""

import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

import tracer
from tests.loops import blobs
from tracer.errors import RecordError

X, Y = blobs(8)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))


def ghost(tensor):
    model = mlp()
    model.register_buffer("ghost", tensor)
    return model


class Returns(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.inner, self.form = mlp(), form

    def forward(self, x):
        return self.form(self.inner(x))


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        raise OSError("no such image")


def run(path, model=None, probe=(X, Y), loss=F.cross_entropy, **options):
    model = model or mlp()
    with tracer.record(path, model, None, loss=loss, probes={"mine": probe}, **options) as recorder:
        recorder.step()


REFUSED = {
    "lazy": (
        {"model": nn.Sequential(nn.LazyLinear(3))},
        "Tensor '0.weight' of the model is not initialised yet",
    ),
    "meta": (
        {"model": ghost(torch.empty(3, device="meta"))},
        "Tensor 'ghost' of the model is on the meta device",
    ),
    "sparse": ({"model": ghost(torch.eye(3).to_sparse())}, "Tensor 'ghost' of the model is sparse"),
    "dtype": (
        {"model": ghost(torch.ones(3).to(torch.float8_e5m2))},
        "Tensor 'ghost' of the model is torch.float8",
    ),
    "int32 targets": (
        {"probe": (X, Y.int())},
        "Probe 'mine': the loss refuses outputs [8, 3] torch.float32 with targets [8] torch.int32",
    ),
    "shape": (
        {"probe": (X[:, :5], Y)},
        "Probe 'mine': the model refuses a batch of its inputs, [8, 5] torch.float32",
    ),
    "one too many": ({"probe": (X, Y[:7])}, "Probe 'mine': targets has 7 entries for 8 inputs"),
    "sparse probe": ({"probe": (X.to_sparse(), Y)}, "Probe 'mine': inputs are sparse"),
    "dict": (
        {"model": Returns(lambda out: {"logits": out, "hidden": out})},
        "the model returns a dict, and loss= takes models that return one tensor: pass objective=",
    ),
    "tuple": (
        {"model": Returns(lambda out: (out, out))},
        "the model returns a tuple, and loss= takes models that return one tensor: pass objective=",
    ),
    "tuple of one": (
        {"model": Returns(lambda out: (out,))},
        "Probe 'mine': the loss refuses outputs a tuple",
    ),
    "file": ({"probe": (Broken(), [0, 1])}, "Probe 'mine': item 0 of Broken cannot be read: no such image"),
    "pictures": (
        {"probe": ([(object(), 1), (object(), 0)], [0, 1])},
        "Probe 'mine'",
    ),
    "objective": (
        {"loss": None, "objective": lambda model, x, y: model(x)["logits"]},
        "Probe 'mine': objective= fails on a batch of its examples, inputs [8, 6] torch.float32 and targets [8]",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_recorded_is_refused_in_a_sentence_that_names_it(tmp_path, name):
    options, said = REFUSED[name]
    with pytest.raises(RecordError, match=re.escape(said)) as caught:
        run(tmp_path / "a.zarr", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.zarr").exists()


def test_errors_that_nobody_expected_are_one_sentence_too(tmp_path, monkeypatch):
    from tracer.probe import ProbePass

    monkeypatch.setattr(ProbePass, "observe", lambda *_: torch.zeros(2) @ torch.zeros(3))
    monkeypatch.setattr("tracer.recorder.instrument.unreached", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RecordError, match=r"The recording could not begin \(RuntimeError: .*: give probes="):
        run(tmp_path / "a.zarr")


class NoForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(4, 6)


class Diffusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(7, 6)

    def forward(self, x, t):
        return F.relu(self.inner(torch.cat([x, t[:, None]], 1)))


class OneTuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, pair):
        return {"out": self.inner(pair[0] + pair[1]), "second": pair[1].sum()}


class Steps(nn.Module):
    """Takes a hidden state."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(6, 4), nn.Linear(4, 3)

    def forward(self, x, state):
        state = self.cell(x, state)
        return self.out(F.relu(state)), state


class Graphs(nn.Module):
    """Adds up neighbours along edges (graph, 2, edge)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, nodes, edges):
        source = torch.gather(nodes, 1, edges[:, 0, :, None].expand(-1, -1, nodes.shape[2]))
        there = edges[:, 1, :, None].expand(-1, -1, nodes.shape[2])
        return self.inner(F.relu(torch.zeros_like(nodes).scatter_add(1, there, source)).mean(1))


def reconstruct(model, inputs, targets):
    if targets is not None:
        raise ValueError("there are targets")
    out = model.decoder(F.relu(model.encoder(inputs)))
    return out, F.mse_loss(out, inputs, reduction="none").mean(1)


def denoise(model, inputs, targets):
    noisy, time = inputs
    out = model(noisy, time)
    return out, F.mse_loss(out, targets, reduction="none").mean(1)


def paired(model, inputs, targets):
    out = model(inputs)["out"]
    return out, F.cross_entropy(out, targets, reduction="none")


def stepped(model, inputs, targets):
    state = inputs.new_zeros(len(inputs), 4)
    for _ in range(2):
        out, state = model(inputs, state)
    return out, F.cross_entropy(out, targets, reduction="none")


def joined(model, inputs, targets):
    out = model(inputs["nodes"], inputs["edges"])
    return out, F.cross_entropy(out, targets, reduction="none")


GRAPHS = {"nodes": torch.rand(8, 3, 2), "edges": torch.randint(0, 3, (8, 2, 4))}
OBJECTIVES = {
    "no forward, no targets": (NoForward, reconstruct, (X, None)),
    "forward(x, t)": (Diffusion, denoise, ((X, torch.rand(8)), X)),
    "one tuple": (OneTuple, paired, ((X, X), Y)),
    "hidden state": (Steps, stepped, (X, Y)),
    "edge index": (Graphs, joined, (GRAPHS, Y)),
}


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_covers_every_way_of_calling_a_model(tmp_path, name):
    make, objective, (inputs, targets) = OBJECTIVES[name]
    torch.manual_seed(0)
    model = make()
    probe = tracer.Probe(inputs, targets)
    with tracer.record(
        tmp_path / "a", model, None, objective=objective, probes={"train": probe}, gradients="exact"
    ) as run:
        run.step()
        assert run.notes == []
    archive = tracer.open(tmp_path / "a")
    outputs, losses = objective(model, inputs, targets)
    np.testing.assert_allclose(archive.probes["train"].outputs(1), outputs.detach(), rtol=1e-5, atol=1e-6)
    parameter = next(name for name, _ in model.named_parameters())
    losses[3].backward()
    np.testing.assert_allclose(
        archive.probes["train"].gradients(parameter, 1)[3],
        dict(model.named_parameters())[parameter].grad,
        rtol=1e-4,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("loss", "targets", "added"),
    [
        (nn.MSELoss(reduction="sum"), X[:, :3], True),
        (partial(F.kl_div, reduction="batchmean"), X[:, :3].softmax(1), True),
        (nn.CrossEntropyLoss(reduction="sum"), Y, False),
        (nn.MSELoss(), X[:, :3], False),
    ],
)
def test_where_a_loss_adds_up_what_is_recorded_as_a_mean_a_note_says_so(
    tmp_path, recwarn, loss, targets, added
):
    with tracer.record(
        tmp_path / "a", mlp(), None, loss=loss, probes={"mine": (X, targets)}, gradients="none"
    ) as run:
        run.step()
    said = [note for note in tracer.open(tmp_path / "a").attributes["notes"] if "adds up 3 numbers" in note]
    assert bool(said) == added and not recwarn.list
