"""Whatever is given to `record`, it records or says in one sentence what is wrong; no other error comes out."""

import itertools
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.loops import blobs
from tracer.errors import TracerError
from tracer.recorder import RecordWarning

X, Y = blobs(8)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


class Odd(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.inner, self.form = mlp(), form

    def forward(self, x):
        return self.form(self.inner(x))


def lazily():
    return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3))


def on_meta():
    return mlp().to("meta")


MODELS = {
    "mlp": mlp,
    "lazy": lazily,
    "meta": on_meta,
    "double": lambda: mlp().double(),
    "half": lambda: mlp().half(),
    "no module": lambda: lambda x: x,
    "none": lambda: None,
    "a name": lambda: "resnet18",
    "gives none": lambda: Odd(lambda out: None),
    "gives a number": lambda: Odd(lambda out: out.sum()),
    "gives whole numbers": lambda: Odd(lambda out: out.argmax(1)),
    "gives a text": lambda: Odd(lambda out: "cat"),
    "gives fewer": lambda: Odd(lambda out: out[:2]),
    "gives nan": lambda: Odd(lambda out: out * float("nan")),
    "raises": lambda: Odd(lambda out: {}["key"]),
    "raises an assertion": lambda: Odd(lambda out: next(iter(()))),
    "no parameters": lambda: nn.ReLU(),
    "empty": lambda: nn.Sequential(),
}
INPUTS = {
    "tensor": X,
    "array": X.numpy(),
    "list": X.tolist(),
    "narrow": X[:, :5],
    "flat": X[:, 0],
    "deep": X[:, :, None],
    "whole": X.long(),
    "texts": ["a"] * 8,
    "objects": np.array([object()] * 8),
    "ragged": [[1.0], [1.0, 2.0]],
    "none": None,
    "number": 3,
    "empty": X[:0],
    "empty list": [],
    "sparse": X.to_sparse(),
    "meta": X.to("meta"),
    "complex": X.to(torch.complex64),
    "nan": X * float("nan"),
    "nested": (X, (X, X)),
    "dict": {"x": X},
    "dict of none": {"x": None},
    "lengths": (X, X[:3]),
    "generator": (x for x in X),
    "set": {1, 2},
    "bool": X > 0,
    "strings": np.array(["a"] * 8),
    "dates": np.array(["2024-01-01"] * 8, dtype="datetime64[D]"),
}
TARGETS = {
    "classes": Y,
    "int32": Y.int(),
    "int8": Y.to(torch.int8),
    "list": Y.tolist(),
    "floats": Y.float(),
    "one hot": F.one_hot(Y, 3).float(),
    "too large": Y + 7,
    "negative": Y - 9,
    "column": Y[:, None],
    "fewer": Y[:5],
    "none": None,
    "texts": ["cat"] * 8,
    "number": 1,
    "sparse": F.one_hot(Y, 3).to_sparse(),
    "bool": Y > 0,
    "tuple": (Y, Y),
}
LOSSES = {
    "cross entropy": F.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "class": nn.CrossEntropyLoss,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy,
    "mean": lambda o, t: F.cross_entropy(o, t),
    "number": lambda o, t: 1.0,
    "none": lambda o, t: None,
    "raises": lambda o, t: {}["x"],
    "one argument": lambda o: o.sum(),
    "text": "cross_entropy",
    "detached": lambda o, t: F.cross_entropy(o.detach(), t, reduction="none"),
    "whole": lambda o, t: (o.argmax(1) != t).long(),
    "infinite": lambda o, t: F.cross_entropy(o, t, reduction="none") / 0,
}
OBJECTIVES = {
    "plain": lambda m, x, t: (m(x), F.cross_entropy(m(x), t, reduction="none")),
    "mean": lambda m, x, t: (m(x), F.cross_entropy(m(x), t)),
    "one value": lambda m, x, t: m(x),
    "three values": lambda m, x, t: (m(x), m(x).sum(1), t),
    "no tensors": lambda m, x, t: ("a", "b"),
    "list of losses": lambda m, x, t: (m(x), [1.0] * len(x)),
    "half a mapping": lambda m, x, t: {"outputs": m(x)},
    "wrong correct": lambda m, x, t: {"outputs": m(x), "losses": m(x).sum(1), "correct": "yes"},
    "long correct": lambda m, x, t: {"outputs": m(x), "losses": m(x).sum(1), "correct": torch.ones(50)},
    "two arguments": lambda m, x: (m(x), m(x).sum(1)),
    "raises": lambda m, x, t: 1 / 0,
    "none": lambda m, x, t: None,
    "text": "objective",
}
PROBES = {
    "pair": lambda x, t: {"train": (x, t)},
    "tensor": lambda x, t: {"train": x},
    "list": lambda x, t: [(x, t)],
    "triple": lambda x, t: {"train": (x, t, x)},
    "number": lambda x, t: {1: (x, t)},
    "folder": lambda x, t: {"a/b": (x, t)},
    "text": lambda x, t: {"train": "mnist"},
    "string": lambda x, t: "train",
    "same split": lambda x, t: {"a": (x, t), "b": tracer.Probe(x, t, split="a")},
    "ids": lambda x, t: {"train": tracer.Probe(x, t, ids=[0] * 8)},
    "few ids": lambda x, t: {"train": tracer.Probe(x, t, ids=[0, 1])},
    "float ids": lambda x, t: {"train": tracer.Probe(x, t, ids=[0.5] * 8)},
    "text ids": lambda x, t: {"train": tracer.Probe(x, t, ids=["a"] * 8)},
    "capture": lambda x, t: {"train": tracer.Probe(x, t, capture={"maks": 3})},
    "raw": lambda x, t: {"train": tracer.Probe(x, t, raw=[1])},
    "group": lambda x, t: {"train": tracer.Probe(x, t, group=[[1, 2], [3]])},
    "shared": lambda x, t: {"train": tracer.Probe(x, t, shared=["edges"])},
    "shared place": lambda x, t: {"train": tracer.Probe((x, 3), t, shared=[1])},
    "all shared": lambda x, t: {"train": tracer.Probe((x,), t, shared=[0])},
}
OPTIONS = {
    "optimizer": ["adam", 3, [], [None], nn.Linear(1, 1), torch.optim.SGD],
    "snapshots": ["epoch", 3, [1, 2], {"weights": 3}, {"wieghts": tracer.every(1)}, tracer.every],
    "gradients": ["exakt", None, 3, True],
    "memory": [0, -1, "1 parsec", None, 10, 2.5],
    "cost": [0, -1, "5", None, float("nan"), True],
    "batch_size": [0, -1, "64"],
    "chunk": [0, -1, "8", 2.5],
    "minibatch": ["loss", ["los"], 3, {"masks": 3}],
    "data": [3, "mnist", iter([1])],
    "durability": ["disk"],
    "on_error": ["ignore"],
    "resume": ["yes", -1],
    "budget": ["5%", -0.1, 0, 7, float("nan")],
    "mirror": [3, "wandb"],
    "attributes": [3, [1], {"grid": np.zeros(1 << 15)}],
    "title": [3],
    "exists": ["append", True, None],
    "path": [3, None, "a\0b", ""],
}


def attempt(folder, number, **given):
    """Record one update, or the sentence with which it is refused."""
    path = given.pop("path", folder / f"{number}.zarr")
    model = given.pop("model") if "model" in given else mlp()
    optimizer = given.pop("optimizer", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with tracer.record(path, model, optimizer, **given) as run:
                if optimizer is None:
                    run.step()
        except TracerError as error:
            sentence = str(error)
            assert "\n" not in sentence and len(sentence) < 900, sentence
            assert "Traceback" not in sentence
            return sentence
    return None


def plain(**changes):
    given = {"probes": {"train": (X, Y)}, "loss": F.cross_entropy, **changes}
    return {name: value for name, value in given.items() if not (name == "loss" and "objective" in given)}


ONE = {
    **{f"model: {name}": lambda make=make: plain(model=make()) for name, make in MODELS.items()},
    **{f"inputs: {name}": lambda x=x: plain(probes={"train": (x, Y)}) for name, x in INPUTS.items()},
    **{f"targets: {name}": lambda t=t: plain(probes={"train": (X, t)}) for name, t in TARGETS.items()},
    **{f"loss: {name}": lambda loss=loss: plain(loss=loss) for name, loss in LOSSES.items()},
    **{f"objective: {name}": lambda goal=goal: plain(objective=goal) for name, goal in OBJECTIVES.items()},
}
FINE = {
    *("model: mlp", "model: no parameters", "model: empty", "model: gives nan"),
    *("inputs: tensor", "inputs: array", "inputs: nan"),
    *("targets: classes", "targets: list", "targets: one hot", "loss: cross entropy", "loss: module"),
    *("loss: infinite", "loss: detached", "loss: whole", "loss: mean", "objective: plain"),
}
# For every day: those that are refused in places of their own.
QUICK = {
    *("model: lazy", "model: meta", "model: no module", "model: raises", "model: gives fewer"),
    *("inputs: narrow", "inputs: ragged", "inputs: objects", "inputs: lengths", "inputs: sparse"),
    *("targets: int32", "targets: fewer", "targets: texts", "loss: text", "loss: one argument"),
    *("objective: mean", "objective: long correct", "objective: list of losses", "objective: raises"),
}


def marked(name):
    return pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("name", [marked(name) for name in ONE])
def test_one_thing_wrong(tmp_path, name):
    said = attempt(tmp_path, 0, **ONE[name]())
    assert (said is None) == (name in FINE), said
    if said is not None:
        assert not list(tmp_path.iterdir()), "a refused recording left files behind"
        if name.startswith(("inputs", "targets", "loss", "objective")) and "must be" not in said:
            assert "'train'" in said, said


@pytest.mark.parametrize("name", PROBES)
def test_probes_in_another_form(tmp_path, name):
    def given():
        return attempt(tmp_path, 0, loss=F.cross_entropy, probes=PROBES[name](X, Y))

    try:
        said = given()
    except TracerError as error:  # of Probe itself
        said = str(error)
    assert (said is None) == (name == "pair"), said


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_another_form(tmp_path, name):
    for number, value in enumerate(OPTIONS[name]):
        try:
            said = attempt(tmp_path, number, **plain(**{name: value}))
        except TypeError as error:  # Python's own word for what is not an argument of that kind is as clear
            said = str(error)
            assert name in said, (value, said)
        assert said, (name, value)


@pytest.mark.slow
def test_several_things_wrong(tmp_path):
    draw = random.Random(0)
    for number, _ in enumerate(itertools.repeat(None, 150)):
        x, t = draw.choice([*INPUTS.values()]), draw.choice([*TARGETS.values()])
        given = {"model": draw.choice([*MODELS.values()])()}
        if draw.random() < 0.5:
            given["loss"] = draw.choice([*LOSSES.values()])
        else:
            given["objective"] = draw.choice([*OBJECTIVES.values()])
        try:
            probes = draw.choice([*PROBES.values()])(x, t)
        except TracerError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecordWarning)
            attempt(tmp_path, number, probes=probes, **given)


LIVE = mlp()


class Roundabout(nn.Module):
    """Reaches its layers through a global variable."""

    def __init__(self):
        super().__init__()
        self.inner = LIVE

    def forward(self, x):
        return LIVE(x)


def live_objective(model, x, y):
    out = LIVE(x)
    return out, F.cross_entropy(out, y, reduction="none")


def live_loss(outputs, y, reduction="mean"):
    return F.cross_entropy(outputs, y, reduction=reduction) + LIVE[0].weight.square().sum()


@pytest.mark.parametrize(
    ("model", "goal", "sentence"),
    [
        (
            LIVE,
            {"objective": live_objective},
            "objective= computes with '0.weight', .* call its first argument",
        ),
        (LIVE, {"loss": live_loss}, "loss= computes with '0.weight' of the model, .* pass objective="),
        (
            Roundabout(),
            {"loss": F.cross_entropy},
            "forward reaches 'inner.0.weight', .* reach them through self",
        ),
    ],
    ids=["objective", "loss", "forward"],
)
def test_parameters_reached_past_what_is_given(tmp_path, model, goal, sentence):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(tracer.RecordError, match=sentence):
        tracer.record(tmp_path / "a", model, optimizer, probes={"train": (X, Y)}, **goal).start()
    assert not (tmp_path / "a").exists()


def test_targets_that_lack_the_axis_of_the_outputs(tmp_path):
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(tracer.RecordError, match=r"outputs \[8, 1\] .* targets \[8\] .* y\[:, None\]"):
        tracer.record(
            tmp_path / "a", model, optimizer, loss=F.mse_loss, probes={"train": (X, X[:, 0])}
        ).start()


def test_nothing_of_pytorch_is_printed(tmp_path, capfd):
    """Targets that its loss takes, and the trace of it does not."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.warns(RecordWarning, match="cannot trace"),
        tracer.record(
            tmp_path / "a", model, optimizer, loss=F.cross_entropy, probes={"train": (X, Y.byte())}
        ) as run,
    ):
        run.flush()
    assert "Traceback" not in capfd.readouterr().err
