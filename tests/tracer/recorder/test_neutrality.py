import random
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import tracer
from tests import zoo
from tests.loops import blobs
from tracer.errors import RecordError
from tracer.recorder.instrument import Instrument

MODELS = {
    "mlp": (lambda: zoo.MLP(dropout=0.3), (3, 2, 2)),
    "cnn": (lambda: zoo.CNN(dropout=0.3), (3, 16, 16)),
    "resnet6": (lambda: zoo.ResNet6(dropout=0.3), (3, 16, 16)),
    "resnet18": (lambda: zoo.ResNet18(dropout=0.3), (3, 16, 16)),
}
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


def training(build, shape, optimizer, **options):
    """A training function as `tracer.check` takes it: two epochs, dropout, BatchNorm in training mode."""

    def train(record):
        torch.manual_seed(0)
        model = build()
        model.train()
        chosen = OPTIMIZERS[optimizer](model.parameters())
        x, y = blobs(12, shape)
        loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
        with record(
            "run.zarr",
            model,
            chosen,
            loss=F.cross_entropy,
            probes={"train": (x[:6], y[:6]), "test": blobs(4, shape, seed=3)},
            snapshots=tracer.every(1),
            **options,
        ) as run:
            for _ in range(2):
                for inputs, targets in run.batches(loader):
                    loss = F.cross_entropy(model(inputs), targets)
                    chosen.zero_grad()
                    loss.backward()
                    chosen.step()
                    run.log(loss=loss)

    return train


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        pytest.param(
            name,
            optimizer,
            marks=[pytest.mark.slow] * (name == "resnet18" or optimizer == "adamw"),
        )
        for name in MODELS
        for optimizer in OPTIMIZERS
    ],
)
def test_training_is_bit_identical_with_and_without_recording(name, optimizer):
    verdict = tracer.check(training(*MODELS[name], optimizer))
    assert verdict.steps == 6
    assert set(verdict.table.values()) == {"identical"}, str(verdict)
    assert verdict


STREAM, NUMBERS, OWN = torch.Generator(), np.random.default_rng(0), random.Random(0)
DRAWS = {
    "torch": lambda: torch.rand((), generator=STREAM),
    "numpy": lambda: float(NUMBERS.random()),
    "python": lambda: OWN.random(),
}


class Drawing(nn.Module):
    """Draws from a generator that is no attribute of it, in eval mode too."""

    def __init__(self, draw):
        super().__init__()
        self.draw, self.body = draw, nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x):
        return self.body(x * self.draw())


class Augmented(Dataset):
    def __init__(self, draw):
        self.draw, (self.x, self.y) = draw, blobs(12)

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return self.x[i] * self.draw(), self.y[i]


def drawing_loss(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none") * (0.5 + DRAWS["torch"]())


def drawing_objective(model, inputs, targets):
    outputs = model(inputs) * (0.5 + DRAWS["numpy"]())
    return outputs, F.cross_entropy(outputs, targets, reduction="none")


# Each kind of generator and each place that holds one, which are found and put back alike.
USUAL = [("model", "python"), ("data", "torch"), ("loss", "torch"), ("objective", "numpy")]


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        *USUAL,
        *(
            pytest.param(where, kind, marks=pytest.mark.slow)
            for where in ("model", "data")
            for kind in DRAWS
            if (where, kind) not in USUAL
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::tracer.recorder.RecordWarning")
def test_generators_that_are_no_attributes_are_left_where_they_were(where, kind):
    def train(record):
        torch.manual_seed(0)
        STREAM.manual_seed(1)
        NUMBERS.bit_generator.state = np.random.default_rng(2).bit_generator.state
        OWN.seed(3)
        draw = DRAWS[kind]
        model = Drawing(draw if where == "model" else lambda: 1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        dataset = Augmented(draw) if where == "data" else TensorDataset(*blobs(12))
        drawing = {"loss": {"loss": drawing_loss}, "objective": {"objective": drawing_objective}}
        options = drawing.get(where, {"loss": F.cross_entropy})
        probes = {"train": (dataset, range(5))}
        options |= {"minibatch": where == "loss", "snapshots": tracer.every(1), "data": dataset}
        with record("run.zarr", model, optimizer, probes=probes, **options) as run:
            for inputs, targets in run.batches(DataLoader(dataset, 6)):
                outputs = model(inputs) * (1 + 0.1 * DRAWS["numpy"]())
                drawing_loss(outputs, targets).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

    verdict = tracer.check(train)
    assert verdict.steps == 2 and set(verdict.table.values()) == {"identical"}, str(verdict)


def batch_normed():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3)
    )


def forward_in_training_mode(model, optimizer, x, y):
    model(x)


def backward(model, optimizer, x, y):
    F.cross_entropy(model.eval()(x), y).backward()
    model.train()


def fresh_iterator(model, optimizer, x, y):
    iter(DataLoader(TensorDataset(x, y), shuffle=True))


def batch_norm_update(model, optimizer, x, y):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 1e-6


@pytest.mark.parametrize(
    ("perturb", "changed"),
    [
        (forward_in_training_mode, "random streams"),
        (backward, "gradients"),
        pytest.param(fresh_iterator, "random streams", marks=pytest.mark.slow),
        (batch_norm_update, "buffers"),
    ],
)
def test_the_check_catches_a_probe_that_perturbs(monkeypatch, perturb, changed):
    build, shape = batch_normed, (3, 4, 4)
    observe = Instrument.observe
    x, y = blobs(4, shape)

    def perturbing(self, *args, **options):
        perturb(self.model, None, x, y)
        return observe(self, *args, **options)

    monkeypatch.setattr(Instrument, "observe", perturbing)
    # What a probe draws is given back by the guard around all of it; here the check stands alone.
    monkeypatch.setattr("tracer.recorder.isolation.untouched_random_state", lambda *_: nullcontext())
    verdict = tracer.check(training(build, shape, "sgd"))
    assert verdict.table[changed] == "changed", str(verdict)
    assert not verdict and "NOT proved" in str(verdict)


def test_training_that_cannot_be_repeated_proves_nothing():
    seeds = iter(range(100))

    def train(record):
        torch.manual_seed(next(seeds))
        inner = training(*MODELS["mlp"], "sgd")
        with warnings.catch_warnings():
            inner(lambda *args, **options: record(*args, **options))

    def unseeded(record):
        model = torch.nn.Linear(6, 3)
        torch.nn.init.constant_(model.bias, float(next(seeds)))
        x, y = blobs()
        with record("run.zarr", model, None, loss=F.cross_entropy, probes={"train": (x, y)}) as run:
            run.step(loss=1.0)

    assert tracer.check(unseeded).table["parameters"] == "not repeatable"
    assert tracer.check(train)


def test_a_run_without_recording_has_what_a_recorder_has():
    seen = []

    def train(record):
        x, y = blobs()
        model = nn.Linear(6, 3)
        probes = {"train": (x, y)}
        with record("run.zarr", model, None, loss=F.cross_entropy, probes=probes) as run:
            seen.append((run.resumed, run.notes, run.flush()))
            run.step(ids=range(4), loss=1.0, targets=y[:4])
            run.end_epoch()

    assert tracer.check(train) and seen == [(None, [], None)] * 3


def test_each_of_several_optimizers_counts():
    def train(record):
        torch.manual_seed(0)
        model, (x, y) = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), blobs()
        phases = [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in model]
        with record("run.zarr", model, phases, loss=F.cross_entropy, probes={"train": (x, y)}):
            for phase in phases * 2:
                F.cross_entropy(model(x), y).backward()
                phase.step()

    verdict = tracer.check(train)
    assert verdict and verdict.steps == 4 and set(verdict.table.values()) == {"identical"}


def test_a_path_that_is_left_out_is_asked_for():
    with pytest.raises(tracer.RecordError, match="path is a Linear, expected a path"):
        tracer.check(lambda record: record(nn.Linear(2, 1), None, loss=F.mse_loss))


def test_a_function_that_records_nothing_is_refused():
    with pytest.raises(ValueError, match="never called"):
        tracer.check(lambda record: None)


@pytest.mark.parametrize("given", [lambda pair: pair, lambda pair: lambda: pair[0]], ids=["list", "function"])
def test_updates_of_any_optimizers_that_can_be_recorded_are_compared(given):
    def train(record):
        model, (x, y) = nn.Linear(6, 3), blobs()
        torch.nn.init.ones_(model.weight)
        pair = [torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in model.parameters()]
        run = record("run.zarr", model, given(pair), probes={}).start()
        F.cross_entropy(model(x), y).backward()
        for optimizer in pair:
            optimizer.step()
        run.close()

    verdict = tracer.check(train)
    assert verdict and verdict.steps == (2 if isinstance(given([0]), list) else 1)


def test_a_recording_that_is_never_closed_cannot_be_compared():
    def train(record):
        record("run.zarr", nn.Linear(6, 3), None, probes={}).start()

    with pytest.raises(RecordError, match=r"never closed .* run\.close\(\)"):
        tracer.check(train)
